"""Planes to words and scales: two functions a format, all that is known of its bits. Multiplies nothing.

Whatever the format, for the 16 columns of group g of a unit

    weight[k] = d[g // 2] * (scale[g] * (value[k] - OFFSET)) + m[g // 2] * min[g]

`read_values(quants, high, top, rows, first, end, U, BU, WIDE)` and `read_scales(scales, supers, top, rows, first, end, U, BU, WIDE)`
give what of the planes belongs to these rows and units, as tuples of tensors that wait for memory. `values(words, ISA)` makes of
the first four int32 tensors [BN, BU, 4], one a group: four values a word, a byte each, in the order of the columns.
`scales(words)` makes of the second d0, d1, m0, m1, float32 [BN, BU], and scales and mins, int32 words [BN, BU] with a
signed byte for each group, or each half (HALVES), the first lowest (`byte_of`). What a format lacks is 0 there, and
kernels leave it out by the format's traits (see Decoder).

The rows are `top` + rows [BN], an integer and a tensor of them, U the units of a row. Of the BU units from `first` on, those
from `end` on are 0; if that is None, there are as many.
layout.py draws the planes. A new format has an entry here, in layout.py (PLANES, REPACK, and MOST_SCALE if its scales are integers), in
weights.py (LIFTED), and in dots.py if its values need a way of their own.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Format
from rocforge.kernels.asm import lookup_nibbles

# ---- the parts of a word


@triton.jit
def half(word, shift: tl.constexpr):
    """The half that begins at bit `shift`, as float32."""
    return (word >> shift).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def byte_of(word, i: tl.constexpr):
    """Byte i of a word, 0 the lowest, with its sign."""
    return (word << (24 - 8 * i)) >> 24


@triton.jit
def word_at(plane, top, rows, first, end, per_row, BU: tl.constexpr, WIDE: tl.constexpr, SHARED: tl.constexpr = 1):
    """One element a unit, or for SHARED units, of a plane with `per_row` of them a row: [BN, BU].

    WIDE: a lane loads as many of a row as it can, each element once. Else neighbouring units belong to neighbouring
    lanes, as in four_words. By hints: they say nothing of what lies there, but Triton goes by them. Aligned, a lane would load
    several; without neighbours (SHARED), lanes would follow each other down the rows; and to have them where they are
    multiplied they would be moved through shared memory in each step.
    """
    BN: tl.constexpr = rows.shape[0]
    plane += tl.cast(top, tl.int64) * per_row
    if WIDE and SHARED > 1 and BU % SHARED == 0:
        each = first // SHARED + tl.arange(0, BU // SHARED)
        at = plane + rows[:, None] * per_row + each[None, :]
        if end is None:
            words = tl.load(at)
        else:
            words = tl.load(at, mask=(each * SHARED < end)[None, :], other=0)
        return tl.reshape(tl.broadcast_to(words[:, :, None], (BN, BU // SHARED, SHARED)), (BN, BU))
    if BU % SHARED == 0:
        at = (plane + first // SHARED) + (tl.arange(0, BU) // SHARED)[None, :] + rows[:, None] * per_row
    else:
        at = plane + ((first + tl.arange(0, BU)) // SHARED)[None, :] + rows[:, None] * per_row
    if not WIDE:
        at = tl.max_contiguous(tl.multiple_of(at, [1, 1]), [1, 2])
    if end is None:
        return tl.load(at)
    else:
        return tl.load(at, mask=(first + tl.arange(0, BU) < end)[None, :], other=0)


@triton.jit
def four_words(plane, top, rows, first, end, U, part, parts: tl.constexpr, BU: tl.constexpr):
    """[BN, BU, 4]: the four words of each unit in part `part` of `parts`, 128 bits a lane.

    Loaded as the row of words that they are: what goes by way of shared memory then lies there without conflicts. Of a
    descriptor (launch.descriptor) a box is loaded: other rows than these if they are not top + 0, 1 .., zeros beyond the
    last, and words of the next part, or zeros, beyond the end.
    """
    BN: tl.constexpr = rows.shape[0]
    if isinstance(plane, tl.tensor_descriptor):
        words = plane.load([top, (part * U + first) * 4])
    else:
        word = tl.arange(0, BU * 4)
        plane += (tl.cast(top, tl.int64) * parts + part) * U * 4 + first * 4
        at = plane + word[None, :] + rows[:, None] * (parts * U * 4)
        if end is None:
            words = tl.load(at)
        else:
            words = tl.load(at, mask=(first * 4 + word < end * 4)[None, :], other=0)
    return tl.reshape(words, (BN, BU, 4))


@triton.jit
def nibbles(a, b):
    """The two parts of a plane of fours to the words of the four groups."""
    return a & 0x0F0F0F0F, (a >> 4) & 0x0F0F0F0F, b & 0x0F0F0F0F, (b >> 4) & 0x0F0F0F0F


@triton.jit
def pairs_of_bits(q):
    """A plane of twos to the words of the four groups."""
    return q & 0x03030303, (q >> 2) & 0x03030303, (q >> 4) & 0x03030303, (q >> 6) & 0x03030303


@triton.jit
def bits(both):
    """A plane of ones to the words of the four groups."""
    a, b = both.to(tl.int32)[:, :, None], (both >> 32).to(tl.int32)[:, :, None]
    i = tl.arange(0, 4)[None, None, :]
    ab = tl.where(i < 2, a, b) >> i % 2
    return ab & 0x01010101, (ab >> 2) & 0x01010101, (ab >> 4) & 0x01010101, (ab >> 6) & 0x01010101


@triton.jit
def split_words(words):
    """[.., 4] to its four words, each [..]: a lane has all of them."""
    shape: tl.constexpr = words.shape
    pairs = tl.reshape(words, (shape[0], shape[1], 2, 2))
    even, odd = tl.split(pairs)
    w0, w2 = tl.split(even)
    w1, w3 = tl.split(odd)
    return w0, w1, w2, w3


# ---- values


@triton.jit
def read_fours(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    return four_words(quants, top, rows, first, end, U, 0, 2, BU), four_words(quants, top, rows, first, end, U, 1, 2, BU)


@triton.jit
def read_fours_ones(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    a, b = read_fours(quants, high, top, rows, first, end, U, BU, WIDE)
    return a, b, word_at(high, top, rows, first, end, U, BU, WIDE)


@triton.jit
def read_fours_twos(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    a, b = read_fours(quants, high, top, rows, first, end, U, BU, WIDE)
    return a, b, four_words(high, top, rows, first, end, U, 0, 1, BU)


@triton.jit
def read_twos(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    return (four_words(quants, top, rows, first, end, U, 0, 1, BU),)


@triton.jit
def read_twos_ones(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    return four_words(quants, top, rows, first, end, U, 0, 1, BU), word_at(high, top, rows, first, end, U, BU, WIDE)


@triton.jit
def read_eights(quants, high, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    return (
        four_words(quants, top, rows, first, end, U, 0, 4, BU),
        four_words(quants, top, rows, first, end, U, 1, 4, BU),
        four_words(quants, top, rows, first, end, U, 2, 4, BU),
        four_words(quants, top, rows, first, end, U, 3, 4, BU),
    )


@triton.jit
def values_fours(words, ISA: tl.constexpr):
    return nibbles(words[0], words[1])


@triton.jit
def values_fives(words, ISA: tl.constexpr):
    q0, q1, q2, q3 = nibbles(words[0], words[1])
    h0, h1, h2, h3 = bits(words[2])
    return q0 | (h0 << 4), q1 | (h1 << 4), q2 | (h2 << 4), q3 | (h3 << 4)


@triton.jit
def values_sixes(words, ISA: tl.constexpr):
    q0, q1, q2, q3 = nibbles(words[0], words[1])
    h0, h1, h2, h3 = pairs_of_bits(words[2])
    return q0 | (h0 << 4), q1 | (h1 << 4), q2 | (h2 << 4), q3 | (h3 << 4)


@triton.jit
def values_twos(words, ISA: tl.constexpr):
    return pairs_of_bits(words[0])


@triton.jit
def values_threes(words, ISA: tl.constexpr):
    q0, q1, q2, q3 = pairs_of_bits(words[0])
    h0, h1, h2, h3 = bits(words[1])
    return q0 | (h0 << 2), q1 | (h1 << 2), q2 | (h2 << 2), q3 | (h3 << 2)


@triton.jit
def values_eights(words, ISA: tl.constexpr):
    return words[0], words[1], words[2], words[3]


# kvalues_iq4nl: -127 -104 -83 -65 | -49 -35 -22 -10 | 1 13 25 38 | 53 69 89 113, four bytes a word
LEVELS_0, LEVELS_1, LEVELS_2, LEVELS_3 = (tl.constexpr(w) for w in (-1079142271, -152379953, 639175937, 1901675829))


@triton.jit
def levels(words, ISA: tl.constexpr):
    """kvalues_iq4nl[n] for the low nibbles n of the words' bytes, and for the high ones."""
    return lookup_nibbles(words, LEVELS_0, LEVELS_1, LEVELS_2, LEVELS_3, ISA)


