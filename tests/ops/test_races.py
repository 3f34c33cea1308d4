"""The race hunt: each small kernel at real sizes, 50 times on the same input, gives the same bits. On the GPU only.

linear, attention and sample have theirs with their other tests.
"""

import numpy as np
import pytest

from rocforge.gguf.formats import Q8, SUPPORTED, Q8Cache
from rocforge.plan.ir import PAGE
from tests.ops.blocks import random_blocks
from tests.ops.rooms import make_room

pytestmark = pytest.mark.gpu
TIMES = 50
T, N, H, G, D = 300, 4096, 32, 8, 128


@pytest.fixture(scope="module")
def torch():
    make_room("gpu")  # skips where there is none
    import torch

    torch.manual_seed(0)
    return torch


def normal(torch, *shape):
    return torch.randn(shape, device="cuda")


def q8(torch, rows, columns):
    empty = lambda n, dtype: torch.full((rows, n), 99, dtype=dtype, device="cuda")
    return Q8(empty(columns, torch.int8), empty(columns // 32, torch.float32), empty(columns // 16, torch.int16))


def same_each_time(run):
    """run() -> the tensors it has written; poisoned ones were given it."""
    first = run()
    for _ in range(TIMES - 1):
        for a, b in zip(first, run(), strict=True):
            assert (a == b).all()


@pytest.mark.parametrize("rows", [1, T])
def test_quantize_norm_and_swiglu(torch, rows):
    from rocforge.kernels.activation import swiglu
    from rocforge.kernels.norm import rms_norm
    from rocforge.kernels.quantize import quantize

    x, weight, wide = normal(torch, rows, N), normal(torch, N), normal(torch, rows, 2 * 14336)

    def run():
        out = [q8(torch, rows, N), q8(torch, rows, N), q8(torch, rows, 14336), torch.full_like(x, torch.nan)]
        quantize(x, out[0])
        rms_norm(x, weight, out[1], eps=1e-5)
        swiglu(wide, out[2])
        rms_norm(x, weight, out[3], eps=1e-5)
        return [*out[0], *out[1], *out[2], out[3]]

    same_each_time(run)


@pytest.mark.parametrize("kv", ["f16", "q8_0"])
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_rope(torch, layout, kv):
    from rocforge.kernels.rope import rope_store, rope_table

    qkv, norm = normal(torch, T, (H + 2 * G) * D), normal(torch, D)
    positions = torch.arange(T, dtype=torch.int32, device="cuda")
    sequences, pages = torch.zeros_like(positions), torch.randperm(16, device="cuda").to(torch.int32)[None]
    inv_freq = torch.from_numpy(1e4 ** (-np.arange(0, D, 2) / D)).cuda()

    def cache():
        values = torch.zeros((16, G, PAGE, D), dtype=torch.int8 if kv == "q8_0" else torch.float16, device="cuda")
        return Q8Cache(values, torch.zeros((16, G, PAGE, D // 32), dtype=torch.float16, device="cuda")) if kv == "q8_0" else values

    def run():
        rotated, table, caches = qkv.clone(), torch.full((T, D), torch.nan, device="cuda"), (cache(), cache())
        rope_table(positions, inv_freq, table, scale=1.0)
        heads = {"heads": H, "kv_heads": G, "head_dim": D, "layout": layout, "eps": 1e-6}
        rope_store(rotated, table, positions, sequences, pages, norm, norm, *caches, **heads)
        return [rotated, table, *(part for c in caches for part in (c if kv == "q8_0" else (c,)))]

    same_each_time(run)


@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_embed_and_gather(torch, format):
    from rocforge.kernels.embed import embed
    from rocforge.kernels.gather import gather

    room = make_room("gpu")
    table = room.matrix(random_blocks(format, 1000, N, np.random.default_rng(0)), format, 1000, N)
    tokens = torch.randint(0, 1000, (T,), dtype=torch.int32, device="cuda")
    rows = torch.arange(T - 1, -1, -1, dtype=torch.int32, device="cuda")

    def run():
        out, picked = (torch.full((T, N), torch.nan, device="cuda") for _ in range(2))
        embed(tokens, table, out)
        gather(out, rows, picked)
        return out, picked

    same_each_time(run)
