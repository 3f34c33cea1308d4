"""out = x W^T for many tokens: 16 rows, a panel, are unpacked once for all of them. See matmul.py.

A panel is unpacked to strips (decode.py) that stay in a second-level cache while all tokens pass by, a
few at a time.
"""

from typing import NamedTuple

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.decode import HALF, MINS, RAW_BYTES, SCALES, STRIP_BYTES
from rocforge.cpu.dots import SIGN, add_word, add_word_small, has_registers, taken_off
from rocforge.cpu.epilogue import finish_panel
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
from rocforge.cpu.lanes import ROWS, as_floats
from rocforge.cpu.layout import RECORD, TOKENS, X_SCALE, X_SUMS, X_VALUES, records_bytes
from rocforge.cpu.threads import inline, kernel, launch, scratch, share, take, words
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8, Q8_0, Format

load_bytes = load(64, "i8")
load_lanes, store_lanes, spread, spread_i32 = load(16, "f32"), store(16, "f32"), splat(16, "f32"), splat(16, "i32")
load_half_strip, store_half_strip, zero_half_strip = load(16, "i8"), store(16, "i8"), zero(16, "i8")
fused, zero_lanes, zero_words = fma(16), zero(16, "f32"), zero(16, "i32")
store_i32 = store_scalar("i32")
f32 = np.float32
TILE = 256  # columns that are unpacked at a time, at most

# An int32 I plus these bits are the float BIAS + I, as long as I is less than 2^22 either way: no conversion is needed.
BIAS, BIAS_BITS = 1.5 * 2.0**23, 0x4B400000
EIGHT = 8  # tokens at a time: their number is filled up with zeros
SUMS = 8  # partial sums of an element
# Of unpacked strips, as much as a second-level cache keeps beside the activations that pass by.
PANELS_BYTES = 384 << 10

_raw, _acc = stack(RAW_BYTES), stack(64 * TOKENS * SUMS)


class Blocking(NamedTuple):
    """What suits one machine and not another: `PANELS` that are unpacked before tokens pass by, at the most, and `SHARES`
    that a thread's work comes in, at the least (threads then end at about the same time)."""

    PANELS: int
    SHARES: int


