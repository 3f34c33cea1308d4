"""out = x W^T for many tokens: 256 columns of 16 rows are unpacked once for up to 64 of them. See matmul.py."""

from rocforge.cpu import decode
from rocforge.cpu.decode import D, HALF, M, MINS, RAW_BYTES, SCALES, STRIP_BYTES, VALUES
from rocforge.cpu.dots import add_word, madd
from rocforge.cpu.epilogue import finish
from rocforge.cpu.isa import (
    fma,
    heap,
    heap_free,
    load,
    load_f32,
    load_i16,
    load_i32,
    prefetch,
    splat,
    stack,
    store,
    store_f32,
    store_scalar,
    zero,
)
from rocforge.cpu.lanes import ROWS, spread_pair, to_f32
from rocforge.cpu.threads import inline, kernel, share, words
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0

load_bytes, load_pairs, load_words = load(64, "i8"), load(32, "i16"), load(16, "i32")
load_lanes, store_lanes, spread, spread_i32 = load(16, "f32"), store(16, "f32"), splat(16, "f32"), splat(16, "i32")
load_half_strip, store_half_strip = load(16, "i8"), store(16, "i8")
fused, zero_lanes, store_i32 = fma(16), zero(16, "f32"), store_scalar("i32")

# Tokens that pass by a tile of weights before the next tile is unpacked: enough to make unpacking
# cheap, few enough that their activations stay in a second-level cache.
TOKENS = 64
TILE = 256  # columns, at most, of a tile of blocks; its rows are the lanes of a vector
STRIPS = TILE // 32

# Activations are kept by strip, those of a strip's tokens one behind the other, a record for each.
X_VALUES = 0  # int8 [32]
X_SCALE = 32  # float32
X_STARTS = 36  # int32 [2]: what the 128 added to each weight of either half gives too much, negative
X_SUMS = 44  # int16 [2]
RECORD = 48

_tile, _raw = stack(STRIPS * STRIP_BYTES), stack(RAW_BYTES)
_acc = stack(4 * ROWS * TOKENS * STRIPS)


