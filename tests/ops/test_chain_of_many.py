"""Norms and products of more than a few tokens by fewer launches: in the interpreter, which sums in one order, to the last bit
what one launch an op computes. A GPU's lanes sum a norm's squares in another order there; `test_linear.py`, `test_norm.py` and the
golden files hold it to exact arithmetic.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

import torch  # noqa: E402

from rocforge.gguf.formats import Q8, Q4_K, Q6_K, Q8_0  # noqa: E402
from rocforge.kernels import chain, gemm, launch, layout  # noqa: E402
from rocforge.kernels.backend import LAUNCHERS  # noqa: E402
from tests.ops.blocks import random_blocks  # noqa: E402
from tests.ops.rooms import make_room  # noqa: E402


def q8(T, K, device):
    empty = lambda *shape, dtype: torch.zeros(shape, dtype=dtype, device=device)
    return Q8(empty(T, K, dtype=torch.int8), empty(T, K // 32, dtype=torch.float32), empty(T, K // 16, dtype=torch.int16))


def run(launch_all, T, splits, formats, columns, device, monkeypatch):
    """norm, linear, norm, linear, the second of two matrices: (names of kernels, x, what the last linear gives)"""
    rng = np.random.default_rng(0)
    if splits:
        monkeypatch.setattr(gemm, "splits_of", lambda at, rows, tokens, units: max(1, min(splits, units // at.BU)))
    K, N = columns
    tensor = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)
    matrix = lambda format, N, K: layout.matrix(random_blocks(format, N, K, rng), format, N, K, device=device)
    x, residual, bias = tensor(T, K), tensor(T, N), tensor(N)
    out, last = torch.full((T, N), torch.nan, device=device), torch.full((T, 72), torch.nan, device=device)
    h, g = q8(T, K, device), q8(T, N, device)
    first, second = (matrix(formats[0], N, K),), (matrix(formats[1], 40, N), matrix(formats[2], 32, N))
    ops = [
        ("rms_norm", {"x": x, "weight": tensor(K), "out": h, "eps": 1e-5}),
        ("linear", {"x": h, "weights": first, "bias": bias, "residual": residual, "out": out}),
        ("rms_norm", {"x": out, "weight": tensor(N), "out": g, "eps": 1e-5}),
        ("linear", {"x": g, "weights": second, "bias": None, "residual": None, "out": last}),
    ]
    with launch.record() as program:
        launch_all(ops)
    names = [made.kernel.__name__ for made in program.launches]
    program.run()
    return names, out.cpu(), last.cpu()


def one_by_one(ops):
    for kind, given in ops:
        LAUNCHERS[kind](**given)


def together(ops):
    chain.launch_all(LAUNCHERS, ops)


@pytest.fixture
def device():
    return make_room("triton").device


@pytest.mark.parametrize("T", [9, 33])
@pytest.mark.parametrize("splits", [1, 3], ids=["whole", "parts"])
@pytest.mark.parametrize("formats,columns", [((Q4_K, Q6_K, Q4_K), (768, 256)), ((Q8_0, Q8_0, Q8_0), (416, 96))], ids=["K", "odd"])
def test_it_is_the_same(device, T, splits, formats, columns, monkeypatch):
    plain, *expected = run(one_by_one, T, splits, formats, columns, device, monkeypatch)
    fewer, *got = run(together, T, splits, formats, columns, device, monkeypatch)
    is_split = "add_parts" in plain
    assert is_split == (splits > 1)
    assert fewer[:3] == ["rms_norm_halves", "gemm_blocks", "norm_of_parts" if is_split else "rms_norm_halves"], fewer
    assert len(fewer) == len(plain) - (3 if is_split else 2), (plain, fewer)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b) and not torch.isnan(a).any()
