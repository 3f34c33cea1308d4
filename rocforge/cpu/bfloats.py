"""out = x W^T for many tokens with AMX: both as bfloat16, summed up in float32 in the tiles. See matmul.py.

Rows of the weights are 16 a panel, activations TOKENS a block. Both are kept as tiles of 32 columns: of a
panel [K / 32][16 pairs of columns][16 rows][2], of a block [K / 32][TOKENS][32].
"""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.amx import CONFIG_BYTES, clear_tile, configure_whole, dot_tiles, load_tile, release, store_tile
from rocforge.cpu.decode import HALF, MINS, RAW_BYTES, SCALES, STRIP_BYTES, VALUES
from rocforge.cpu.epilogue import finish_panel
from rocforge.cpu.isa import fma, heap, heap_free, load, load_f32, splat, stack, store, zero
from rocforge.cpu.lanes import ROWS, float_bits, load_signed, store_high_halves, to_f32
from rocforge.cpu.layout import TOKENS, bfloats_bytes
from rocforge.cpu.threads import inline, kernel, launch, scratch, share, take, words
from rocforge.cpu.tiles import TILE, Blocking, fetch_ahead, piece_of, splits_of
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8, Q8_0

# Fewer tokens fill too little of a tile.
FEWEST = 16
COLUMNS, TILE_BYTES = 32, 1024  # of a tile
# Of unpacked panels, as much as a second-level cache keeps beside the activations that pass by; and columns at the most
# that are unpacked at a time: of longer rows there would be few panels, and activations would pass by for each few anew.
PANELS_BYTES, DEPTH = 1 << 20, 2048

fused, load_lanes, store_lanes, spread = fma(16), load(16, "f32"), store(16, "f32"), splat(16, "f32")
load_words, store_words, zero_words = load(16, "i32"), store(16, "i32"), zero(16, "i32")
SUMS_BYTES = 4 * TILE_BYTES  # of two panels and a block
_raw, _strips, _config = stack(RAW_BYTES), stack(8 * STRIP_BYTES), stack(CONFIG_BYTES)


