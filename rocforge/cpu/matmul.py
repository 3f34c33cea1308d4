"""out = x W^T + bias + residual, from the weights' own blocks. Expands no matrix.

Block formats multiply in integers: for 32 columns j of a row, with I_j = sum of w * x and
M_j = sum of min * x in int32 (exact; w, min, a, b as decode.py has them, scale_j the activations'),

    out = ((c_0 + c_1) + c_2) + ...      c_j = scale_j * (a_j * I_j + b_j * M_j)

each operation rounded to float32, in ascending j. Few tokens (a row at a time, lanes along the
columns) and many (lanes along the tokens) compute the same sum in the same order: an output's bits
depend on nothing but its row and its token. Float formats sum 16 interleaved partial sums, fused
multiply-adds in ascending k, folded at the end.
"""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.decode import A, B, CHUNK, CHUNK_BYTES, MINS
from rocforge.cpu.isa import (
    add_in_order,
    binary,
    fma,
    heap,
    heap_free,
    join_sums,
    load,
    load_bf16,
    load_bhalf,
    load_f16,
    load_f32,
    load_half,
    load_i8,
    load_i16,
    load_i32,
    madd16,
    madd32,
    prefetch,
    splat,
    spread_pair,
    stack,
    store,
    store_f32,
    store_i16,
    store_i32,
    sum_f32,
    sums_of_4,
    to_f32x8,
    to_f32x16,
    widen8,
    zero,
)
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

load8f, load16f, load16s, load32s, load32b = load(8, "f32"), load(16, "f32"), load(16, "i16"), load(32, "i16"), load(32, "i8")
load16h, load16bf = load_f16(16), load_bf16(16)
zero16i, zero16f, splat16, store16f = zero(16, "i32"), zero(16, "f32"), splat(16, "f32"), store(16, "f32")
mul8, add8 = binary(8, "f32", "fmul"), binary(8, "f32", "fadd")
mul16, add16 = binary(16, "f32", "fmul"), binary(16, "f32", "fadd")
fma16, fold16 = fma(16), sum_f32(16)
f32 = np.float32

# Up to this many tokens go a row at a time; from the next one on, lanes along the tokens are faster.
GEMV_TOKENS = 4
# Tokens in a vector; most tokens, and most bytes of activations, that are packed at a time: half a
# usual L2 cache.
LANES, PACK_TOKENS, PACK_BYTES = 16, 64, 512 << 10
# Rows that share a pass over the packed activations.
ROWS = 4

_accumulators, _chunk = stack(4 * GEMV_TOKENS), stack(CHUNK_BYTES)
_chunks, _tile = stack(ROWS * CHUNK_BYTES), stack(4 * ROWS * PACK_TOKENS)
_tail = stack(64)


@inline
def fill(unpack, block, block_bytes, w, chunk, n):
    """Unpack n * 32 columns from `w` on into the chunk; -> where the next block begins."""
    if block == CHUNK:
        unpack(w, chunk, 0)
        return w + block_bytes
    for j in range(n):
        unpack(w + j * block_bytes, chunk, j)
    return w + n * block_bytes


# ---- few tokens: a row at a time


@inline
def products(chunk, x, j):
    """int32 x 16 whose sum is I_j."""
    return madd32(zero16i(), load32s(chunk + 64 * j), widen8(load32b(x + 32 * j)))


@inline
def add_chunk(acc, chunk, x, scales, sums):
    """acc + c_0 + ... + c_7 of a whole chunk and one token."""
    low = sums_of_4(products(chunk, x, 0), products(chunk, x, 1), products(chunk, x, 2), products(chunk, x, 3))
    high = sums_of_4(products(chunk, x, 4), products(chunk, x, 5), products(chunk, x, 6), products(chunk, x, 7))
    weighted = mul8(load8f(chunk + A), to_f32x8(join_sums(low, high)))
    shift = mul8(load8f(chunk + B), to_f32x8(madd16(load16s(chunk + MINS), load16s(sums))))
    return add_in_order(acc, mul8(load8f(scales), add8(weighted, shift)))


@inline
def add_block(acc, chunk, x, scales, sums, j):
    """acc + c_j."""
    total = 0
    for k in range(32 * j, 32 * j + 32):
        total += load_i16(chunk + 2 * k) * load_i8(x + k)
    minimum = load_i16(chunk + MINS + 4 * j) * load_i16(sums + 4 * j)
    minimum += load_i16(chunk + MINS + 4 * j + 2) * load_i16(sums + 4 * j + 2)
    a, b = load_f32(chunk + A + 4 * j), load_f32(chunk + B + 4 * j)
    return acc + load_f32(scales + 4 * j) * (a * f32(total) + b * f32(minimum))