@inline
def gather_records(x, values, scales, sums, K, t0, count):
    """The activations of `count` tokens from t0 on, as records [K / 32][TOKENS]."""
    for t in range(count):
        for j in range(K // 32):
            i = K * (t0 + t) + 32 * j
            record = x + RECORD * (TOKENS * j + t)
            store_half_strip(record + X_VALUES, load_half_strip(values + i))
            store_half_strip(record + X_VALUES + 16, load_half_strip(values + i + 16))
            store_f32(record + X_SCALE, load_f32(scales + i // 8))
            low, high = load_i16(sums + i // 8), load_i16(sums + i // 8 + 2)
            store_i32(record + X_STARTS, -128 * low)
            store_i32(record + X_STARTS + 4, -128 * high)
            store_i32(record + X_SUMS, (low & 65535) | high << 16)


@inline
def add_strip(acc, strip, x, count, n_scales, has_mins):
    """acc[t] = fma(scale, c, acc[t]): a strip of 16 rows times the records of `count` tokens."""
    values = strip + VALUES
    # vpdpbusd multiplies unsigned by signed bytes: the values plus 128.
    w0, w1, w2, w3 = (
        load_bytes(values) ^ 128, load_bytes(values + 64) ^ 128, load_bytes(values + 128) ^ 128, load_bytes(values + 192) ^ 128
    )  # fmt: skip
    w4, w5, w6, w7 = (
        load_bytes(values + 256) ^ 128, load_bytes(values + 320) ^ 128,
        load_bytes(values + 384) ^ 128, load_bytes(values + 448) ^ 128,
    )  # fmt: skip
    d, m, mins = load_lanes(strip + D), load_lanes(strip + M), load_pairs(strip + MINS)
    # Products with d and sums of both halves are exact in float32: all their integers are below 2^24.
    scale, next_scale = to_f32(load_words(strip + SCALES)), to_f32(load_words(strip + SCALES + HALF))
    factor = d * scale if n_scales == 1 else d
    for t in range(count):
        record, to = x + RECORD * t, acc + 64 * t
        low, high = spread_i32(load_i32(record + X_STARTS)), spread_i32(load_i32(record + X_STARTS + 4))
        low = add_word(add_word(low, w0, record), w1, record + 4)
        low = add_word(add_word(low, w2, record + 8), w3, record + 12)
        high = add_word(add_word(high, w4, record + 16), w5, record + 20)
        high = add_word(add_word(high, w6, record + 24), w7, record + 28)
        if n_scales == 2:
            total = fused(to_f32(high), next_scale, to_f32(low) * scale)
        else:
            total = to_f32(low + high)
        c = factor * total
        if has_mins:
            c = fused(m, to_f32(madd(mins, spread_pair(record + X_SUMS))), c)
        store_lanes(to, fused(spread(load_f32(record + X_SCALE)), c, load_lanes(to)))


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
def folded(acc):
    """The eight partial sums, TOKENS vectors apart, as halves folded onto each other."""
    step = 64 * TOKENS
    even = (load_lanes(acc) + load_lanes(acc + 4 * step)) + (load_lanes(acc + 2 * step) + load_lanes(acc + 6 * step))
    odd = (load_lanes(acc + step) + load_lanes(acc + 5 * step)) + (load_lanes(acc + 3 * step) + load_lanes(acc + 7 * step))
    return even + odd


@inline
def tiles(args, tid, team, unpack, layout):
    w, values, scales, sums, bias, residual, out, T, N, K, residual_stride, out_stride = words(args, 12)
    block, block_bytes, n_scales, has_mins = layout
    row_bytes = K // block * block_bytes
    # A matrix with fewer rows than a tile goes row by row, each filling all lanes.
    rows, stride = (ROWS, row_bytes) if N >= ROWS else (1, 0)
    tile, raw, acc = _tile(), _raw(), _acc()
    memory = heap(RECORD * TOKENS * (K // 32) + 64)
    x = (memory + 63) // 64 * 64
    n_tiles, kept = (N + rows - 1) // rows, -1
    start, stop = share((T + TOKENS - 1) // TOKENS * n_tiles, tid, team)
    for item in range(start, stop):
        t0, n0 = item // n_tiles * TOKENS, item % n_tiles * rows
        count = min(TOKENS, T - t0)
        if t0 != kept:
            gather_records(x, values, scales, sums, K, t0, count)
            kept = t0
        # The last tile begins early enough to be whole; its rows before n0 are not stored.
        top = min(n0, N - rows)
        for j in range(STRIPS):
            for t in range(count):
                store_lanes(acc + 64 * (TOKENS * j + t), zero_lanes())
        for k in range(0, K, TILE):
            columns = min(TILE, K - k)
            fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, K)
            for j in range(0, columns, block):
                at = w + top * row_bytes + (k + j) // block * block_bytes
                unpack(at, stride, tile + j // 32 * STRIP_BYTES, raw)
            for j in range(columns // 32):
                records = x + RECORD * TOKENS * (k // 32 + j)
                add_strip(acc + 64 * TOKENS * j, tile + j * STRIP_BYTES, records, count, n_scales, has_mins)
        for t in range(count):
            store_lanes(acc + 64 * t, folded(acc + 64 * t))
            for n in range(n0, min(n0 + rows, N)):
                value = load_f32(acc + 64 * t + 4 * (n - top))
                finish(value, bias, residual, out, t0 + t, n, residual_stride, out_stride)
    heap_free(memory)


TILES = {
    Q4_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_0, decode.Q4_0)),
    Q4_1: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_1, decode.Q4_1)),
    Q5_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_0, decode.Q5_0)),
    Q5_1: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_1, decode.Q5_1)),
    Q8_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q8_0, decode.Q8_0)),
    Q2_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q2_k, decode.Q2_K)),
    Q3_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q3_k, decode.Q3_K)),
    Q4_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_k, decode.Q4_K)),
    Q5_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_k, decode.Q5_K)),
    Q6_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q6_k, decode.Q6_K)),
    IQ4_NL: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_iq4_nl, decode.IQ4_NL)),
    IQ4_XS: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_iq4_xs, decode.IQ4_XS)),
}
