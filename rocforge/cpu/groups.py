"""256 columns of a row to vectors: one function a format, all that the row kernel knows of its bits.

The same blocks as in decode.py, whose lanes are rows, with columns in the lanes. A group is eight
strips of 32 columns; whatever the format,

    weight[k] = scale[k // 16] * (value[k] - offset) + min[k // 16]

as there. Each function takes the address of a group and gives

    values         four vectors of 64 bytes, in the order of columns
    scale, min     f32x8 twice each, a lane for each strip: of its columns 0-15, or of all 32; then of 16-31

as (values, scale, next scale, min, next min), zeros standing for what the format lacks.
"""

from llvmlite import ir
from numba import types

from rocforge.cpu.decode import level
from rocforge.cpu.half import widen
from rocforge.cpu.isa import (
    ELEMENT,
    I16,
    I32,
    I64,
    Vec,
    constant,
    i32x16,
    instruction,
    load,
    load_i16,
    load_i32,
    load_i64,
    pointer,
    shuffle,
    spread,
    zero,
)
from rocforge.cpu.lanes import as_bytes, as_words, half, i8x64
from rocforge.cpu.threads import inline

f32x8, i32x8, i8x16, i16x16 = Vec(8, "f32"), Vec(8, "i32"), Vec(16, "i8"), Vec(16, "i16")
I8X8, I8X16 = (ir.VectorType(ELEMENT["i8"], n) for n in (8, 16))

load64, load16 = load(64, "i8"), load(16, "i8")
none = zero(8, "f32")


# ---- bytes to values


def _at(b, address, n):
    return b.load(pointer(b, address, ir.VectorType(ELEMENT["i8"], n)), align=1)


def _field(b, x, shifts, mask):
    """(byte >> shift) & mask, with a shift for each 4 bytes, all of one sign; negative ones go to the left.

    What comes in from a neighbouring byte is masked away.
    """
    right = min(shifts) >= 0
    amounts = constant(16, "i32", [abs(s) for s in shifts])
    shifted = (b.lshr if right else b.shl)(b.bitcast(x, i32x16.llvm), amounts)
    return b.and_(b.bitcast(shifted, i8x64.llvm), constant(64, "i8", [mask] * 64))


def fields(low, high, mask):
    """-> intrinsic(address of 32 bytes) -> (byte >> low) & mask of each, then (byte >> high) & mask of each."""

    def emit(b, a):
        x = _at(b, a, 32)
        return _field(b, shuffle(b, x, x, [*range(32), *range(32)]), [low] * 8 + [high] * 8, mask)

    return instruction(i8x64, (types.intp,), emit)


def _nibbles(b, first, second):
    x, y = _at(b, first, 16), _at(b, second, 16)
    both = shuffle(b, x, y, [*range(16), *range(16), *range(16, 32), *range(16, 32)])
    return _field(b, both, ([0] * 4 + [4] * 4) * 2, 15)


def _fifths(b, first, second):
    bits = [b.zext(b.load(pointer(b, a, I32), align=1), I64) for a in (first, second)]
    both = b.or_(bits[0], b.shl(bits[1], I64(32)))
    lanes = b.bitcast(both, ir.VectorType(ir.IntType(1), 64))
    return b.select(lanes, constant(64, "i8", [16] * 64), constant(64, "i8", [0] * 64))


# (address, address): 16 bytes' low nibbles and then their high ones, of either
nibbles = instruction(i8x64, (types.intp, types.intp), _nibbles)
# (address, address): bit k of two words of 32 bits, times 16, in byte k
fifths = instruction(i8x64, (types.intp, types.intp), _fifths)
nibble_high = instruction(i8x64, (i8x64,), lambda b, x: _field(b, x, [4] * 16, 15))
# (address, address): 32 bytes of either
halves_at = instruction(
    i8x64, (types.intp, types.intp), lambda b, x, y: shuffle(b, _at(b, x, 32), _at(b, y, 32), range(64))
)
nibbles32, pairs0, pairs4 = fields(0, 4, 15), fields(0, 2, 3), fields(4, 6, 3)
# Bits j and j + 1, j = 0, 2, 4, 6, as bit 2 and as bit 4; pairs as bits 4 and 5.
third0, third2, third4, third6 = (fields(j - 2, j - 1, 4) for j in (0, 2, 4, 6))
fifth0, fifth2, fifth4, fifth6 = (fields(j - 4, j - 3, 16) for j in (0, 2, 4, 6))
upper0, upper4 = fields(-4, -2, 48), fields(0, 2, 48)


