"""Words of weights times words of activations: a unit's four groups in integers, exact. Knows no scales.

`dots(words, x0, x1, x2, x3, nothing, values, ISA)` takes what a format's read_values gives, with its `values` (decode.py), and the
activations' words of the four groups, [1, BU, 4] each; it gives int32 [BN, BU] for each group, the sum over its 16 columns of
value * x. Where two groups share their scale (Decoder.HALVES, or no scale) just the sum of both means something.
`nothing` is an int32 0 of which the compiler does not know that.

Instructions that take one operand as unsigned multiply bits where they lie in a byte, for 2^p times the product if they begin at
bit p: one shift of a sum then stands for those of all its words, and parts of a value are multiplied apart, the higher
first, instead of put together. Elsewhere values are made as decode.py does.
"""

from typing import Any

import triton
import triton.language as tl

from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Format
from rocforge.kernels.asm import dot4, dot4_unsigned, dot_levels
from rocforge.kernels.decode import LEVELS_0, LEVELS_1, LEVELS_2, LEVELS_3, split_words


@triton.jit
def dots_of_group(q, x, ISA: tl.constexpr):
    """A group's words of values q [BN, BU, 4], bytes with a sign, by its x [1, BU, 4]."""
    w0, w1, w2, w3 = split_words(q)
    x0, x1, x2, x3 = wide(x, w0)
    total = dot4(w0, x0, tl.zeros_like(w0), ISA)
    total = dot4(w1, x1, total, ISA)
    total = dot4(w2, x2, total, ISA)
    return dot4(w3, x3, total, ISA)


