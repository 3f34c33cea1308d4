"""Blocks of 16 rows to strips: one function a format, all that is known of its bits. Multiplies nothing.

A strip is 32 columns of 16 rows, unpacked so that whatever the format,

    weight[k] = scale[k // 16] * (value[k] - offset) + min[k // 16]

with bytes 0 <= value <= 255 and float32 `scale` and `min`, products of a half and an integer of 8 bits
at the most, and so exact; formats that subtract a minimum hold it negative. Lane r of every vector below
belongs to row r; a format leaves out what it lacks. The layouts of the blocks are those of ggml
(`ggml-common.h`, `gguf.quants`).

Each `unpack(w, stride, strip, pitch, raw)` unpacks one block of each of 16 rows: row r's begins at
address `w + r * stride`. A block of 256 makes eight strips, `pitch` bytes apart, one of 32 makes one. Four bytes of 16
rows are one vector, so the arithmetic below works on four columns at a time, the four bytes of a
word; `raw` is scratch for RAW_BYTES.
"""

from typing import NamedTuple

from rocforge.cpu.isa import load, store
from rocforge.cpu.lanes import column_half, column_i32, half_high, half_low, lookup, store_columns, to_f32
from rocforge.cpu.threads import inline

# A strip's parts, by offset in bytes.
VALUES = 0  # uint8 [8][16 rows][4]: value[4 * i + j] of row r at (i, r, j)
SCALES = 512  # float32 [2][16 rows]: of columns 0-15 and 16-31, or one for all 32
MINS = 640  # float32 [2][16 rows], likewise
STRIP_BYTES = 768
HALF = 64  # from scale or min 0 to 1; 256 from the values of columns 0-15 to those of 16-31

RAW_BYTES = 64 * 52  # 208 bytes of 16 rows
FLIP = 0x80808080  # by exclusive or: signed bytes plus 128



class Layout(NamedTuple):
    """What a kernel knows of a format beside its unpack(): columns of a block, its bytes, whether each 16
    columns have a scale (and min) of their own or all 32 one, whether there are minimums, and what each
    value is too large by."""

    block: int
    block_bytes: int
    by_halves: bool
    has_mins: bool
    offset: int


Q4_0 = Layout(32, 18, False, False, 8)
Q4_1 = Layout(32, 20, False, True, 0)
Q5_0 = Layout(32, 22, False, False, 16)
Q5_1 = Layout(32, 24, False, True, 0)
Q8_0 = Layout(32, 34, False, False, 128)
IQ4_NL = Layout(32, 18, False, False, 128)
Q2_K = Layout(256, 84, True, True, 0)
Q3_K = Layout(256, 110, True, False, 4)
Q4_K = Layout(256, 144, False, True, 0)
Q5_K = Layout(256, 176, False, True, 0)
Q6_K = Layout(256, 210, True, False, 32)
IQ4_XS = Layout(256, 136, False, False, 128)

load_word, store_word = load(16, "i32"), store(16, "i32")
store_lanes = store(16, "f32")
# ggml's kvalues_iq4nl, -127 to 113, plus 128
level = lookup((1, 24, 45, 63, 79, 93, 106, 118, -127, -115, -103, -90, -75, -59, -39, -15))


@inline
def transpose(w, stride, n_bytes, raw):
    """`n_bytes` (a multiple of 16) of each of 16 rows to words: word i is raw[i], lane r that of row r."""
    for i in range(0, n_bytes, 16):
        store_columns(w + i, stride, raw + 16 * i)


@inline
def word(raw, i):
    """Bytes 4i .. 4i+3 of what was transposed."""
    return load_word(raw + 64 * i)


@inline
def bits(x, shift, mask):
    """The field `(byte >> shift) & mask` of each byte of the words."""
    return (x >> shift) & 0x01010101 * mask


@inline
def put(strip, i, values):
    """Columns 4i .. 4i+3."""
    store_word(strip + VALUES + 64 * i, values)


@inline
def put_nibbles(strip, raw):
    """16 bytes: their low nibbles to columns 0-15, the high ones to 16-31."""
    for i in range(4):
        put(strip, i, bits(word(raw, i), 0, 15))
        put(strip, 4 + i, bits(word(raw, i), 4, 15))


@inline
def put_levels(strip, raw):
    """As put_nibbles, each nibble standing for a level."""
    for i in range(4):
        put(strip, i, level(bits(word(raw, i), 0, 15)))
        put(strip, 4 + i, level(bits(word(raw, i), 4, 15)))


