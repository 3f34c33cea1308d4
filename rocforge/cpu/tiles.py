"""out = x W^T for many tokens: 16 rows, a panel, are unpacked once for all of them. See matmul.py.

A panel is unpacked to strips (decode.py) that stay in a second-level cache while all tokens pass by, a
few at a time.
"""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.amx import (
    CONFIG_BYTES,
    begin_shapes,
    clear_tile,
    configure,
    dot_tiles,
    has_tiles,
    load_tile,
    release,
    set_shape,
    store_tile,
)
from rocforge.cpu.decode import HALF, MINS, RAW_BYTES, SCALES, STRIP_BYTES, VALUES
from rocforge.cpu.dots import add_word, add_word_small, has_registers
from rocforge.cpu.epilogue import finish, finish_16
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
from rocforge.cpu.lanes import ROWS, to_f32
from rocforge.cpu.layout import RECORD, TOKENS, X_SCALE, X_SUMS, X_VALUES, records_bytes
from rocforge.cpu.threads import inline, kernel, launch, scratch, share, words
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8, Q8_0, Format

load_bytes, load_words = load(64, "i8"), load(16, "i32")
load_lanes, store_lanes, spread, spread_i32 = load(16, "f32"), store(16, "f32"), splat(16, "f32"), splat(16, "i32")
load_half_strip, store_half_strip, zero_half_strip = load(16, "i8"), store(16, "i8"), zero(16, "i8")
fused, zero_lanes, zero_words = fma(16), zero(16, "f32"), zero(16, "i32")
store_i32 = store_scalar("i32")
f32 = np.float32
TILE = 256  # columns that are unpacked at a time, at most

EIGHT = 8  # tokens at a time: their number is filled up with zeros
SUMS = 8  # partial sums of an element
# Of unpacked strips, as much as a second-level cache keeps beside the activations that pass by.
PANELS_BYTES = 384 << 10
# Shares that a thread's work comes in, at the least: what is left at the end is then little.
SHARES = 8

# What a strip's products on AMX's tiles leave: int32 [TOKENS][2][16].
PRODUCTS_BYTES = 128 * TOKENS
clear_sums, clear_next_sums, store_sums, store_next_sums = clear_tile(0), clear_tile(1), store_tile(0), store_tile(1)
load_weights, load_next_weights, load_records, load_next_records = load_tile(2), load_tile(3), load_tile(4), load_tile(5)
dot_sums, dot_next_sums = dot_tiles(0, 4, 2), dot_tiles(1, 5, 3)

_raw, _acc = stack(RAW_BYTES), stack(64 * TOKENS * SUMS)
_products, _config = stack(2 * PRODUCTS_BYTES), stack(CONFIG_BYTES)


@inline
def filled(n):
    return (n + EIGHT - 1) // EIGHT * EIGHT