def blocking(K: int) -> Blocking:
    """The default for rows of K columns."""
    return Blocking(max(1, PANELS_BYTES // (depth_of.py_func(K) * SUMS * STRIP_BYTES)), 8)


@inline
def splits_of(shares, team, panels, blocks):
    """What the tokens are split into: threads share the panels; where these are too few for all, tokens as well."""
    return min(blocks, (shares * team + panels - 1) // panels)


@inline
def piece_of(items, at_once, shares, team, step):
    """Panels that a thread takes at a time: one, or a multiple of `step`."""
    return max(1, min(at_once, items // (shares * team)) // step * step)


@inline
def filled(n):
    return (n + EIGHT - 1) // EIGHT * EIGHT


@inline
def depth_of(K):
    """Strips that a partial sum has, at the most: its strips are one behind the other, in panels and in records."""
    return (K // 32 + SUMS - 1) // SUMS


@inline
def record_at(records, t, j, depth):
    """Token t's record of strip j, in blocks of TOKENS."""
    place = SUMS * depth * (t // TOKENS) + j % SUMS * depth + j // SUMS
    return records + RECORD * (TOKENS * place + t % TOKENS)


@kernel
def gather_records(args, tid, team):
    values, scales, sums, records, T, K, by_halves, has_mins, offset = words(args, 9)
    depth = depth_of(K)
    begin, end = share(K // 32, tid, team)
    for j in range(begin, end):
        for t in range(T):
            i, record = K * t + 32 * j, record_at(records, t, j, depth)
            store_half_strip(record + X_VALUES, load_half_strip(values + i))
            store_half_strip(record + X_VALUES + 16, load_half_strip(values + i + 16))
            store_f32(record + X_SCALE, load_f32(scales + i // 8))
            low, high = load_i16(sums + i // 8), load_i16(sums + i // 8 + 2)
            first = low if by_halves else low + high
            if has_mins:
                scale = load_f32(scales + i // 8)
                store_f32(record + X_SUMS, scale * f32(first))
                store_f32(record + X_SUMS + 4, scale * f32(high))
            else:
                store_i32(record + X_SUMS, BIAS_BITS - offset * first)
                store_i32(record + X_SUMS + 4, BIAS_BITS - offset * high)
        for t in range(T, filled(T)):
            for i in range(0, RECORD, 16):
                store_half_strip(record_at(records, t, j, depth) + i, zero_half_strip())


def as_records(x: Q8, format: Format) -> np.ndarray:
    """Launch what makes records [T / TOKENS][8][depth][TOKENS] of the activations [T, K], for weights of a format; the
    memory that they come to, in which tokens are filled up with zeros."""
    T, K = x.values.shape
    records = scratch("records", records_bytes(T, K))
    launch(gather_records, *x, records, T, K, *traits(format))
    return records


def traits(format: Format) -> tuple[bool, bool, int]:
    """What records depend on: those made for one format serve others like it."""
    *others, offset = getattr(decode, format.name)[2:]
    return (*others, offset - taken_off() if offset == SIGN else offset)


@inline
def add_8(add, sums, w, x):
    """The sums of eight tokens plus a vector of weights times the word at x of each one's record."""
    s0, s1, s2, s3, s4, s5, s6, s7 = sums
    return (
        add(s0, w, x), add(s1, w, x + RECORD), add(s2, w, x + 2 * RECORD), add(s3, w, x + 3 * RECORD),
        add(s4, w, x + 4 * RECORD), add(s5, w, x + 5 * RECORD), add(s6, w, x + 6 * RECORD), add(s7, w, x + 7 * RECORD),
    )  # fmt: skip


@inline
def start(x, starts):
    """What an int32 sum begins with: BIAS, and with an offset what a record has (BIAS again, less what is too much)."""
    return spread_i32(BIAS_BITS) if starts == 0 else spread_i32(load_i32(x))


@inline
def start_8(x, starts):
    return (
        start(x, starts), start(x + RECORD, starts), start(x + 2 * RECORD, starts), start(x + 3 * RECORD, starts),
        start(x + 4 * RECORD, starts), start(x + 5 * RECORD, starts), start(x + 6 * RECORD, starts), start(x + 7 * RECORD, starts),
    )  # fmt: skip


@inline
def parts_of(strip):
    """Scales and minimums of either half; first the first scale times -BIAS."""
    scales, mins = strip + SCALES, strip + MINS
    scale = load_lanes(scales)
    return scale * -BIAS, scale, load_lanes(scales + HALF), load_lanes(mins), load_lanes(mins + HALF)


@inline
def settle(p, x, low, high, parts, layout):
    """What matmul.py makes of p, for one token with its record at x; its sums of either half, or `low` of all."""
    less, scale, next_scale, minimum, next_minimum = parts
    # scale * I, rounded once: (BIAS + I) * scale - BIAS * scale, of which all but the end is exact.
    c = fused(as_floats(low), scale, less)
    if layout.by_halves:
        c = fused(as_floats(high) - BIAS, next_scale, c)
    p = fused(spread(load_f32(x + X_SCALE)), c, p)
    if layout.has_mins:
        p = fused(minimum, spread(load_f32(x + X_SUMS)), p)
        if layout.by_halves:
            p = fused(next_minimum, spread(load_f32(x + X_SUMS + 4)), p)
    return p


@inline
def settle_8(p, x, low, high, parts, layout):
    """settle() for eight tokens."""
    p0, p1, p2, p3, p4, p5, p6, p7 = p
    return (
        settle(p0, x, low[0], high[0], parts, layout),
        settle(p1, x + RECORD, low[1], high[1], parts, layout),
        settle(p2, x + 2 * RECORD, low[2], high[2], parts, layout),
        settle(p3, x + 3 * RECORD, low[3], high[3], parts, layout),
        settle(p4, x + 4 * RECORD, low[4], high[4], parts, layout),
        settle(p5, x + 5 * RECORD, low[5], high[5], parts, layout),
        settle(p6, x + 6 * RECORD, low[6], high[6], parts, layout),
        settle(p7, x + 7 * RECORD, low[7], high[7], parts, layout),
    )


@inline
def zeros_8():
    z = zero_lanes()
    return z, z, z, z, z, z, z, z


@inline
def store_8(to, p):
    p0, p1, p2, p3, p4, p5, p6, p7 = p
    store_lanes(to, p0)
    store_lanes(to + 64, p1)
    store_lanes(to + 128, p2)
    store_lanes(to + 192, p3)
    store_lanes(to + 256, p4)
    store_lanes(to + 320, p5)
    store_lanes(to + 384, p6)
    store_lanes(to + 448, p7)


@inline
def add_strip_8(p, w, x, add, layout):
    """p of matmul.py for eight tokens, one strip further; none of the eight sums waits for the one before it."""
    starts, by_halves = layout.offset, layout.by_halves
    low = start_8(x + X_SUMS, starts)
    low = add_8(add, add_8(add, low, load_bytes(w), x), load_bytes(w + 64), x + 4)
    low = add_8(add, add_8(add, low, load_bytes(w + 128), x + 8), load_bytes(w + 192), x + 12)
    high = start_8(x + X_SUMS + 4, starts) if by_halves else low
    high = add_8(add, add_8(add, high, load_bytes(w + 256), x + 16), load_bytes(w + 320), x + 20)
    high = add_8(add, add_8(add, high, load_bytes(w + 384), x + 24), load_bytes(w + 448), x + 28)
    return settle_8(p, x, low if by_halves else high, high, parts_of(w), layout)


@inline
def add_strip(p, w, x, add, layout):
    """The same for one token, where there are registers for no more."""
    starts, by_halves = layout.offset, layout.by_halves
    low = start(x + X_SUMS, starts)
    low = add(add(low, load_bytes(w), x), load_bytes(w + 64), x + 4)
    low = add(add(low, load_bytes(w + 128), x + 8), load_bytes(w + 192), x + 12)
    high = start(x + X_SUMS + 4, starts) if by_halves else low
    high = add(add(high, load_bytes(w + 256), x + 16), load_bytes(w + 320), x + 20)
    high = add(add(high, load_bytes(w + 384), x + 24), load_bytes(w + 448), x + 28)
    return settle(p, x, low if by_halves else high, high, parts_of(w), layout)


@inline
def partial_sums(acc, strip, x, x_step, n, count, add, layout):
    """acc[t] = one of the partial sums of `count` tokens, a multiple of EIGHT: over n strips, one behind the other."""
    if has_registers():
        for t in range(0, count, EIGHT):
            p = zeros_8()
            for i in range(n):
                p = add_strip_8(p, strip + STRIP_BYTES * i, x + x_step * i + RECORD * t, add, layout)
            store_8(acc + 64 * t, p)
    else:
        for t in range(count):
            p = zero_lanes()
            for i in range(n):
                p = add_strip(p, strip + STRIP_BYTES * i, x + x_step * i + RECORD * t, add, layout)
            store_lanes(acc + 64 * t, p)


# ---- a thread's share


@inline
def fetch_ahead(w, top, k, rows, row_bytes, tile_bytes, K):
    """Ask for the 256 columns after the next: 16 rows are more streams than a processor follows by itself."""
    k += 2 * TILE
    if k >= K:
        k, top = k - K, top + rows
    at = w + top * row_bytes + k // TILE * tile_bytes
    for r in range(rows):
        for i in range(0, tile_bytes, 64):
            prefetch(at + row_bytes * r + i)


@inline
def unpack_panel(w, top, rows, stride, K, strips, raw, unpack, layout):
    """All columns of the rows from `top` on, as strips [8][depth]."""
    block, block_bytes, pitch = layout.block, layout.block_bytes, depth_of(K) * STRIP_BYTES
    row_bytes = K // block * block_bytes
    for k in range(0, K, TILE):
        fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, K)
        for j in range(k, min(k + TILE, K), block):
            strip = strips + j // 32 % SUMS * pitch + k // TILE * STRIP_BYTES
            unpack(w + top * row_bytes + j // block * block_bytes, stride, strip, pitch, raw)


@inline
def all_sums(acc, strips, x, K, count, add, layout):
    """acc[i][t] = partial sum i of token t, for a panel times `count` tokens."""
    depth, x_step = depth_of(K), RECORD * TOKENS
    for i in range(SUMS):
        n, strip, y = (K // 32 - i + SUMS - 1) // SUMS, strips + STRIP_BYTES * depth * i, x + x_step * depth * i
        partial_sums(acc + 64 * TOKENS * i, strip, y, x_step, n, count, add, layout)


@inline
def folded(acc):
    """A token's eight partial sums, halves folded onto each other."""
    step = 64 * TOKENS
    even = (load_lanes(acc) + load_lanes(acc + 4 * step)) + (load_lanes(acc + 2 * step) + load_lanes(acc + 6 * step))
    odd = (load_lanes(acc + step) + load_lanes(acc + 5 * step)) + (load_lanes(acc + 3 * step) + load_lanes(acc + 7 * step))
    return even + odd


@inline
def tiles(args, tid, team, unpack, add, layout):
    w, records, bias, residual, out, T, N, K, residual_stride, out_stride, counter, at_once, shares = words(args, 13)
    # A matrix with fewer rows than a panel goes row by row, each filling all lanes.
    rows, stride = (ROWS, K // layout.block * layout.block_bytes) if N >= ROWS else (1, 0)
    raw, acc, panel_bytes = _raw(), _acc(), depth_of(K) * SUMS * STRIP_BYTES
    x_bytes = depth_of(K) * SUMS * RECORD  # a token's
    panels, blocks = (N + rows - 1) // rows, (T + TOKENS - 1) // TOKENS
    splits = splits_of(shares, team, panels, blocks)
    at_once = piece_of(splits * panels, at_once, shares, team, 1)
    memory = heap(at_once * panel_bytes + 64)
    strips = (memory + 63) // 64 * 64
    pieces = (panels + at_once - 1) // at_once
    piece = take(counter, splits * pieces, team)
    while piece >= 0:
        first = piece % pieces * at_once
        n_panels = min(at_once, panels - first)
        for p in range(n_panels):
            # The last panel begins early enough to be whole; its rows before its first are not stored.
            top = min((first + p) * rows, N - rows)
            unpack_panel(w, top, rows, stride, K, strips + p * panel_bytes, raw, unpack, layout)
        first_block, last_block = share(blocks, piece // pieces, splits)
        for t0 in range(TOKENS * first_block, min(TOKENS * last_block, T), TOKENS):
            count = min(TOKENS, T - t0)
            whole_count = filled(count)
            for p in range(n_panels):
                all_sums(acc, strips + p * panel_bytes, records + x_bytes * t0, K, whole_count, add, layout)
                for t in range(count):
                    # Over the first token's sums, which are not needed any more.
                    finish_panel(folded(acc + 64 * t), acc, bias, residual, out, t0 + t, (first + p) * rows, rows, N, residual_stride, out_stride)
        piece = take(counter, splits * pieces, team)
    heap_free(memory)


# Values of 8 bits need the dot product that takes them.
TILES = {
    Q4_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_0, add_word_small, decode.Q4_0)),
    Q4_1: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_1, add_word_small, decode.Q4_1)),
    Q5_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_0, add_word_small, decode.Q5_0)),
    Q5_1: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_1, add_word_small, decode.Q5_1)),
    Q8_0: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q8_0, add_word, decode.Q8_0)),
    Q2_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q2_k, add_word_small, decode.Q2_K)),
    Q3_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q3_k, add_word_small, decode.Q3_K)),
    Q4_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q4_k, add_word_small, decode.Q4_K)),
    Q5_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q5_k, add_word_small, decode.Q5_K)),
    Q6_K: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_q6_k, add_word_small, decode.Q6_K)),
    IQ4_NL: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_iq4_nl, add_word, decode.IQ4_NL)),
    IQ4_XS: kernel(lambda args, tid, team: tiles(args, tid, team, decode.unpack_iq4_xs, add_word, decode.IQ4_XS)),
}