@inline
def finish(value, bias, residual, out, t, n, out_stride, residual_stride):
    if bias:
        value += load_f32(bias + 4 * n)
    if residual:
        value += load_f32(residual + 4 * (residual_stride * t + n))
    store_f32(out + 4 * (out_stride * t + n), value)


@inline
def gemv(args, tid, team, unpack, block, block_bytes):
    w, x, scales, sums, bias, residual, out, T, N, K, out_stride, residual_stride = words(args, 12)
    acc, chunk = _accumulators(), _chunk()
    row_bytes = K // block * block_bytes
    start, stop = share(N, tid, team)
    for n in range(start, stop):
        at = w + row_bytes * n
        for t in range(T):
            store_f32(acc + 4 * t, f32(0))
        for k in range(0, K, CHUNK):
            blocks = min(CHUNK, K - k) // 32
            for ahead in range(0, block_bytes * (CHUNK // block), 64):
                prefetch(at + 2048 + ahead)
            at = fill(unpack, block, block_bytes, at, chunk, blocks)
            for t in range(T):
                xt, st, mt = x + K * t + k, scales + (K * t + k) // 8, sums + (K * t + k) // 8
                value = load_f32(acc + 4 * t)
                if blocks == 8:
                    value = add_chunk(value, chunk, xt, st, mt)
                else:
                    for j in range(blocks):
                        value = add_block(value, chunk, xt, st, mt, j)
                store_f32(acc + 4 * t, value)
        for t in range(T):
            finish(load_f32(acc + 4 * t), bias, residual, out, t, n, out_stride, residual_stride)


# ---- many tokens: lanes along the tokens


@inline
def pack(x, scales, sums, K, first, count, groups, packed, packed_scales, packed_sums):
    """`groups` groups of 16 tokens from token `first` on, lane by lane; lanes beyond `count` hold zeros.

    packed int16 [groups][K/2][16][2]: neighbouring columns side by side; packed_scales float32
    [groups][K/32][16]; packed_sums int16 [groups][K/32][16][2].
    """
    for lane in range(LANES * groups):
        g, l = lane // LANES, lane % LANES
        p, ps, pm = packed + 32 * K * g + 4 * l, packed_scales + 2 * K * g + 4 * l, packed_sums + 2 * K * g + 4 * l
        t = first + lane
        if lane < count:
            for k in range(0, K, 2):
                store_i16(p + 32 * k, load_i8(x + K * t + k))
                store_i16(p + 32 * k + 2, load_i8(x + K * t + k + 1))
            for j in range(K // 32):
                store_f32(ps + 64 * j, load_f32(scales + (K // 8) * t + 4 * j))
                store_i32(pm + 64 * j, load_i32(sums + (K // 8) * t + 4 * j))
        else:
            for k in range(0, K, 2):
                store_i32(p + 32 * k, 0)
            for j in range(K // 32):
                store_f32(ps + 64 * j, f32(0))
                store_i32(pm + 64 * j, 0)


@inline
def contribution(acc, chunk, j, total, scale, sums):
    """acc + c_j for 16 tokens; `total` is I_j, `sums` the pairs of sums."""
    minimum = to_f32x16(madd32(zero16i(), sums, spread_pair(load_i32(chunk + MINS + 4 * j))))
    weighted = mul16(splat16(load_f32(chunk + A + 4 * j)), to_f32x16(total))
    shift = mul16(splat16(load_f32(chunk + B + 4 * j)), minimum)
    return add16(acc, mul16(scale, add16(weighted, shift)))


@inline
def add_tile(tile, stride, chunks, blocks, packed, scales, sums):
    """Four rows' chunks times one group of 16 tokens, added to their float32 x 16 in the tile."""
    c0, c1, c2, c3 = chunks, chunks + CHUNK_BYTES, chunks + 2 * CHUNK_BYTES, chunks + 3 * CHUNK_BYTES
    acc0, acc1 = load16f(tile), load16f(tile + stride)
    acc2, acc3 = load16f(tile + 2 * stride), load16f(tile + 3 * stride)
    for j in range(blocks):
        i0, i1, i2, i3 = zero16i(), zero16i(), zero16i(), zero16i()
        for p in range(16 * j, 16 * j + 16):
            x = load32s(packed + 64 * p)
            i0 = madd32(i0, x, spread_pair(load_i32(c0 + 4 * p)))
            i1 = madd32(i1, x, spread_pair(load_i32(c1 + 4 * p)))
            i2 = madd32(i2, x, spread_pair(load_i32(c2 + 4 * p)))
            i3 = madd32(i3, x, spread_pair(load_i32(c3 + 4 * p)))
        scale, pairs = load16f(scales + 64 * j), load32s(sums + 64 * j)
        acc0 = contribution(acc0, c0, j, i0, scale, pairs)
        acc1 = contribution(acc1, c1, j, i1, scale, pairs)
        acc2 = contribution(acc2, c2, j, i2, scale, pairs)
        acc3 = contribution(acc3, c3, j, i3, scale, pairs)
    store16f(tile, acc0)
    store16f(tile + stride, acc1)
    store16f(tile + 2 * stride, acc2)
    store16f(tile + 3 * stride, acc3)


@inline
def gemm(args, tid, team, unpack, block, block_bytes):
    w, x, scales, sums, bias, residual, out, T, N, K, out_stride, residual_stride = words(args, 12)
    row_bytes = K // block * block_bytes
    start, stop = share(N, tid, team)
    tokens = min(PACK_TOKENS, max(LANES, PACK_BYTES // (2 * K) // LANES * LANES))
    packed = heap(tokens * K * 2 + tokens * K // 4)
    packed_scales = packed + tokens * K * 2
    packed_sums = packed_scales + tokens * K // 8
    chunks, tile = _chunks(), _tile()
    stride = 4 * PACK_TOKENS
    for first in range(0, T, tokens):
        count = min(tokens, T - first)
        groups = (count + LANES - 1) // LANES
        pack(x, scales, sums, K, first, count, groups, packed, packed_scales, packed_sums)
        for n in range(start, stop, ROWS):
            for i in range(0, ROWS * stride, 64):
                store16f(tile + i, zero16f())
            for k in range(0, K, CHUNK):
                blocks = min(CHUNK, K - k) // 32
                for r in range(ROWS):
                    at = w + row_bytes * min(n + r, stop - 1) + k // block * block_bytes
                    fill(unpack, block, block_bytes, at, chunks + CHUNK_BYTES * r, blocks)
                for g in range(groups):
                    at = 32 * (K * g + k), 2 * (K * g + k)
                    add_tile(tile + 64 * g, stride, chunks, blocks, packed + at[0], packed_scales + at[1], packed_sums + at[1])
            for r in range(min(ROWS, stop - n)):
                for t in range(count):
                    value = load_f32(tile + stride * r + 4 * t)
                    finish(value, bias, residual, out, first + t, n + r, out_stride, residual_stride)
    heap_free(packed)


# ---- float formats


@inline
def tail16(load_one, address, width, n, buffer):
    """The n < 16 values at the address as float32 x 16, zeros behind them."""
    store16f(buffer, zero16f())
    for i in range(n):
        store_f32(buffer + 4 * i, load_one(address + width * i))
    return load16f(buffer)


@inline
def floats(args, tid, team, load_16, load_one, width):
    w, x, stride, bias, residual, out, T, N, K, out_stride, residual_stride = words(args, 11)
    start, stop = share(N, tid, team)
    buffer, whole = _tail(), K // 16 * 16
    for top in range(start, stop, LANES):
        # Four tokens pass by 16 rows: both stay in the nearer caches.
        for t in range(0, T, 4):
            x0, x1 = x + 4 * stride * t, x + 4 * stride * min(t + 1, T - 1)
            x2, x3 = x + 4 * stride * min(t + 2, T - 1), x + 4 * stride * min(t + 3, T - 1)
            for n in range(top, min(top + LANES, stop)):
                row = w + width * K * n
                a0, a1, a2, a3 = zero16f(), zero16f(), zero16f(), zero16f()
                if T == 1:
                    for k in range(0, whole, 16):
                        a0 = fma16(load_16(row + width * k), load16f(x0 + 4 * k), a0)
                else:
                    for k in range(0, whole, 16):
                        weight = load_16(row + width * k)
                        a0, a1 = fma16(weight, load16f(x0 + 4 * k), a0), fma16(weight, load16f(x1 + 4 * k), a1)
                        a2, a3 = fma16(weight, load16f(x2 + 4 * k), a2), fma16(weight, load16f(x3 + 4 * k), a3)
                if whole < K:
                    weight = tail16(load_one, row + width * whole, width, K - whole, buffer)
                    a0 = fma16(weight, tail16(load_f32, x0 + 4 * whole, 4, K - whole, buffer), a0)
                    a1 = fma16(weight, tail16(load_f32, x1 + 4 * whole, 4, K - whole, buffer), a1)
                    a2 = fma16(weight, tail16(load_f32, x2 + 4 * whole, 4, K - whole, buffer), a2)
                    a3 = fma16(weight, tail16(load_f32, x3 + 4 * whole, 4, K - whole, buffer), a3)
                finish(fold16(a0), bias, residual, out, t, n, out_stride, residual_stride)
                if t + 1 < T:
                    finish(fold16(a1), bias, residual, out, t + 1, n, out_stride, residual_stride)
                if t + 2 < T:
                    finish(fold16(a2), bias, residual, out, t + 2, n, out_stride, residual_stride)
                if t + 3 < T:
                    finish(fold16(a3), bias, residual, out, t + 3, n, out_stride, residual_stride)


# ---- a kernel a format (Numba's cache wants a function of its own for each)

FEW = {
    Q4_0: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q4_0, 32, 18)),
    Q4_1: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q4_1, 32, 20)),
    Q5_0: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q5_0, 32, 22)),
    Q5_1: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q5_1, 32, 24)),
    Q8_0: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q8_0, 32, 34)),
    Q2_K: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q2_k, 256, 84)),
    Q3_K: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q3_k, 256, 110)),
    Q4_K: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q4_k, 256, 144)),
    Q5_K: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q5_k, 256, 176)),
    Q6_K: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_q6_k, 256, 210)),
    IQ4_NL: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_iq4_nl, 32, 18)),
    IQ4_XS: kernel(lambda args, tid, team: gemv(args, tid, team, decode.unpack_iq4_xs, 256, 136)),
}
MANY = {
    Q4_0: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q4_0, 32, 18)),
    Q4_1: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q4_1, 32, 20)),
    Q5_0: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q5_0, 32, 22)),
    Q5_1: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q5_1, 32, 24)),
    Q8_0: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q8_0, 32, 34)),
    Q2_K: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q2_k, 256, 84)),
    Q3_K: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q3_k, 256, 110)),
    Q4_K: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q4_k, 256, 144)),
    Q5_K: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q5_k, 256, 176)),
    Q6_K: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_q6_k, 256, 210)),
    IQ4_NL: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_iq4_nl, 32, 18)),
    IQ4_XS: kernel(lambda args, tid, team: gemm(args, tid, team, decode.unpack_iq4_xs, 256, 136)),
}
FLOATS = {
    F32: kernel(lambda args, tid, team: floats(args, tid, team, load16f, load_f32, 4)),
    F16: kernel(lambda args, tid, team: floats(args, tid, team, load16h, load_half, 2)),
    BF16: kernel(lambda args, tid, team: floats(args, tid, team, load16bf, load_bhalf, 2)),
}


