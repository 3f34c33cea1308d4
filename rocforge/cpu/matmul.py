"""out = x W^T + bias + residual, from the weights' own blocks: what is computed, and by which kernel.

Block formats. With the parts as decode.py names them, and the activations' x, one scale a strip, for
the strip j of a row's columns 32 j .. 32 j + 31

    I = sum of (value - offset) * x                  of either half of the strip, or of all of it: int32, exact
    c = scale * I                                    rounded to float32; by halves fma(scale[1], I[1], scale[0] * I[0])
    p[j % 8] = fma(x's scale, c, p[j % 8])           from j = 0 up, the eight partial sums beginning with 0
    p[j % 8] = fma(min, x's scale * (sum of x), p[j % 8])       where there are minimums, of each half or of all

Float formats: partial sums p[l] = fma(w[k], x[k], p[l]) over k = l, l + 16, l + 32, ... . Then halves
of the partial sums are folded onto each other until one is left, acc. Either way out = (acc + bias) +
residual, and an element's bits depend on its row and its token alone: not on T, the number of threads
or the vector length of the machine. Eight partial sums are what suits both kernels of blocks: rows.py
has a lane for each of them, tiles.py a vector.

With AMX, block formats by bfloats.FEWEST tokens and more are another sum: over k, of the weight and the
activation (its scale times x), each rounded to bfloat16, in float32 and the order of the instruction
TDPBF16PS, 32 columns after the other. A bfloat16 is off by 2^-9 of itself at the most, which is less than
rounding activations to 8 bits costs. Bits are then the same for all T from FEWEST on.
"""

import numpy as np

from rocforge.cpu import bfloats, rows, tiles, tuning
from rocforge.cpu.bfloats import BFLOATS, FEWEST, as_bfloats
from rocforge.cpu.epilogue import finish
from rocforge.cpu.isa import (
    fma,
    load,
    load_bf16,
    load_bhalf,
    load_f16,
    load_f32,
    load_half,
    prefetch_far,
    stack,
    store,
    store_f32,
    sum_f32,
    zero,
)
from rocforge.cpu.layout import Matrix
from rocforge.cpu.rows import ROWS
from rocforge.cpu.threads import counter, inline, kernel, launch, share, words
from rocforge.cpu.tier import tier
from rocforge.cpu.tiles import TILES, as_records, traits
from rocforge.gguf.formats import BF16, F16, F32, Q8

load_lanes, store_lanes = load(16, "f32"), store(16, "f32")
load_lanes_f16, load_lanes_bf16 = load_f16(16), load_bf16(16)
fused, fold, zero_lanes = fma(16), sum_f32(16), zero(16, "f32")
# Tokens that a few rows are multiplied by before the next rows: floats() keeps these in a first-level cache.
TOKENS = 64
# Bytes by which their weights are asked for before the first tokens' use: see rows.py.
AHEAD_BYTES = 1024

_corner, _head = stack(4 * 8), stack(4 * 16)


# ---- float formats


@inline
def add_products(sums, w, x):
    """Partial sums of 4 rows times 2 tokens, 16 columns further."""
    a0, a1, a2, a3, b0, b1, b2, b3 = sums
    w0, w1, w2, w3 = w
    x0, x1 = x
    return (
        fused(w0, x0, a0), fused(w1, x0, a1), fused(w2, x0, a2), fused(w3, x0, a3),
        fused(w0, x1, b0), fused(w1, x1, b1), fused(w2, x1, b2), fused(w3, x1, b3),
    )  # fmt: skip


@inline
def head(load_one, size, address, n):
    """The n < 16 elements at the address, then zeros."""
    buffer = _head()
    store_lanes(buffer, zero_lanes())
    for i in range(n):
        store_f32(buffer + 4 * i, load_one(address + size * i))
    return load_lanes(buffer)