# ---- scales


def _column(b, address, stride, llvm):
    """Of each of 8 blocks that are `stride` bytes apart, the element at `address`."""
    out = ir.Constant(ir.VectorType(llvm, 8), ir.Undefined)
    for i in range(8):
        out = b.insert_element(out, b.load(pointer(b, b.add(address, I64(stride * i)), llvm), align=1), I32(i))
    return out


def column_half(stride):
    """-> intrinsic(address) -> the halves of 8 blocks, as float32."""
    return instruction(f32x8, (types.intp,), lambda b, a: widen(b, _column(b, a, stride, I16)))


def column_i32(stride):
    """-> intrinsic(address) -> the words of 8 blocks."""
    return instruction(i32x8, (types.intp,), lambda b, a: _column(b, a, stride, I32))


def _six_bits(b, low, high):
    """Nibble j of `low` and pair j of `high` above it, less 32, for j = 0 .. 7, as float32."""
    lanes = lambda x, step, mask: b.and_(
        b.lshr(spread(b, b.trunc(x, I32), 8), constant(8, "i32", range(0, 8 * step, step))), constant(8, "i32", [mask] * 8)
    )
    six = b.or_(lanes(low, 4, 15), b.shl(lanes(high, 2, 3), constant(8, "i32", [4] * 8)))
    return b.sitofp(b.sub(six, constant(8, "i32", [32] * 8)), f32x8.llvm)


def _bytes16(b, low, high):
    words = ir.Constant(ir.VectorType(I64, 2), ir.Undefined)
    for i, word in enumerate((low, high)):
        words = b.insert_element(words, word, I32(i))
    return b.bitcast(words, I8X16)


d18, d22, d34 = (column_half(n) for n in (18, 22, 34))
d_m20, d_m24, half_low, half_high = column_i32(20), column_i32(24), half(8, 0), half(8, 16)
six_bits = instruction(f32x8, (types.int64, types.int64), _six_bits)
bytes16 = instruction(i8x16, (types.int64, types.int64), _bytes16)
# (address) -> the half there, as float32, in all lanes
half_of_all = instruction(f32x8, (types.intp,), lambda b, a: widen(b, spread(b, b.load(pointer(b, a, I16), align=1), 8)))
# the 8 bytes of a word as float32
bytes_f32 = instruction(f32x8, (types.int64,), lambda b, x: b.uitofp(b.zext(b.bitcast(x, I8X8), i32x8.llvm), f32x8.llvm))


def _every_second(first, extend, convert):
    """-> intrinsic(16 bytes) -> every second one, from the `first` on, as float32."""
    emit = lambda b, x: getattr(b, convert)(getattr(b, extend)(shuffle(b, x, x, range(first, 16, 2)), i32x8.llvm), f32x8.llvm)
    return instruction(f32x8, (i8x16,), emit)


even_unsigned, odd_unsigned = (_every_second(first, "zext", "uitofp") for first in (0, 1))
even_signed, odd_signed = (_every_second(first, "sext", "sitofp") for first in (0, 1))


# ---- blocks of 32: eight to a group


@inline
def q4_0(w):
    values = nibbles(w + 2, w + 20), nibbles(w + 38, w + 56), nibbles(w + 74, w + 92), nibbles(w + 110, w + 128)
    return values, d18(w), none(), none(), none()


@inline
def q4_1(w):
    values = nibbles(w + 4, w + 24), nibbles(w + 44, w + 64), nibbles(w + 84, w + 104), nibbles(w + 124, w + 144)
    d_m = d_m20(w)
    return values, half_low(d_m), none(), half_high(d_m), none()


@inline
def q5_0(w):
    values = (
        nibbles(w + 6, w + 28) | fifths(w + 2, w + 24),
        nibbles(w + 50, w + 72) | fifths(w + 46, w + 68),
        nibbles(w + 94, w + 116) | fifths(w + 90, w + 112),
        nibbles(w + 138, w + 160) | fifths(w + 134, w + 156),
    )
    return values, d22(w), none(), none(), none()


