"""Weights in float16, as the matrix units take them: of a row each by its unit, in arithmetic of float16. Multiplies no matrices.

    w[n, k] / unit[n] = S * (value[n, k] * 2^-24) + M       S = f16(2^15 * d * scale / top[n]), of k's group (decode.py)
                                                            M = f16(2^-9 * m * min / top[n]), or -OFFSET * 2^-24 * S
    top[n]: the least power of two that is not below bounds[n] (layout.Matrix); unit[n] = 2^9 * top[n]

A half whose last bits are a value, all others being 0, is value * 2^-24, since halves' steps are even there. So a mask makes two halves
of a word, and nothing is converted; and S is as large as halves allow, whatever the scales of a row are. Values may stay where their
plane has them, `lift` bits above a byte's beginning: they are 2^lift as large then, and S is that much smaller.

A format has one function: `lifted(words, ISA)` gives, of what its read_values (decode.py) has read, four int32 tensors [BN, BU, 4],
one a group: four values a word, a byte each, in the order of the columns. A byte of group g has (MASK << lift) of them, and its other
bits mean nothing.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0, Format
from rocforge.kernels.asm import halves_of, merged
from rocforge.kernels.columns import mixed
from rocforge.kernels.decode import byte_of, values_eights, values_levels

# 128 more in each byte: what was signed then is not.
FLIP = tl.constexpr(-0x7F7F7F80)

# ---- words


@triton.jit
def ones_of(both, ISA: tl.constexpr):
    """A plane of ones, int64 [BN, BU], to words [BN, BU, 4], bit 2 g of whose bytes is group g's; the other bits mean nothing.

    NVIDIA's without a number that lanes differ by, as little as in weights_of: else Triton makes the words elsewhere than they are
    multiplied. AMD's with one: a loop for 512 tokens would be half as long again.
    """
    a, b = both.to(tl.int32), (both >> 32).to(tl.int32)
    if ISA == "ptx":
        return tl.reshape(tl.join(tl.join(a, b), tl.join(a >> 1, b >> 1)), (both.shape[0], both.shape[1], 4))
    else:
        i = tl.arange(0, 4)[None, None, :]
        return tl.where(i < 2, a[:, :, None], b[:, :, None]) >> i % 2


@triton.jit
def lifted_fours(words, ISA: tl.constexpr):
    return words[0], words[0], words[1], words[1]


@triton.jit
def nibbles_under(a, b, h, ISA: tl.constexpr):
    """Nibbles of the two parts of a plane of fours, and above them what words h have of group g from bit 2 g on."""
    return merged(h << 4, a, 15, ISA), merged(h << 2, a >> 4, 15, ISA), merged(h, b, 15, ISA), merged(h >> 2, b >> 4, 15, ISA)


@triton.jit
def lifted_fives(words, ISA: tl.constexpr):
    return nibbles_under(words[0], words[1], ones_of(words[2], ISA), ISA)


@triton.jit
def lifted_sixes(words, ISA: tl.constexpr):
    return nibbles_under(words[0], words[1], words[2], ISA)


@triton.jit
def lifted_twos(words, ISA: tl.constexpr):
    return words[0], words[0], words[0], words[0]


@triton.jit
def lifted_threes(words, ISA: tl.constexpr):
    q, h = words[0], ones_of(words[1], ISA)
    upper = h << 2
    return merged(upper, q, 3, ISA), merged(upper, q, 12, ISA), merged(upper, q, 48, ISA), merged(h >> 4, q >> 6, 3, ISA)


class Lifted(NamedTuple):
    """How a format's values are lifted: LIFTS has a hexadecimal digit for each group, the first lowest."""

    lifted: Any
    MASK: int
    LIFTS: int = 0


_NIBBLES, _FIVES, _LEVELS = Lifted(lifted_fours, 0x0F, 0x4040), Lifted(lifted_fives, 0x1F), Lifted(values_levels, 0xFF)

LIFTED: dict[Format, Lifted] = {
    Q4_0: _NIBBLES,
    Q4_1: _NIBBLES,
    Q5_0: _FIVES,
    Q5_1: _FIVES,
    Q8_0: Lifted(values_eights, 0xFF),
    Q2_K: Lifted(lifted_twos, 0x03, 0x6420),
    Q3_K: Lifted(lifted_threes, 0x07, 0x0420),
    Q4_K: _NIBBLES,
    Q5_K: _FIVES,
    Q6_K: Lifted(lifted_sixes, 0x3F),
    IQ4_NL: _LEVELS,
    IQ4_XS: _LEVELS,
}


# ---- weights


@triton.jit
def units_of(bounds):
    """(2^15 / top, unit), float32, of rows with these bounds."""
    bits = tl.maximum(bounds, 2.0**-100).to(tl.int32, bitcast=True)
    top = ((bits + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)  # no fraction, the next exponent if there was one
    return 2.0**15 / top, 2.0**9 * top


@triton.jit
def weights_of(
    words, d, scales, m, mins, G: tl.constexpr, I: tl.constexpr, MASK: tl.constexpr, LIFTS: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """Group G's weights of each unit, float16 [BN, BU, word 4, byte // 2, byte % 2], by the unit of their row: d and m are 2^15 and
    2^-9 of them over its top. Scale and min are byte I of theirs.

    Nothing here moves a value to another lane, so the compiler may do all of it where the matrix instructions want their
    operands: between shared memory, where words lie, and them.
    """
    LIFT: tl.constexpr = (LIFTS >> 4 * G) & 15
    ZERO: tl.constexpr = 128 if SIGNED else OFFSET
    if SIGNED:
        words = words ^ FLIP
    b0, b1, b2, b3 = halves_of(words, MASK << LIFT, ISA)
    w = tl.join(tl.join(b0, b2), tl.join(b1, b3))
    if SCALED:
        d *= byte_of(scales, I)
        m *= byte_of(mins, I)
    s = d.to(tl.float16)
    w *= (s * 2.0**-LIFT)[:, :, None, None, None]
    if MINS:
        w += m.to(tl.float16)[:, :, None, None, None]
    elif ZERO > 0:
        w += (s * (-ZERO * 2.0**-24))[:, :, None, None, None]
    return w


@triton.jit
def columns_of(w0, w1, w2, w3, MIX: tl.constexpr, PAIRED: tl.constexpr):
    """The four groups' weights as rows of columns, [BN, BU * 64] in the order of `halves`."""
    BN: tl.constexpr = w0.shape[0]
    BU: tl.constexpr = w0.shape[1]
    w = tl.join(tl.join(w0, w1), tl.join(w2, w3))  # [BN, BU, word, byte // 2, byte % 2, group % 2, group // 2]
    w = tl.permute(w, (0, 1, 6, 5, 2, 4, 3))
    w = mixed(tl.reshape(w, (BN * BU // MIX, MIX, 2, 2, MIX, 4 // MIX, 2, 2)), MIX, PAIRED)
    return tl.reshape(w, (BN, BU * 64))