# ---- blocks of 32


@inline
def unpack_q4_0(w, stride, strip, pitch, raw):
    """d, 16 bytes of nibbles."""
    store_lanes(strip + SCALES, column_half(w, stride))
    transpose(w + 2, stride, 16, raw)
    put_nibbles(strip, raw)


@inline
def put_d_m(strip, d_m):
    """The two halves of a word: scale and min."""
    store_lanes(strip + SCALES, half_low(d_m))
    store_lanes(strip + MINS, half_high(d_m))


@inline
def unpack_q4_1(w, stride, strip, pitch, raw):
    """d, m, 16 bytes of nibbles."""
    put_d_m(strip, column_i32(w, stride))
    transpose(w + 4, stride, 16, raw)
    put_nibbles(strip, raw)


@inline
def put_fives(strip, raw, fifth):
    """value = nibble | bit of `fifth` << 4; bit k of the word `fifth` is column k's."""
    for i in range(4):
        # The product puts bits 0..3 where the mask looks: into bytes 0..3.
        low = bits(((fifth >> 4 * i) & 15) * 0x00204081, 0, 1)
        high = bits(((fifth >> (16 + 4 * i)) & 15) * 0x00204081, 0, 1)
        put(strip, i, bits(word(raw, i), 0, 15) | low << 4)
        put(strip, 4 + i, bits(word(raw, i), 4, 15) | high << 4)


@inline
def unpack_q5_0(w, stride, strip, pitch, raw):
    """d, 32 fifth bits, 16 bytes of nibbles."""
    store_lanes(strip + SCALES, column_half(w, stride))
    transpose(w + 6, stride, 16, raw)
    put_fives(strip, raw, column_i32(w + 2, stride))


@inline
def unpack_q5_1(w, stride, strip, pitch, raw):
    """d, m, 32 fifth bits, 16 bytes of nibbles."""
    put_d_m(strip, column_i32(w, stride))
    transpose(w + 8, stride, 16, raw)
    put_fives(strip, raw, column_i32(w + 4, stride))


@inline
def unpack_q8_0(w, stride, strip, pitch, raw):
    """d, 32 int8, each of which plus 128 is the value."""
    store_lanes(strip + SCALES, column_half(w, stride))
    transpose(w + 2, stride, 32, strip + VALUES)
    for i in range(8):
        put(strip, i, load_word(strip + VALUES + 64 * i) ^ FLIP)


@inline
def unpack_iq4_nl(w, stride, strip, pitch, raw):
    """d, 16 bytes of nibbles: value = level[nibble]."""
    store_lanes(strip + SCALES, column_half(w, stride))
    transpose(w + 2, stride, 16, raw)
    put_levels(strip, raw)


# ---- blocks of 256


@inline
def put_scaled(strip, pitch, part, d, numbers, offset):
    """d times byte j of the words `numbers`, less `offset`, to the first scale or min (`part`) of strip j."""
    for j in range(4):
        store_lanes(strip + j * pitch + part, d * to_f32(((numbers >> 8 * j) & 255) - offset))


@inline
def put_half_scaled(strip, pitch, part, d, numbers, offset):
    """The same, byte j to number j % 2 of strip j // 2."""
    for j in range(4):
        at = strip + j // 2 * pitch + part + j % 2 * HALF
        store_lanes(at, d * to_f32(((numbers >> 8 * j) & 255) - offset))


@inline
def put_k4_header(strip, pitch, raw):
    """d, dmin, and 8 scales and 8 minimums of 6 bits: Q4_K's and Q5_K's first 16 bytes."""
    d, m = half_low(word(raw, 0)), half_high(word(raw, 0)) * -1.0
    scales, mins, high = word(raw, 1), word(raw, 2), word(raw, 3)
    put_scaled(strip, pitch, SCALES, d, bits(scales, 0, 63), 0)
    put_scaled(strip + 4 * pitch, pitch, SCALES, d, bits(high, 0, 15) | bits(scales, 6, 3) << 4, 0)
    put_scaled(strip, pitch, MINS, m, bits(mins, 0, 63), 0)
    put_scaled(strip + 4 * pitch, pitch, MINS, m, bits(high, 4, 15) | bits(mins, 6, 3) << 4, 0)