@inline
def floats(args, tid, team, load_16, load_one, size):
    w, x, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride = words(args, 11)
    corner, row, whole = _corner(), size * K, K // 16 * 16
    groups = (N + 3) // 4
    start, stop = share((T + TOKENS - 1) // TOKENS * groups, tid, team)
    for item in range(start, stop):
        t0, n0 = item // groups * TOKENS, item % groups
        n1, n2, n3 = n0 + groups, n0 + 2 * groups, n0 + 3 * groups  # far apart: see rows.py
        # Beyond the last row or token is that row or token again, not stored.
        w0, w1, w2, w3 = w + row * n0, w + row * min(n1, N - 1), w + row * min(n2, N - 1), w + row * min(n3, N - 1)
        for t in range(t0, min(t0 + TOKENS, T), 2):
            x0, x1 = x + x_stride * t, x + x_stride * min(t + 1, T - 1)
            z = zero_lanes()
            sums = z, z, z, z, z, z, z, z
            for k in range(0, whole, 16):
                i = size * k
                if t == t0:
                    for each in (w0, w1, w2, w3):
                        prefetch_far(each + i + AHEAD_BYTES)
                weights = load_16(w0 + i), load_16(w1 + i), load_16(w2 + i), load_16(w3 + i)
                sums = add_products(sums, weights, (load_lanes(x0 + 4 * k), load_lanes(x1 + 4 * k)))
            if whole < K:
                i, n = size * whole, K - whole
                weights = (
                    head(load_one, size, w0 + i, n), head(load_one, size, w1 + i, n),
                    head(load_one, size, w2 + i, n), head(load_one, size, w3 + i, n),
                )  # fmt: skip
                tokens = head(load_f32, 4, x0 + 4 * whole, n), head(load_f32, 4, x1 + 4 * whole, n)
                sums = add_products(sums, weights, tokens)
            a0, a1, a2, a3, b0, b1, b2, b3 = sums
            store_f32(corner, fold(a0))
            store_f32(corner + 4, fold(a1))
            store_f32(corner + 8, fold(a2))
            store_f32(corner + 12, fold(a3))
            store_f32(corner + 16, fold(b0))
            store_f32(corner + 20, fold(b1))
            store_f32(corner + 24, fold(b2))
            store_f32(corner + 28, fold(b3))
            for i in range(min(2, T - t)):
                for j in range(4):
                    if n0 + groups * j < N:
                        value = load_f32(corner + 16 * i + 4 * j)
                        finish(value, bias, residual, out, t + i, n0 + groups * j, residual_stride, out_stride)


FLOATS = {
    F32: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes, load_f32, 4)),
    F16: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes_f16, load_half, 2)),
    BF16: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes_bf16, load_bhalf, 2)),
}


def sums_bfloats(tokens: int) -> bool:
    """Whether block formats by as many tokens are summed up as bfloat16."""
    return tokens >= FEWEST and tier() == "amx"


def _kernels(x: "Q8 | np.ndarray", is_float: bool, T: int, K: int) -> tuple:
    """(their name, kernels by format, their default blocking, the activations as these take them).

    Without activations these are made by a weight's traits; an empty blocking leaves nothing to choose.
    """
    if is_float:
        return "floats", FLOATS, (), (x,)
    if T <= rows.most_tokens():
        return "rows", ROWS, rows.DEFAULT, x
    if sums_bfloats(T):
        return "bfloats", BFLOATS, bfloats.blocking(K), (as_bfloats(x),)
    return "tiles", TILES, tiles.blocking(K), None


def linear(
    x: "Q8 | np.ndarray",
    weights: tuple[Matrix, ...],
    bias: "np.ndarray | None",
    residual: "np.ndarray | None",
    out: np.ndarray,
) -> None:
    """out = x W^T + bias + residual, W being the rows of `weights` one below the other.

    The weights are all of block formats, and x is then a Q8 [T, K]; or all of float formats, and x
    is float32 [T, K]. bias float32 [N] or None; residual float32 [T, N] or None, which may be `out`
    itself; out float32 [T, N], N the rows of all weights together. Rows of x (if float32), residual
    and out need not lie one behind the other. The formula and its order are at the top of the file.
    """
    is_float = weights[0].format.is_float
    T, K = (x if is_float else x.values).shape
    N = sum(w.rows for w in weights)
    assert all(w.format.is_float == is_float and w.columns == K for w in weights), (K, weights)
    assert out.shape == (T, N) and out.dtype == np.float32, (out.shape, out.dtype, T, N)
    assert bias is None or bias.shape == (N,), (bias.shape, N)
    assert residual is None or residual.shape == (T, N), (residual.shape, T, N)
    assert is_float or all(part.flags.c_contiguous for part in x)
    residual_stride = 0 if residual is None else residual.strides[0]
    x_stride = (x.strides[0],) if is_float else ()
    name, kernels, default, inputs = _kernels(x, is_float, T, K)
    known = None
    start = 0
    for w in weights:
        part = slice(start, start + w.rows)
        bias_part = None if bias is None else bias[part]
        residual_part = None if residual is None else residual[:, part]
        sizes = T, w.rows, K, *x_stride, residual_stride, out.strides[0]
        blocking = default and tuning.tile(name, default, w.format.name, (w.rows, K), T)
        if kernels is TILES and traits(w.format) != known:
            known, inputs = traits(w.format), (as_records(x, w.format),)
        taken = (counter(),) if kernels in (TILES, BFLOATS) else ()
        launch(kernels[w.format], w.data, *inputs, bias_part, residual_part, out[:, part], *sizes, *taken, *blocking)
        start += w.rows
