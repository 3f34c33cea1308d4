"""Block formats taken apart: one unpacker a format, from a block's bytes to scaled integers.

Whatever the format, 32 columns j of a row come out as integers w and two floats, such that

    weight[k] = a_j * w[k] + b_j * min[k // 16]

`w` (int16) is the block's integer times its integer scale, where the format has one, so that a
product with 8-bit activations is exact in int32. A Chunk, 256 columns of one row, is laid out as

    offset 0      int16 w[256]
    offset 512    int16 min[16]
    offset 544    float32 a[8]
    offset 576    float32 b[8]

Layouts of the blocks: ggml-common.h of ggml. An unpacker `f(block, chunk, j)` writes the columns
from 32 j on; those of 256-value blocks are called with j = 0.
"""

from rocforge.cpu.isa import (
    bits,
    bytes_of_bits,
    high_nibbles,
    load,
    load_half,
    load_i8,
    load_u8,
    load_u16,
    load_u32,
    low_nibbles,
    or32,
    scale_halves,
    shift_left,
    split_nibbles,
    store,
    store_f32,
    store_i16,
    subtract,
    table16,
    widen8,
)
from rocforge.cpu.threads import inline
from rocforge.gguf.formats import (
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
    Q8_0,
)

CHUNK = 256  # columns
CHUNK_BYTES = 640
MINS, A, B = 512, 544, 576

load16, load32 = load(16, "i8"), load(32, "i8")
store_w = store(32, "i16")
# The 16 levels of IQ4_NL and IQ4_XS (ggml-common.h, kvalues_iq4nl).
iq4_levels = table16((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))


@inline
def put(chunk, j, values, a, b, low, high):
    """32 int8 values, unscaled, and the float scale; `low` and `high` are the halves' minimums."""
    store_w(chunk + 64 * j, widen8(values))
    put_scale(chunk, j, a, b, low, high)


@inline
def put_scale(chunk, j, a, b, low, high):
    store_f32(chunk + A + 4 * j, a)
    store_f32(chunk + B + 4 * j, b)
    store_i16(chunk + MINS + 4 * j, low)
    store_i16(chunk + MINS + 4 * j + 2, high)


@inline
def unpack_q4_0(block, chunk, j):
    put(chunk, j, subtract(split_nibbles(load16(block + 2)), 8), load_half(block), 0.0, 0, 0)


@inline
def unpack_q4_1(block, chunk, j):
    put(chunk, j, split_nibbles(load16(block + 4)), load_half(block), load_half(block + 2), 1, 1)


@inline
def unpack_q5_0(block, chunk, j):
    fifth = bytes_of_bits(load_u32(block + 2), 16)
    values = subtract(or32(split_nibbles(load16(block + 6)), fifth), 16)
    put(chunk, j, values, load_half(block), 0.0, 0, 0)


@inline
def unpack_q5_1(block, chunk, j):
    fifth = bytes_of_bits(load_u32(block + 4), 16)
    values = or32(split_nibbles(load16(block + 8)), fifth)
    put(chunk, j, values, load_half(block), load_half(block + 2), 1, 1)


@inline
def unpack_q8_0(block, chunk, j):
    put(chunk, j, load32(block + 2), load_half(block), 0.0, 0, 0)


@inline
def unpack_iq4_nl(block, chunk, j):
    put(chunk, j, iq4_levels(split_nibbles(load16(block + 2))), load_half(block), 0.0, 0, 0)