@inline
def q5_1(w):
    values = (
        nibbles(w + 8, w + 32) | fifths(w + 4, w + 28),
        nibbles(w + 56, w + 80) | fifths(w + 52, w + 76),
        nibbles(w + 104, w + 128) | fifths(w + 100, w + 124),
        nibbles(w + 152, w + 176) | fifths(w + 148, w + 172),
    )
    d_m = d_m24(w)
    return values, half_low(d_m), none(), half_high(d_m), none()


@inline
def q8_0(w):
    values = (
        halves_at(w + 2, w + 36) ^ 128, halves_at(w + 70, w + 104) ^ 128,
        halves_at(w + 138, w + 172) ^ 128, halves_at(w + 206, w + 240) ^ 128,
    )  # fmt: skip
    return values, d34(w), none(), none(), none()


@inline
def levels(q):
    return as_bytes(level(as_words(q)))


@inline
def iq4_nl(w):
    (a, b, c, d), scale, _, _, _ = q4_0(w)
    return (levels(a), levels(b), levels(c), levels(d)), scale, none(), none(), none()


# ---- blocks of 256


@inline
def k4_header(w):
    """(scale, min) of Q4_K's and Q5_K's first 16 bytes: as put_k4_header in decode.py."""
    scales, mins, high = load_i32(w + 4), load_i32(w + 8), load_i32(w + 12)
    scales = (scales & 0x3F3F3F3F) | ((high & 0x0F0F0F0F) | ((scales >> 2) & 0x30303030)) << 32
    mins = (mins & 0x3F3F3F3F) | (((high >> 4) & 0x0F0F0F0F) | ((mins >> 2) & 0x30303030)) << 32
    return bytes_f32(scales) * half_of_all(w), bytes_f32(mins) * (half_of_all(w + 2) * -1.0)


@inline
def q4_k(w):
    scale, minimum = k4_header(w)
    values = nibbles32(w + 16), nibbles32(w + 48), nibbles32(w + 80), nibbles32(w + 112)
    return values, scale, none(), minimum, none()


@inline
def q5_k(w):
    scale, minimum = k4_header(w)
    values = (
        nibbles32(w + 48) | fifth0(w + 16),
        nibbles32(w + 80) | fifth2(w + 16),
        nibbles32(w + 112) | fifth4(w + 16),
        nibbles32(w + 144) | fifth6(w + 16),
    )
    return values, scale, none(), minimum, none()


@inline
def q2_k(w):
    values = pairs0(w + 16), pairs4(w + 16), pairs0(w + 48), pairs4(w + 48)
    scales, mins, d, m = load16(w) & 15, load16(w) >> 4, half_of_all(w + 80), half_of_all(w + 82) * -1.0
    return values, even_unsigned(scales) * d, odd_unsigned(scales) * d, even_unsigned(mins) * m, odd_unsigned(mins) * m


@inline
def q3_k(w):
    values = (
        pairs0(w + 32) | third0(w), pairs4(w + 32) | third2(w),
        pairs0(w + 64) | third4(w), pairs4(w + 64) | third6(w),
    )  # fmt: skip
    low, high = load_i64(w + 96), load_i32(w + 104)
    # Pair i of each byte of `high` belongs to scales 4i .. 4i + 3.
    first = (high & 0x03030303) << 4 | ((high >> 2) & 0x03030303) << 36
    second = ((high >> 4) & 0x03030303) << 4 | ((high >> 6) & 0x03030303) << 36
    nibble = 0x0F0F0F0F0F0F0F0F
    scales, d = bytes16((low & nibble) | first, ((low >> 4) & nibble) | second) - 32, half_of_all(w + 108)
    return values, even_signed(scales) * d, odd_signed(scales) * d, none(), none()


@inline
def q6_k(w):
    a, b = load64(w), load64(w + 64)
    values = (
        (a & 15) | upper0(w + 128), nibble_high(a) | upper4(w + 128),
        (b & 15) | upper0(w + 160), nibble_high(b) | upper4(w + 160),
    )  # fmt: skip
    scales, d = load16(w + 192), half_of_all(w + 208)
    return values, even_signed(scales) * d, odd_signed(scales) * d, none(), none()


@inline
def iq4_xs(w):
    scale = six_bits(load_i32(w + 4), load_i16(w + 2)) * half_of_all(w)
    values = (
        levels(nibbles(w + 8, w + 24)), levels(nibbles(w + 40, w + 56)),
        levels(nibbles(w + 72, w + 88)), levels(nibbles(w + 104, w + 120)),
    )  # fmt: skip
    return values, scale, none(), none(), none()