@inline
def record_at(records, t, j, K):
    """Token t's record of strip j, in blocks of TOKENS."""
    return records + RECORD * (TOKENS * (K // 32 * (t // TOKENS) + j) + t % TOKENS)


@kernel
def gather_records(args, tid, team):
    values, scales, sums, records, T, K, by_halves, has_mins, offset = words(args, 9)
    begin, end = share(K // 32, tid, team)
    for j in range(begin, end):
        for t in range(T):
            i, record = K * t + 32 * j, record_at(records, t, j, K)
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
                store_i32(record + X_SUMS, -offset * first)
                store_i32(record + X_SUMS + 4, -offset * high)
        for t in range(T, filled(T)):
            for i in range(0, RECORD, 16):
                store_half_strip(record_at(records, t, j, K) + i, zero_half_strip())


def as_records(x: Q8, format: Format) -> np.ndarray:
    """Launch what makes records [T / TOKENS][K / 32][TOKENS] of the activations [T, K], for weights of a format; the
    memory that they come to, in which tokens are filled up with zeros."""
    T, K = x.values.shape
    records = scratch("records", records_bytes(T, K))
    launch(gather_records, *x, records, T, K, *traits(format))
    return records


def traits(format: Format) -> tuple[bool, bool, int]:
    """What records depend on: those made for one format serve others like it."""
    return getattr(decode, format.name)[2:]


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
    return zero_words() if starts == 0 else spread_i32(load_i32(x))


@inline
def start_8(x, starts):
    return (
        start(x, starts), start(x + RECORD, starts), start(x + 2 * RECORD, starts), start(x + 3 * RECORD, starts),
        start(x + 4 * RECORD, starts), start(x + 5 * RECORD, starts), start(x + 6 * RECORD, starts), start(x + 7 * RECORD, starts),
    )  # fmt: skip


@inline
def parts_of(strip):
    """Scales and minimums of either half."""
    scales, mins = strip + SCALES, strip + MINS
    return load_lanes(scales), load_lanes(scales + HALF), load_lanes(mins), load_lanes(mins + HALF)


@inline
def settle(acc, x, low, high, parts, layout):
    """What matmul.py says of p, for one token with its record at x; its sums of either half, or `high` of all."""
    scale, next_scale, minimum, next_minimum = parts
    if layout.by_halves:
        c = fused(to_f32(high), next_scale, to_f32(low) * scale)
    else:
        c = to_f32(high) * scale
    p = fused(spread(load_f32(x + X_SCALE)), c, load_lanes(acc))
    if layout.has_mins:
        p = fused(minimum, spread(load_f32(x + X_SUMS)), p)
        if layout.by_halves:
            p = fused(next_minimum, spread(load_f32(x + X_SUMS + 4)), p)
    store_lanes(acc, p)


@inline
def add_strip(acc, strip, x, count, add, layout):
    """acc[t], p of matmul.py, after a strip of 16 rows times the records of `count` tokens, a multiple of EIGHT."""
    w = strip + VALUES
    w0, w1, w2, w3 = load_bytes(w), load_bytes(w + 64), load_bytes(w + 128), load_bytes(w + 192)
    w4, w5, w6, w7 = load_bytes(w + 256), load_bytes(w + 320), load_bytes(w + 384), load_bytes(w + 448)
    parts, starts, by_halves = parts_of(strip), layout.offset, layout.by_halves
    if has_registers():
        # None of the eight sums waits for the one before it.
        for t in range(0, count, EIGHT):
            y, to = x + RECORD * t, acc + 64 * t
            low = start_8(y + X_SUMS, starts)
            low = add_8(add, add_8(add, low, w0, y), w1, y + 4)
            low = add_8(add, add_8(add, low, w2, y + 8), w3, y + 12)
            high = start_8(y + X_SUMS + 4, starts) if by_halves else low
            high = add_8(add, add_8(add, high, w4, y + 16), w5, y + 20)
            high = add_8(add, add_8(add, high, w6, y + 24), w7, y + 28)
            settle(to, y, low[0], high[0], parts, layout)
            settle(to + 64, y + RECORD, low[1], high[1], parts, layout)
            settle(to + 128, y + 2 * RECORD, low[2], high[2], parts, layout)
            settle(to + 192, y + 3 * RECORD, low[3], high[3], parts, layout)
            settle(to + 256, y + 4 * RECORD, low[4], high[4], parts, layout)
            settle(to + 320, y + 5 * RECORD, low[5], high[5], parts, layout)
            settle(to + 384, y + 6 * RECORD, low[6], high[6], parts, layout)
            settle(to + 448, y + 7 * RECORD, low[7], high[7], parts, layout)
    else:
        for t in range(count):
            y = x + RECORD * t
            low = start(y + X_SUMS, starts)
            low = add(add(add(add(low, w0, y), w1, y + 4), w2, y + 8), w3, y + 12)
            high = start(y + X_SUMS + 4, starts) if by_halves else low
            high = add(add(add(add(high, w4, y + 16), w5, y + 20), w6, y + 24), w7, y + 28)
            settle(acc + 64 * t, y, low, high, parts, layout)


# ---- with AMX


@inline
def configure_tiles(config, layout):
    """Tiles 0 and 1: sums [16 tokens, 16 rows] of either half, or of a strip; 2 and 3: weights; 4 and 5: records."""
    begin_shapes(config)
    quads = 4 if layout.by_halves else 8
    for i in range(2):
        set_shape(config, i, 16, 64)
        set_shape(config, 2 + i, quads, 64)
        set_shape(config, 4 + i, 16, 4 * quads)
    configure(config)


@inline
def multiply_strip(products, strip, x, count, layout):
    """products[t], int32 [2][16], = the sums of either half, or of the strip; `count` tokens, a multiple of 16."""
    load_weights(strip + VALUES, 64)
    if layout.by_halves:
        load_next_weights(strip + VALUES + 256, 64)
    for t in range(0, count, 16):
        y, to = x + RECORD * t, products + 128 * t
        load_records(y + X_VALUES, RECORD)
        clear_sums()
        dot_sums()
        if layout.by_halves:
            load_next_records(y + X_VALUES + 16, RECORD)
            clear_next_sums()
            dot_next_sums()
            store_next_sums(to + 64, 128)
        store_sums(to, 128)


@inline
def settle_products(acc, products, strip, x, count, layout):
    """What add_strip() does, from the products that multiply_strip() left."""
    parts, starts, by_halves = parts_of(strip), layout.offset, layout.by_halves
    for t in range(count):
        y, at = x + RECORD * t, products + 128 * t
        low = load_words(at) + start(y + X_SUMS, starts)
        high = low
        if by_halves:
            high = load_words(at + 64) + start(y + X_SUMS + 4, starts)
        settle(acc + 64 * t, y, low, high, parts, layout)


@inline
def add_panel_tiled(acc, products, strips, x, stride, K, count, layout):
    """As add_strip() strip by strip. A strip is multiplied while the one before it is settled: in different units."""
    multiply_strip(products, strips, x, count, layout)
    for j in range(K // 32):
        at, after = products + PRODUCTS_BYTES * (j % 2), products + PRODUCTS_BYTES * ((j + 1) % 2)
        if j + 1 < K // 32:
            multiply_strip(after, strips + STRIP_BYTES * (j + 1), x + stride * (j + 1), count, layout)
        settle_products(acc + 64 * TOKENS * (j % SUMS), at, strips + STRIP_BYTES * j, x + stride * j, count, layout)


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
    """All columns of the rows from `top` on, as strips."""
    block, block_bytes = layout.block, layout.block_bytes
    row_bytes = K // block * block_bytes
    for k in range(0, K, TILE):
        fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, K)
        for j in range(k, min(k + TILE, K), block):
            unpack(w + top * row_bytes + j // block * block_bytes, stride, strips + j // 32 * STRIP_BYTES, raw)


@inline
def add_panel(acc, products, strips, x, stride, K, count, add, layout):
    """acc[t] = a panel times `count` tokens: the eight partial sums, halves folded onto each other."""
    for i in range(SUMS):
        for t in range(count):
            store_lanes(acc + 64 * (TOKENS * i + t), zero_lanes())
    tiled = count // 16 * 16 if has_tiles() else 0
    if tiled > 0:
        add_panel_tiled(acc, products, strips, x, stride, K, tiled, layout)
    if tiled < count:
        for j in range(K // 32):
            to, y = acc + 64 * (TOKENS * (j % SUMS) + tiled), x + stride * j + RECORD * tiled
            add_strip(to, strips + STRIP_BYTES * j, y, count - tiled, add, layout)
    step = 64 * TOKENS
    for t in range(count):
        at = acc + 64 * t
        even = (load_lanes(at) + load_lanes(at + 4 * step)) + (load_lanes(at + 2 * step) + load_lanes(at + 6 * step))
        odd = (load_lanes(at + step) + load_lanes(at + 5 * step)) + (load_lanes(at + 3 * step) + load_lanes(at + 7 * step))
        store_lanes(at, even + odd)


@inline
def tiles(args, tid, team, unpack, add, layout):
    w, records, bias, residual, out, T, N, K, residual_stride, out_stride = words(args, 10)
    # A matrix with fewer rows than a panel goes row by row, each filling all lanes.
    rows, stride = (ROWS, K // layout.block * layout.block_bytes) if N >= ROWS else (1, 0)
    raw, acc, products, config, panel_bytes = _raw(), _acc(), _products(), _config(), K // 32 * STRIP_BYTES
    if has_tiles():
        configure_tiles(config, layout)
    x_stride = RECORD * TOKENS
    at_once = max(1, PANELS_BYTES // panel_bytes)
    memory = heap(at_once * panel_bytes + 64)
    strips = (memory + 63) // 64 * 64
    # Threads share the panels; where these are too few for all, tokens as well.
    panels, blocks = (N + rows - 1) // rows, (T + TOKENS - 1) // TOKENS
    splits = min(blocks, (SHARES * team + panels - 1) // panels)
    item, stop = share(splits * panels, tid, team)
    while item < stop:
        first, n_panels = item % panels, min(at_once, panels - item % panels, stop - item)
        for p in range(n_panels):
            # The last panel begins early enough to be whole; its rows before its first are not stored.
            top = min((first + p) * rows, N - rows)
            unpack_panel(w, top, rows, stride, K, strips + p * panel_bytes, raw, unpack, layout)
        first_block, last_block = share(blocks, item // panels, splits)
        for t0 in range(TOKENS * first_block, min(TOKENS * last_block, T), TOKENS):
            count = min(TOKENS, T - t0)
            whole_count = filled(count)
            for p in range(n_panels):
                add_panel(acc, products, strips + p * panel_bytes, records + RECORD * t0 * (K // 32), x_stride, K, whole_count, add, layout)
                n0 = (first + p) * rows
                top = min(n0, N - rows)
                for t in range(count):
                    if n0 == top and rows == ROWS:
                        finish_16(load_lanes(acc + 64 * t), bias, residual, out, t0 + t, n0, residual_stride, out_stride)
                        continue
                    for n in range(n0, min(n0 + rows, N)):
                        value = load_f32(acc + 64 * t + 4 * (n - top))
                        finish(value, bias, residual, out, t0 + t, n, residual_stride, out_stride)
        item += n_panels
    heap_free(memory)
    if has_tiles():
        release()


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