@inline
def unpack_iq4_xs(block, chunk, j):
    d, high = load_half(block), load_u16(block + 2)
    for i in range(8):
        low = (load_u8(block + 4 + i // 2) >> (4 * (i % 2))) & 15
        scale = (low | ((high >> (2 * i)) & 3) << 4) - 32
        values = iq4_levels(split_nibbles(load16(block + 8 + 16 * i)))
        store_w(chunk + 64 * i, scale_halves(values, scale, scale))
        put_scale(chunk, i, d, 0.0, 0, 0)


@inline
def scale_min_k4(scales, i):
    """Scale and minimum i of Q4_K and Q5_K: 6 bits each, eight of either in 12 bytes."""
    if i < 4:
        return load_u8(scales + i) & 63, load_u8(scales + i + 4) & 63
    ends, low, high = load_u8(scales + i + 4), load_u8(scales + i - 4), load_u8(scales + i)
    return (ends & 15) | (low >> 6) << 4, ends >> 4 | (high >> 6) << 4


@inline
def put_k4(chunk, i, values, scales, d, dmin):
    scale, minimum = scale_min_k4(scales, i)
    store_w(chunk + 64 * i, scale_halves(values, scale, scale))
    put_scale(chunk, i, d, -dmin, minimum, minimum)


@inline
def unpack_q4_k(block, chunk, j):
    d, dmin = load_half(block), load_half(block + 2)
    for i in range(4):
        quants = load32(block + 16 + 32 * i)
        put_k4(chunk, 2 * i, low_nibbles(quants), block + 4, d, dmin)
        put_k4(chunk, 2 * i + 1, high_nibbles(quants), block + 4, d, dmin)


@inline
def unpack_q5_k(block, chunk, j):
    d, dmin = load_half(block), load_half(block + 2)
    fifth = load32(block + 16)
    for i in range(4):
        quants = load32(block + 48 + 32 * i)
        low = or32(low_nibbles(quants), shift_left(bits(fifth, 2 * i, 1), 4))
        high = or32(high_nibbles(quants), shift_left(bits(fifth, 2 * i + 1, 1), 4))
        put_k4(chunk, 2 * i, low, block + 4, d, dmin)
        put_k4(chunk, 2 * i + 1, high, block + 4, d, dmin)


@inline
def unpack_q2_k(block, chunk, j):
    d, dmin = load_half(block + 80), load_half(block + 82)
    for i in range(8):
        values = bits(load32(block + 16 + 32 * (i // 4)), 2 * (i % 4), 3)
        low, high = load_u8(block + 2 * i), load_u8(block + 2 * i + 1)
        store_w(chunk + 64 * i, scale_halves(values, low & 15, high & 15))
        put_scale(chunk, i, d, -dmin, low >> 4, high >> 4)


@inline
def scale_k3(scales, i):
    """Scale i of Q3_K: 6 bits, low four of all 16 in 8 bytes, high two in the next 4; minus 32."""
    low = (load_u8(scales + i % 8) >> (4 * (i // 8))) & 15
    return (low | ((load_u8(scales + 8 + i % 4) >> (2 * (i // 4))) & 3) << 4) - 32


@inline
def unpack_q3_k(block, chunk, j):
    d, third = load_half(block + 108), load32(block)
    for i in range(8):
        quants = bits(load32(block + 32 + 32 * (i // 4)), 2 * (i % 4), 3)
        values = subtract(or32(quants, shift_left(bits(third, i, 1), 2)), 4)
        store_w(chunk + 64 * i, scale_halves(values, scale_k3(block + 96, 2 * i), scale_k3(block + 96, 2 * i + 1)))
        put_scale(chunk, i, d, 0.0, 0, 0)


@inline
def put_k6(chunk, i, nibbles, top, shift, scales, d):
    values = subtract(or32(nibbles, shift_left(bits(top, shift, 3), 4)), 32)
    store_w(chunk + 64 * i, scale_halves(values, load_i8(scales + 2 * i), load_i8(scales + 2 * i + 1)))
    put_scale(chunk, i, d, 0.0, 0, 0)


@inline
def unpack_q6_k(block, chunk, j):
    d = load_half(block + 208)
    for half in range(2):
        first, second = load32(block + 64 * half), load32(block + 64 * half + 32)
        top = load32(block + 128 + 32 * half)
        put_k6(chunk, 4 * half, low_nibbles(first), top, 0, block + 192, d)
        put_k6(chunk, 4 * half + 1, low_nibbles(second), top, 2, block + 192, d)
        put_k6(chunk, 4 * half + 2, high_nibbles(first), top, 4, block + 192, d)
        put_k6(chunk, 4 * half + 3, high_nibbles(second), top, 6, block + 192, d)


UNPACK = {
    Q4_0: unpack_q4_0,
    Q4_1: unpack_q4_1,
    Q5_0: unpack_q5_0,
    Q5_1: unpack_q5_1,
    Q8_0: unpack_q8_0,
    Q2_K: unpack_q2_k,
    Q3_K: unpack_q3_k,
    Q4_K: unpack_q4_k,
    Q5_K: unpack_q5_k,
    Q6_K: unpack_q6_k,
    IQ4_NL: unpack_iq4_nl,
    IQ4_XS: unpack_iq4_xs,
}