@triton.jit
def values_levels(words, ISA: tl.constexpr):
    q0, q1 = levels(words[0], ISA)
    q2, q3 = levels(words[1], ISA)
    return q0, q1, q2, q3


# ---- scales


@triton.jit
def read_one(scales, supers, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    """The unit's own scales."""
    return (word_at(scales, top, rows, first, end, U, BU, WIDE),)


@triton.jit
def read_both(scales, supers, top, rows, first, end, U, BU: tl.constexpr, WIDE: tl.constexpr):
    """The unit's own scales and those of its block of 256."""
    return word_at(scales, top, rows, first, end, U, BU, WIDE), word_at(supers, top, rows, first, end, U // 4, BU, WIDE, 4)


@triton.jit
def scales_d(words):
    return half(words[0], 0), half(words[0], 16), 0, 0, 0, 0


@triton.jit
def scales_d_m(words):
    word = words[0]
    return half(word, 0), half(word, 32), half(word, 16), half(word, 48), 0, 0


@triton.jit
def d_dmin(word):
    """d and m = -dmin."""
    return half(word, 0), -half(word, 16)


@triton.jit
def only_d(halves):
    return halves.to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def scales_k4(words):
    d, m = d_dmin(words[1])
    return d, d, m, m, words[0], words[0] >> 16


@triton.jit
def scales_k2(words):
    d, m = d_dmin(words[1])
    return d, d, m, m, words[0] & 0x0F0F0F0F, (words[0] >> 4) & 0x0F0F0F0F


@triton.jit
def scales_k16(words):
    d = only_d(words[1])
    return d, d, 0, 0, words[0], 0


@triton.jit
def scales_xs(words):
    d = only_d(words[1])
    return d, d, 0, 0, words[0].to(tl.int32), 0


# ---- the table


class Decoder(NamedTuple):
    """How a format is read: its four functions, and its traits.

    Values are stored with OFFSET added. SCALED: groups have integer scales (and mins); HALVES: two
    groups share them. MINS: there is an m. SIGNED: values may be below 0.
    """

    read_values: Any
    values: Any
    read_scales: Any
    scales: Any
    OFFSET: int = 0
    SCALED: bool = True
    HALVES: bool = True
    MINS: bool = False
    SIGNED: bool = False


DECODE: dict[Format, Decoder] = {
    Q4_0: Decoder(read_fours, values_fours, read_one, scales_d, OFFSET=8, SCALED=False),
    Q4_1: Decoder(read_fours, values_fours, read_one, scales_d_m, SCALED=False, MINS=True),
    Q5_0: Decoder(read_fours_ones, values_fives, read_one, scales_d, OFFSET=16, SCALED=False),
    Q5_1: Decoder(read_fours_ones, values_fives, read_one, scales_d_m, SCALED=False, MINS=True),
    Q8_0: Decoder(read_eights, values_eights, read_one, scales_d, SCALED=False, SIGNED=True),
    Q2_K: Decoder(read_twos, values_twos, read_both, scales_k2, HALVES=False, MINS=True),
    Q3_K: Decoder(read_twos_ones, values_threes, read_both, scales_k16, OFFSET=4, HALVES=False),
    Q4_K: Decoder(read_fours, values_fours, read_both, scales_k4, MINS=True),
    Q5_K: Decoder(read_fours_ones, values_fives, read_both, scales_k4, MINS=True),
    Q6_K: Decoder(read_fours_twos, values_sixes, read_both, scales_k16, OFFSET=32, HALVES=False),
    IQ4_NL: Decoder(read_fours, values_levels, read_one, scales_d, SCALED=False, SIGNED=True),
    IQ4_XS: Decoder(read_fours, values_levels, read_both, scales_xs, SIGNED=True),
}
