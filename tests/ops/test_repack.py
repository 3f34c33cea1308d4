"""repack: what layout.fill makes of blocks, to the bit."""

import numpy as np
import pytest

from rocforge.gguf.formats import SUPPORTED
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