@triton.jit
def dots_of_values(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    q0, q1, q2, q3 = values(words, ISA)
    return dots_of_group(q0, x0, ISA), dots_of_group(q1, x1, ISA), dots_of_group(q2, x2, ISA), dots_of_group(q3, x3, ISA)


@triton.jit
def wide(x, like):
    """The four words of x [1, BU, 4], each as wide as `like` [BN, BU]."""
    x0, x1, x2, x3 = split_words(x)
    return (
        tl.broadcast_to(x0, like.shape), tl.broadcast_to(x1, like.shape), tl.broadcast_to(x2, like.shape),
        tl.broadcast_to(x3, like.shape),
    )  # fmt: skip


@triton.jit
def add_masked(w, x, mask: tl.constexpr, total, ISA: tl.constexpr):
    """total + the four words w, of which the mask's bits count, by the four words x."""
    total = dot4_unsigned(w[0] & mask, x[0], total, ISA)
    total = dot4_unsigned(w[1] & mask, x[1], total, ISA)
    total = dot4_unsigned(w[2] & mask, x[2], total, ISA)
    return dot4_unsigned(w[3] & mask, x[3], total, ISA)


@triton.jit
def in_bytes(bits: tl.constexpr):
    """The word that has these eight bits in each byte, as int32."""
    return bits * 0x01010101 - (1 << 32 if bits & 128 else 0)


@triton.jit
def ones_of(both, x, G: tl.constexpr, ISA: tl.constexpr):
    """2^(2G + 1) times group G's bits of a plane of ones [BN, BU] by its four words x."""
    a, b = both.to(tl.int32), (both >> 32).to(tl.int32)
    total = tl.zeros_like(a)
    total = dot4_unsigned(a & in_bytes(1 << (2 * G)), x[0], total, ISA)
    total = dot4_unsigned(b & in_bytes(1 << (2 * G)), x[2], total, ISA)
    total *= 2
    total = dot4_unsigned(a & in_bytes(2 << (2 * G)), x[1], total, ISA)
    return dot4_unsigned(b & in_bytes(2 << (2 * G)), x[3], total, ISA)


@triton.jit
def dots_fours(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    a, b = split_words(words[0]), split_words(words[1])
    zero = tl.zeros_like(a[0])
    i1 = add_masked(a, wide(x1, zero), in_bytes(0xF0), zero, ISA) >> 4
    i3 = add_masked(b, wide(x3, zero), in_bytes(0xF0), zero, ISA) >> 4
    i0 = add_masked(a, wide(x0, zero), in_bytes(0x0F), i1, ISA)
    i2 = add_masked(b, wide(x2, zero), in_bytes(0x0F), i3, ISA)
    return i0, zero, i2, zero


@triton.jit
def dots_fives(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    a, b = split_words(words[0]), split_words(words[1])
    zero = tl.zeros_like(a[0])
    x0, x1, x2, x3 = wide(x0, zero), wide(x1, zero), wide(x2, zero), wide(x3, zero)
    i1 = add_masked(a, x1, in_bytes(0xF0), ones_of(words[2], x1, 1, ISA) << 5, ISA) >> 4
    i3 = add_masked(b, x3, in_bytes(0xF0), ones_of(words[2], x3, 3, ISA) << 1, ISA) >> 4
    i0 = add_masked(a, x0, in_bytes(0x0F), i1 + (ones_of(words[2], x0, 0, ISA) << 3), ISA)
    i2 = add_masked(b, x2, in_bytes(0x0F), i3 + (ones_of(words[2], x2, 2, ISA) >> 1), ISA)
    return i0, zero, i2, zero


@triton.jit
def dots_sixes(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    a, b, h = split_words(words[0]), split_words(words[1]), split_words(words[2])
    zero = tl.zeros_like(a[0])
    x0, x1, x2, x3 = wide(x0, zero), wide(x1, zero), wide(x2, zero), wide(x3, zero)
    i0 = add_masked(a, x0, in_bytes(0x0F), add_masked(h, x0, in_bytes(0x03), zero, ISA) << 4, ISA)
    i1 = add_masked(a, x1, in_bytes(0xF0), add_masked(h, x1, in_bytes(0x0C), zero, ISA) << 6, ISA) >> 4
    i2 = add_masked(b, x2, in_bytes(0x0F), add_masked(h, x2, in_bytes(0x30), zero, ISA), ISA)
    i3 = add_masked(b, x3, in_bytes(0xF0), add_masked(h, x3, in_bytes(0xC0), zero, ISA) << 2, ISA) >> 4
    return i0, i1, i2, i3


@triton.jit
def dots_twos(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    a = split_words(words[0])
    zero = tl.zeros_like(a[0])
    i0 = add_masked(a, wide(x0, zero), in_bytes(0x03), zero, ISA)
    i1 = add_masked(a, wide(x1, zero), in_bytes(0x0C), zero, ISA) >> 2
    i2 = add_masked(a, wide(x2, zero), in_bytes(0x30), zero, ISA) >> 4
    i3 = add_masked(a, wide(x3, zero), in_bytes(0xC0), zero, ISA) >> 6
    return i0, i1, i2, i3


@triton.jit
def dots_threes(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    a = split_words(words[0])
    zero = tl.zeros_like(a[0])
    x0, x1, x2, x3 = wide(x0, zero), wide(x1, zero), wide(x2, zero), wide(x3, zero)
    i0 = add_masked(a, x0, in_bytes(0x03), ones_of(words[1], x0, 0, ISA) << 1, ISA)
    i1 = add_masked(a, x1, in_bytes(0x0C), ones_of(words[1], x1, 1, ISA) << 1, ISA) >> 2
    i2 = add_masked(a, x2, in_bytes(0x30), ones_of(words[1], x2, 2, ISA) << 1, ISA) >> 4
    i3 = add_masked(a, x3, in_bytes(0xC0), ones_of(words[1], x3, 3, ISA) << 1, ISA) >> 6
    return i0, i1, i2, i3


@triton.jit
def dots_levels(words, x0, x1, x2, x3, nothing, values: tl.constexpr, ISA: tl.constexpr):
    zero = tl.zeros_like(split_words(words[0])[0])
    return levels_of(words[0], x0, x1, zero, nothing), zero, levels_of(words[1], x2, x3, zero, nothing), zero


@triton.jit
def levels_of(words, x_low, x_high, total, nothing):
    """total + the levels of the words [BN, BU, 4] by the words of the groups of their low nibbles and their high ones."""
    w, low, high = split_words(words), wide(x_low, total), wide(x_high, total)
    # Known numbers would be brought to registers again for each word.
    t0, t1, t2, t3 = nothing + LEVELS_0, nothing + LEVELS_1, nothing + LEVELS_2, nothing + LEVELS_3
    for i in tl.static_range(4):
        total = dot_levels(w[i], low[i], high[i], total, t0, t1, t2, t3)
    return total


# For Target.isa. AMD's dot instructions take as long as what makes a word of values: there two of them gain nothing.
_FEW_BITS = {**dict.fromkeys((Q4_0, Q4_1, Q4_K), dots_fours), Q2_K: dots_twos}
_BY_ISA: dict[str, dict[Format, Any]] = {
    "ptx": {
        **_FEW_BITS, **dict.fromkeys((Q5_0, Q5_1, Q5_K), dots_fives), Q3_K: dots_threes, Q6_K: dots_sixes,
        **dict.fromkeys((IQ4_NL, IQ4_XS), dots_levels),
    },
    "rdna": _FEW_BITS,
}  # fmt: skip


def dots_of(format: Format, isa: str) -> Any:
    """A format's `dots` for Target.isa."""
    return _BY_ISA.get(isa, {}).get(format, dots_of_values)


def ways_of(format: Format) -> list[Any]:
    """All that dots_of may give for a format."""
    return list(dict.fromkeys(dots_of(format, isa) for isa in ("portable", *_BY_ISA)))