@inline
def unpack_q4_k(w, stride, strip, pitch, raw):
    """16 bytes of scales, then 4 x 32 bytes: low nibbles of one strip, high ones of the next."""
    transpose(w, stride, 144, raw)
    put_k4_header(strip, pitch, raw)
    for j in range(4):
        at = strip + 2 * j * pitch
        for i in range(8):
            q = word(raw, 4 + 8 * j + i)
            put(at, i, bits(q, 0, 15))
            put(at + pitch, i, bits(q, 4, 15))


@inline
def unpack_q5_k(w, stride, strip, pitch, raw):
    """As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of a byte is strip j's."""
    transpose(w, stride, 176, raw)
    put_k4_header(strip, pitch, raw)
    for j in range(4):
        at = strip + 2 * j * pitch
        for i in range(8):
            q, fifth = word(raw, 12 + 8 * j + i), word(raw, 4 + i)
            put(at, i, bits(q, 0, 15) | bits(fifth, 2 * j, 1) << 4)
            put(at + pitch, i, bits(q, 4, 15) | bits(fifth, 2 * j + 1, 1) << 4)


@inline
def unpack_q2_k(w, stride, strip, pitch, raw):
    """16 scales and minimums of 4 bits, 2 x 32 bytes of four 2-bit strips each, d, dmin."""
    transpose(w, stride, 80, raw)
    d_dmin = column_i32(w + 80, stride)
    d, m = half_low(d_dmin), half_high(d_dmin) * -1.0
    for j in range(4):
        pair, numbers = strip + 2 * j * pitch, word(raw, j)
        put_half_scaled(pair, pitch, SCALES, d, bits(numbers, 0, 15), 0)
        put_half_scaled(pair, pitch, MINS, m, bits(numbers, 4, 15), 0)
    for j in range(8):
        for i in range(8):
            put(strip + j * pitch, i, bits(word(raw, 4 + 8 * (j // 4) + i), 2 * (j % 4), 3))


@inline
def unpack_q3_k(w, stride, strip, pitch, raw):
    """32 bytes of third bits (bit j: strip j), 2 x 32 bytes as Q2_K's, 16 scales of 6 bits, d.

    scale = 6 bits - 32; scales i and i + 8 share a byte of low nibbles, and
    i, i + 4, i + 8, i + 12 one of high pairs.
    """
    transpose(w, stride, 96, raw)
    d, pairs = column_half(w + 108, stride), column_i32(w + 104, stride)
    for j in range(4):
        nibbles = column_i32(w + 96 + 4 * (j % 2), stride)
        scales = bits(nibbles, 4 * (j // 2), 15) | bits(pairs, 2 * j, 3) << 4
        put_half_scaled(strip + 2 * j * pitch, pitch, SCALES, d, scales, 32)
    for j in range(8):
        for i in range(8):
            low, third = word(raw, 8 + 8 * (j // 4) + i), word(raw, i)
            put(strip + j * pitch, i, bits(low, 2 * (j % 4), 3) | bits(third, j, 1) << 2)


@inline
def unpack_q6_k(w, stride, strip, pitch, raw):
    """128 bytes of nibbles, 64 of upper pairs, 16 int8 scales, d.

    Of each half's 64 bytes of nibbles, the low ones are strips 0 and 1, the high ones 2 and 3.
    """
    transpose(w, stride, 208, raw)
    d = column_half(w + 208, stride)
    for j in range(4):
        # A byte plus 128, modulo 256, less 128 is the signed byte.
        put_half_scaled(strip + 2 * j * pitch, pitch, SCALES, d, word(raw, 48 + j) ^ FLIP, 128)
    for half in range(2):
        for j in range(4):
            at = strip + (4 * half + j) * pitch
            for i in range(8):
                nibbles = bits(word(raw, 16 * half + 8 * (j % 2) + i), 4 * (j // 2), 15)
                pairs = bits(word(raw, 32 + 8 * half + i), 2 * j, 3)
                put(at, i, nibbles | pairs << 4)


@inline
def unpack_iq4_xs(w, stride, strip, pitch, raw):
    """d, 8 upper pairs, 8 lower nibbles of 6-bit scales (less 32), 128 bytes as IQ4_NL's."""
    head, low = column_i32(w, stride), column_i32(w + 4, stride)
    d = half_low(head)
    for j in range(8):
        scale = ((low >> 4 * j) & 15) | ((head >> (16 + 2 * j)) & 3) << 4
        store_lanes(strip + j * pitch + SCALES, d * to_f32(scale - 32))
    transpose(w + 8, stride, 128, raw)
    for j in range(8):
        put_levels(strip + j * pitch, raw + 256 * j)