def blocking(K: int) -> Blocking:
    """The default for rows of K columns; panels go by two."""
    return Blocking(max(2, PANELS_BYTES // (min(K, DEPTH) // COLUMNS * TILE_BYTES) // 2 * 2), 8)


@inline
def rounded(x):
    """Words whose upper halves are x as bfloat16, the nearest; halfway, the one farther from zero."""
    return float_bits(x) + 0x8000


@kernel
def gather_bfloats(args, tid, team):
    values, scales, to, T, K = words(args, 5)
    strips, row = K // COLUMNS, 2 * COLUMNS
    blocks = (T + TOKENS - 1) // TOKENS
    begin, end = share(blocks * TOKENS, tid, team)
    for t in range(begin, end):
        for j in range(strips):
            at = to + row * (TOKENS * (strips * (t // TOKENS) + j) + t % TOKENS)
            if t < T:
                x, scale = values + K * t + COLUMNS * j, spread(load_f32(scales + 4 * (strips * t + j)))
                store_high_halves(at, rounded(to_f32(load_signed(x)) * scale))
                store_high_halves(at + 32, rounded(to_f32(load_signed(x + 16)) * scale))
            else:
                store_words(at, zero_words())


def as_bfloats(x: Q8) -> np.ndarray:
    """Launch what makes bfloat16 [T / TOKENS][K / 32][TOKENS][32] of the activations [T, K]; the memory that they
    come to, in which tokens are filled up with zeros."""
    T, K = x.values.shape
    bfloats = scratch("records", bfloats_bytes(T, K))
    launch(gather_bfloats, x.values, x.scales, bfloats, T, K)
    return bfloats


@inline
def put_pairs(tile, first, second):
    store_words(tile, rounded(first) >> 16 | rounded(second) & 0xFFFF0000)


@inline
def put_tile(tile, strip, layout):
    """A strip of decode.py's as a tile of weights: scale * (value - offset) + min, rounded twice at the most."""
    for i in range(8):
        part = i // 4 * HALF if layout.by_halves else 0
        scale = load_lanes(strip + SCALES + part)
        # Offsets are powers of two: this product is exact.
        less = load_lanes(strip + MINS + part) if layout.has_mins else scale * -layout.offset
        w = load_words(strip + VALUES + 64 * i)
        w0, w1 = fused(to_f32(w & 255), scale, less), fused(to_f32(w >> 8 & 255), scale, less)
        w2, w3 = fused(to_f32(w >> 16 & 255), scale, less), fused(to_f32(w >> 24), scale, less)
        put_pairs(tile + 128 * i, w0, w1)
        put_pairs(tile + 128 * i + 64, w2, w3)


@inline
def unpack_panel(w, top, rows, stride, row_bytes, n, panel, strips, raw, unpack, layout):
    """n columns of the rows from `top` on, as tiles."""
    block, block_bytes = layout.block, layout.block_bytes
    for k in range(0, n, TILE):
        fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, n)
        for j in range(k, min(k + TILE, n), block):
            unpack(w + top * row_bytes + j // block * block_bytes, stride, strips, STRIP_BYTES, raw)
            for i in range(block // COLUMNS):
                put_tile(panel + TILE_BYTES * (j // COLUMNS + i), strips + STRIP_BYTES * i, layout)


# Tiles 0 to 3 are sums, of two panels by two halves of a block; 4 and 5 its halves, 6 and 7 the panels.
clear_0, clear_1, clear_2, clear_3 = clear_tile(0), clear_tile(1), clear_tile(2), clear_tile(3)
load_x, load_next_x, load_w, load_next_w = load_tile(4), load_tile(5), load_tile(6), load_tile(7)
load_0, load_1, load_2, load_3 = load_tile(0), load_tile(1), load_tile(2), load_tile(3)
dot_0, dot_1, dot_2, dot_3 = dot_tiles(0, 4, 6), dot_tiles(1, 5, 6), dot_tiles(2, 4, 7), dot_tiles(3, 5, 7)
store_0, store_1, store_2, store_3 = store_tile(0), store_tile(1), store_tile(2), store_tile(3)


@inline
def multiply(sums, is_first, panel, next_panel, x, n):
    """sums, float32 [2 panels][TOKENS][16 rows], (+)= a block times two panels, over n columns. Each tile is loaded as soon as
    it was multiplied for the last time: a core whose other thread has tiles too does not rename them (10 % more)."""
    if is_first:
        clear_0()
        clear_1()
        clear_2()
        clear_3()
    else:
        load_0(sums, 64)
        load_1(sums + TILE_BYTES, 64)
        load_2(sums + 2 * TILE_BYTES, 64)
        load_3(sums + 3 * TILE_BYTES, 64)
    load_w(panel, 64)
    load_x(x, 64)
    load_next_x(x + TILE_BYTES, 64)
    load_next_w(next_panel, 64)
    for i in range(TILE_BYTES, n // COLUMNS * TILE_BYTES, TILE_BYTES):
        dot_0()
        dot_1()
        load_w(panel + i, 64)
        dot_2()
        load_x(x + 2 * i, 64)
        dot_3()
        load_next_x(x + 2 * i + TILE_BYTES, 64)
        load_next_w(next_panel + i, 64)
    dot_0()
    dot_1()
    dot_2()
    dot_3()
    store_0(sums, 64)
    store_1(sums + TILE_BYTES, 64)
    store_2(sums + 2 * TILE_BYTES, 64)
    store_3(sums + 3 * TILE_BYTES, 64)


@inline
def tiles(args, tid, team, unpack, layout):
    w, x, bias, residual, out, T, N, K, residual_stride, out_stride, counter, at_once, shares = words(args, 13)
    # A matrix with fewer rows than a panel goes row by row, each filling all lanes.
    row_bytes = K // layout.block * layout.block_bytes
    rows, stride = (ROWS, row_bytes) if N >= ROWS else (1, 0)
    panels, blocks = (N + rows - 1) // rows, (T + TOKENS - 1) // TOKENS
    splits = splits_of(shares, team, panels, blocks)
    at_once = piece_of(splits * panels, at_once, shares, team, 2)
    raw, strips, config, panel_bytes = _raw(), _strips(), _config(), min(K, DEPTH) // COLUMNS * TILE_BYTES
    pairs = (at_once + 1) // 2
    # Sums that are not done wait for the next columns.
    kept = pairs * blocks if K > DEPTH else 1
    memory = heap(at_once * panel_bytes + kept * SUMS_BYTES + 64)
    unpacked = (memory + 63) // 64 * 64
    sums = unpacked + at_once * panel_bytes
    configure_whole(config)
    pieces = (panels + at_once - 1) // at_once
    piece = take(counter, splits * pieces, team)
    while piece >= 0:
        first = piece % pieces * at_once
        n_panels = min(at_once, panels - first)
        first_block, last_block = share(blocks, piece // pieces, splits)
        for k in range(0, K, DEPTH):
            n, columns = min(DEPTH, K - k), w + k // layout.block * layout.block_bytes
            for p in range(n_panels):
                # The last panel begins early enough to be whole; its rows before its first are not stored.
                top = min((first + p) * rows, N - rows)
                unpack_panel(columns, top, rows, stride, row_bytes, n, unpacked + p * panel_bytes, strips, raw, unpack, layout)
            for b in range(first_block, last_block):
                for p in range(0, n_panels, 2):
                    both, panel = min(2, n_panels - p), unpacked + p * panel_bytes
                    at = sums + SUMS_BYTES * ((pairs * b + p // 2) % kept)
                    multiply(at, k == 0, panel, panel + (both - 1) * panel_bytes, x + 2 * TOKENS * (K * b + k), n)
                    if k + n < K:
                        continue
                    for q in range(both):
                        n0 = (first + p + q) * rows
                        for t in range(min(TOKENS, T - TOKENS * b)):
                            of_t = at + 64 * (TOKENS * q + t)
                            finish_panel(load_lanes(of_t), of_t, bias, residual, out, TOKENS * b + t, n0, rows, N, residual_stride, out_stride)
        piece = take(counter, splits * pieces, team)
    heap_free(memory)
    release()


BFLOATS = {
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
