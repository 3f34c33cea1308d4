"""repack: what layout.fill makes of blocks, to the bit."""

import numpy as np
import pytest

from rocforge.gguf.formats import SUPPORTED
from tests.ops.blocks import BLOCK_FORMATS, HALVES, extreme_blocks, random_blocks, weights, with_halves
from tests.ops.rooms import make_room

ROWS, FIRST = 3, 1


@pytest.fixture(scope="module", params=["triton", pytest.param("gpu", marks=pytest.mark.gpu)])
def room(request):
    return make_room(request.param)


# 96 and 160 columns: an odd number of blocks of 32, with which a row of units is not filled.
@pytest.mark.parametrize("columns", [96, 160, 256, 1024])
@pytest.mark.parametrize("format", [f for f in SUPPORTED], ids=lambda f: f.name)
def test_planes_are_those_of_the_layout(room, format, columns):
    import torch

    from rocforge.kernels import layout, repack

    if columns % format.block:
        pytest.skip(f"rows of {format.name} are of whole blocks")
    rng = np.random.default_rng(columns)
    raw = torch.from_numpy(rng.integers(0, 256, (ROWS, format.row_bytes(columns)), dtype=np.uint8))
    made = [layout.empty(format, FIRST + ROWS + 1, columns, device) for device in ("cpu", room.device)]
    for matrix in made:
        for plane in matrix.planes:
            plane.view(torch.uint8).fill_(0x5A)
    layout.fill(made[0], raw, FIRST)
    repack.fill(made[1], raw.to(room.device), FIRST)
    for name in layout.Planes._fields:
        expected, found = (getattr(matrix.planes, name).view(torch.uint8).cpu() for matrix in made)
        assert torch.equal(expected, found), name
        assert (found[[0, -1]] == 0x5A).all(), "rows that were not given are as they were"
    expected, found = (matrix.bounds.cpu() for matrix in made)
    told = torch.isfinite(expected)  # not where a d is none
    assert torch.equal(expected[told], found[told]) and (found[[0, -1]] == 0).all()


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_bounds_of_rows(room, format):
    """The largest |d| of each row times the largest scale, or |m| where that is 2^24 times larger: no weight's parts are larger."""
    import torch

    from rocforge.kernels import layout, repack
    from rocforge.kernels.decode import DECODE
    from rocforge.kernels.weights import LIFTED

    data = np.concatenate((random_blocks(format, 3, 512, np.random.default_rng(1)), extreme_blocks(format, 512)))
    matrix = layout.empty(format, len(data), 512, room.device)
    repack.fill(matrix, torch.from_numpy(data).to(room.device))
    bounds = matrix.bounds.cpu().double().numpy()
    blocks = data.reshape(len(data), -1, format.block_bytes)
    halves = [np.ascontiguousarray(blocks[:, :, at : at + 2]).view(np.float16).astype(np.float64) for at in HALVES[format.name]]
    shares = (1.0, 2.0**-24)
    largest = np.max([np.abs(each).max((1, 2)) * share for each, share in zip(halves, shares, strict=False)], axis=0)
    assert (bounds == largest * layout.MOST_SCALE.get(format, 1)).all()
    zero = 128 if DECODE[format].SIGNED else DECODE[format].OFFSET
    most_value = max(LIFTED[format].MASK - zero, zero)
    for which, part in enumerate((most_value, 2.0**24)):
        of_part = np.abs(weights(with_halves(data.copy(), format, 1 - which, 0.0), format))
        if which < len(halves):
            assert (of_part.max(1) <= bounds * part).all()
