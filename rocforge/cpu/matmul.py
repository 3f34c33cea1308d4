"""out = x W^T + bias + residual, from the weights' own blocks. Expands 256 columns of 16 rows at a time.

Block formats. With a strip's parts as decode.py names them and the activations' scale[j], for the
32 columns j of a row

    I_j = sum over the two halves of  scale * (sum of value * x)      int32, exact
    M_j = sum over the two halves of  min * (sum of x)                int32, exact
    c_j = d * I_j                     rounded to float32; formats with minimums then fma(m, M_j, c_j)
    acc = fma(scale[j], c_j, acc)     from j = 0 up, beginning with 0

Float formats: partial sums p[l] = fma(w[k], x[k], p[l]) over k = l, l + 16, l + 32, ..., then halves
folded onto each other. Either way out = (acc + bias) + residual, and an element's bits depend on its
row and its token alone: not on T, the number of threads or the vector length of the machine.
"""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.decode import D, HALF, M, MINS, RAW_BYTES, SCALES, STRIP_BYTES, VALUES
from rocforge.cpu.isa import (
    fma,
    load,
    load_bf16,
    load_bhalf,
    load_f16,
    load_f32,
    load_half,
    load_i16,
    prefetch,
    splat,
    stack,
    store,
    store_f32,
    sum_f32,
    zero,
)
from rocforge.cpu.lanes import ROWS, dot16, madd, spread_pair, to_f32
from rocforge.cpu.layout import Matrix
from rocforge.cpu.threads import inline, kernel, launch, share, words
from rocforge.gguf.formats import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8,
    Q8_0,
)

load_pairs, load_words = load(32, "i16"), load(16, "i32")
load_lanes, store_lanes, spread = load(16, "f32"), store(16, "f32"), splat(16, "f32")
load_lanes_f16, load_lanes_bf16 = load_f16(16), load_bf16(16)
fused, fold, zero_lanes = fma(16), sum_f32(16), zero(16, "f32")

# Tokens that pass by a tile of weights before the next tile is unpacked: enough to make unpacking
# cheap, few enough that their activations stay in a second-level cache.
TOKENS = 64
TILE = 256  # columns, at most, of a tile of blocks; its rows are the lanes of a vector