def linear(
    x: "Q8 | np.ndarray",
    weights: tuple[Matrix, ...],
    bias: "np.ndarray | None",
    residual: "np.ndarray | None",
    out: np.ndarray,
) -> None:
    """out = x W^T + bias + residual, W being the rows of `weights` one below the other.

    x is a Q8 [T, K] for block formats, float32 [T, K] for float ones; out float32 [T, N], N the
    rows of all weights together; bias float32 [N] or None; residual float32 [T, N] or None, which
    may be `out` itself.
    """
    is_float = weights[0].format.is_float
    T, K = (x if is_float else x.values).shape
    assert out.shape == (T, sum(w.rows for w in weights)), (out.shape, T, weights)
    out_stride = out.strides[0] // 4
    residual_stride = 0 if residual is None else residual.strides[0] // 4
    first = 0
    for w in weights:
        assert w.columns == K and w.format.is_float == is_float, (w.format, w.columns, K)
        part = slice(first, first + w.rows)
        ends = (
            None if bias is None else bias[part],
            None if residual is None else residual[:, part],
            out[:, part],
        )
        sizes = (T, w.rows, K, out_stride, residual_stride)
        if is_float:
            launch(FLOATS[w.format], w.data, x, x.strides[0] // 4, *ends, *sizes)
        else:
            kernels = FEW if T <= GEMV_TOKENS else MANY
            launch(kernels[w.format], w.data, *x, *ends, *sizes)
        first += w.rows
