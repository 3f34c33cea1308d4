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
from rocforge.cpu.threads import inline, kernel, launch, scratch, share, words
from rocforge.cpu.tiles import TILE, Blocking, fetch_ahead, splits_of
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8, Q8_0

# Fewer tokens fill too little of a tile.
FEWEST = 16
COLUMNS, TILE_BYTES = 32, 1024  # of a tile
# Of unpacked panels, as much as a second-level cache keeps beside the activations that pass by.
PANELS_BYTES = 1 << 20

fused, load_lanes, store_lanes, spread = fma(16), load(16, "f32"), store(16, "f32"), splat(16, "f32")
load_words, store_words, zero_words = load(16, "i32"), store(16, "i32"), zero(16, "i32")
_raw, _strips, _sums, _config = stack(RAW_BYTES), stack(8 * STRIP_BYTES), stack(4 * TILE_BYTES), stack(CONFIG_BYTES)


def blocking(K: int) -> Blocking:
    """The default for rows of K columns; panels go by two."""
    return Blocking(max(2, PANELS_BYTES // (K // COLUMNS * TILE_BYTES) // 2 * 2), 8)


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
def unpack_panel(w, top, rows, stride, K, panel, strips, raw, unpack, layout):
    """All columns of the rows from `top` on, as tiles."""
    block, block_bytes = layout.block, layout.block_bytes
    row_bytes = K // block * block_bytes
    for k in range(0, K, TILE):
        fetch_ahead(w, top, k, rows, row_bytes, TILE // block * block_bytes, K)
        for j in range(k, min(k + TILE, K), block):
            unpack(w + top * row_bytes + j // block * block_bytes, stride, strips, STRIP_BYTES, raw)
            for i in range(block // COLUMNS):
                put_tile(panel + TILE_BYTES * (j // COLUMNS + i), strips + STRIP_BYTES * i, layout)


# Tiles 0 to 3 are sums, of two panels by two halves of a block; 4 and 5 its halves, 6 and 7 the panels.
clear_0, clear_1, clear_2, clear_3 = clear_tile(0), clear_tile(1), clear_tile(2), clear_tile(3)
load_x, load_next_x, load_w, load_next_w = load_tile(4), load_tile(5), load_tile(6), load_tile(7)
dot_0, dot_1, dot_2, dot_3 = dot_tiles(0, 4, 6), dot_tiles(1, 5, 6), dot_tiles(2, 4, 7), dot_tiles(3, 5, 7)
store_0, store_1, store_2, store_3 = store_tile(0), store_tile(1), store_tile(2), store_tile(3)


@inline
def multiply(sums, panel, next_panel, x, K):
    """sums, float32 [2 panels][TOKENS][16 rows], = a block times two panels."""
    clear_0()
    clear_1()
    clear_2()
    clear_3()
    for j in range(K // COLUMNS):
        load_w(panel + TILE_BYTES * j, 64)
        load_x(x + 2 * TILE_BYTES * j, 64)
        dot_0()
        load_next_x(x + 2 * TILE_BYTES * j + TILE_BYTES, 64)
        dot_1()
        load_next_w(next_panel + TILE_BYTES * j, 64)
        dot_2()
        dot_3()
    store_0(sums, 64)
    store_1(sums + TILE_BYTES, 64)
    store_2(sums + 2 * TILE_BYTES, 64)
    store_3(sums + 3 * TILE_BYTES, 64)


@inline
def tiles(args, tid, team, unpack, layout):
    w, x, bias, residual, out, T, N, K, residual_stride, out_stride, at_once, shares = words(args, 12)
    # A matrix with fewer rows than a panel goes row by row, each filling all lanes.
    rows, stride = (ROWS, K // layout.block * layout.block_bytes) if N >= ROWS else (1, 0)
    raw, strips, sums, config, panel_bytes = _raw(), _strips(), _sums(), _config(), K // COLUMNS * TILE_BYTES
    configure_whole(config)
    memory = heap(at_once * panel_bytes + 64)
    unpacked = (memory + 63) // 64 * 64
    panels, blocks = (N + rows - 1) // rows, (T + TOKENS - 1) // TOKENS
    splits = splits_of(shares, team, panels, blocks)
    item, stop = share(splits * panels, tid, team)
    while item < stop:
        first, n_panels = item % panels, min(at_once, panels - item % panels, stop - item)
        for p in range(n_panels):
            # The last panel begins early enough to be whole; its rows before its first are not stored.
            top = min((first + p) * rows, N - rows)
            unpack_panel(w, top, rows, stride, K, unpacked + p * panel_bytes, strips, raw, unpack, layout)
        first_block, last_block = share(blocks, item // panels, splits)
        for t0 in range(TOKENS * first_block, min(TOKENS * last_block, T), TOKENS):
            for p in range(0, n_panels, 2):
                both = min(2, n_panels - p)
                panel = unpacked + p * panel_bytes
                multiply(sums, panel, panel + (both - 1) * panel_bytes, x + 2 * K * t0, K)
                for q in range(both):
                    for t in range(min(TOKENS, T - t0)):
                        at = sums + 64 * (TOKENS * q + t)
                        n0 = (first + p + q) * rows
                        finish_panel(load_lanes(at), at, bias, residual, out, t0 + t, n0, rows, N, residual_stride, out_stride)
        item += n_panels
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