_tile, _raw = stack(TILE // 32 * STRIP_BYTES), stack(RAW_BYTES)
_sums, _corner, _head = stack(4 * ROWS * TOKENS), stack(4 * 8), stack(4 * 16)


@inline
def finish(value, bias, residual, out, t, n, residual_stride, out_stride):
    """out[t, n] = value + bias[n] + residual[t, n]; an address of 0 stands for what there is not."""
    if bias != 0:
        value += load_f32(bias + 4 * n)
    if residual != 0:
        value += load_f32(residual + residual_stride * t + 4 * n)
    store_f32(out + out_stride * t + 4 * n, value)


# ---- block formats


@inline
def add_strip(acc, strip, x, i, n_scales, has_mins):
    """fma(scale, c, acc): a strip of 16 rows times the 32 activations from the i-th on."""
    values, scales, sums = x
    low = dot16(strip + VALUES, values + i, load_i16(sums + i // 8))
    high = dot16(strip + VALUES + 256, values + i + 16, load_i16(sums + i // 8 + 2))
    if n_scales == 2:
        total = low * load_words(strip + SCALES) + high * load_words(strip + SCALES + HALF)
    elif n_scales == 1:
        total = (low + high) * load_words(strip + SCALES)
    else:
        total = low + high
    c = load_lanes(strip + D) * to_f32(total)
    if has_mins:
        minimum = madd(load_pairs(strip + MINS), spread_pair(sums + i // 8))
        c = fused(load_lanes(strip + M), to_f32(minimum), c)
    return fused(spread(load_f32(scales + i // 8)), c, acc)


@inline
def add_tile(acc, tile, strips, x, i, K, count, n_scales, has_mins):
    """acc[t] += the tile times the activations of token t, whose first is the (i + K * t)-th."""
    fours = count // 4 * 4
    for t in range(0, fours, 4):
        at = acc + 64 * t
        a0, a1, a2, a3 = load_lanes(at), load_lanes(at + 64), load_lanes(at + 128), load_lanes(at + 192)
        for j in range(strips):
            strip, first = tile + j * STRIP_BYTES, i + K * t + 32 * j
            a0 = add_strip(a0, strip, x, first, n_scales, has_mins)
            a1 = add_strip(a1, strip, x, first + K, n_scales, has_mins)
            a2 = add_strip(a2, strip, x, first + 2 * K, n_scales, has_mins)
            a3 = add_strip(a3, strip, x, first + 3 * K, n_scales, has_mins)
        store_lanes(at, a0)
        store_lanes(at + 64, a1)
        store_lanes(at + 128, a2)
        store_lanes(at + 192, a3)
    for t in range(fours, count):
        a0 = load_lanes(acc + 64 * t)
        for j in range(strips):
            a0 = add_strip(a0, tile + j * STRIP_BYTES, x, i + K * t + 32 * j, n_scales, has_mins)
        store_lanes(acc + 64 * t, a0)


@inline
def fetch_ahead(w, top, k, rows, row_bytes, tile_bytes, K):
    """Ask for the tile after next: 16 rows are more streams than a processor follows by itself."""
    k += 2 * TILE
    if k >= K:
        k, top = k - K, top + rows
    at = w + top * row_bytes + k // TILE * tile_bytes
    for r in range(rows):
        for i in range(0, tile_bytes, 64):
            prefetch(at + row_bytes * r + i)


@inline
def blocks(args, tid, team, unpack, layout):
    w, values, scales, sums, bias, residual, out, T, N, K, residual_stride, out_stride = words(args, 12)
    block, block_bytes, n_scales, has_mins = layout
    row_bytes = K // block * block_bytes
    # A matrix with fewer rows than a tile goes row by row, each filling all lanes.
    rows, stride = (ROWS, row_bytes) if N >= ROWS else (1, 0)
    tile, raw, acc = _tile(), _raw(), _sums()
    tiles = (N + rows - 1) // rows
    start, stop = share((T + TOKENS - 1) // TOKENS * tiles, tid, team)
    for item in range(start, stop):
        t0, n0 = item // tiles * TOKENS, item % tiles * rows
        count = min(TOKENS, T - t0)
        # The last tile begins early enough to be whole; its rows before n0 are not stored.
        top = min(n0, N - rows)
        for t in range(count):
            store_lanes(acc + 64 * t, zero_lanes())
        for k in range(0, K, TILE):
            columns = min(TILE, K - k)
            fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, K)
            for j in range(0, columns, block):
                at = w + top * row_bytes + (k + j) // block * block_bytes
                unpack(at, stride, tile + j // 32 * STRIP_BYTES, raw)
            x = values, scales, sums
            add_tile(acc, tile, columns // 32, x, K * t0 + k, K, count, n_scales, has_mins)
        for t in range(count):
            for n in range(n0, min(n0 + rows, N)):
                value = load_f32(acc + 64 * t + 4 * (n - top))
                finish(value, bias, residual, out, t0 + t, n, residual_stride, out_stride)


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
        t0, n0 = item // groups * TOKENS, item % groups * 4
        # Beyond the last row or token is that row or token again, not stored.
        w0, w1, w2, w3 = (
            w + row * n0, w + row * min(n0 + 1, N - 1), w + row * min(n0 + 2, N - 1), w + row * min(n0 + 3, N - 1)
        )  # fmt: skip
        for t in range(t0, min(t0 + TOKENS, T), 2):
            x0, x1 = x + x_stride * t, x + x_stride * min(t + 1, T - 1)
            z = zero_lanes()
            sums = z, z, z, z, z, z, z, z
            for k in range(0, whole, 16):
                i = size * k
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
                for n in range(n0, min(n0 + 4, N)):
                    value = load_f32(corner + 16 * i + 4 * (n - n0))
                    finish(value, bias, residual, out, t + i, n, residual_stride, out_stride)


LINEAR = {
    F32: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes, load_f32, 4)),
    F16: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes_f16, load_half, 2)),
    BF16: kernel(lambda args, tid, team: floats(args, tid, team, load_lanes_bf16, load_bhalf, 2)),
    Q4_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_0, decode.Q4_0)),
    Q4_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_1, decode.Q4_1)),
    Q5_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_0, decode.Q5_0)),
    Q5_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_1, decode.Q5_1)),
    Q8_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q8_0, decode.Q8_0)),
    Q2_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q2_k, decode.Q2_K)),
    Q3_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q3_k, decode.Q3_K)),
    Q4_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_k, decode.Q4_K)),
    Q5_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_k, decode.Q5_K)),
    Q6_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q6_k, decode.Q6_K)),
    IQ4_NL: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_nl, decode.IQ4_NL)),
    IQ4_XS: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_xs, decode.IQ4_XS)),
}


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
    inputs, x_stride = ((x,), (x.strides[0],)) if is_float else (x, ())
    residual_stride = 0 if residual is None else residual.strides[0]
    start = 0
    for w in weights:
        rows = slice(start, start + w.rows)
        bias_rows = None if bias is None else bias[rows]
        residual_rows = None if residual is None else residual[:, rows]
        sizes = T, w.rows, K, *x_stride, residual_stride, out.strides[0]
        launch(LINEAR[w.format], w.data, *inputs, bias_rows, residual_rows, out[:, rows], *sizes)
        start += w.rows
