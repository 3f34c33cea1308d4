"""Vectors whose lane r belongs to row r of 16: how blocks get there. Knows no format.

Portable LLVM, in the forms that become single instructions where a machine has them (permutation of bytes).
"""

from llvmlite import ir
from numba import types

from rocforge.cpu.half import widen
from rocforge.cpu.isa import (
    ELEMENT,
    I16,
    I32,
    I64,
    Vec,
    constant,
    f32x16,
    i32x16,
    instruction,
    pointer,
    shuffle,
)

ROWS = 16

i8x64, i16x32 = Vec(64, "i8"), Vec(32, "i16")
I8X16 = ir.VectorType(ELEMENT["i8"], ROWS)


# ---- to vectors


def _column(llvm):
    """Emits the load of one element of each row, `stride` bytes from row to row."""

    def emit(b, address, stride):
        out = ir.Constant(ir.VectorType(llvm, ROWS), ir.Undefined)
        for r in range(ROWS):
            row = b.add(address, b.mul(stride, I64(r)))
            out = b.insert_element(out, b.load(pointer(b, row, llvm), align=1), I32(r))
        return out

    return emit


def _store_columns(b, address, stride, to):
    """A transposition of dwords: 16 rows of 4 to 4 vectors of 16."""
    quarter = ir.VectorType(I32, 4)
    rows = []
    for first in range(4):  # rows[k] holds rows k, 4 + k, 8 + k, 12 + k, a group of four lanes each
        addresses = (b.add(address, b.mul(stride, I64(r))) for r in range(first, ROWS, 4))
        parts = [b.load(pointer(b, a, quarter), align=1) for a in addresses]
        rows.append(shuffle(b, shuffle(b, *parts[:2], range(8)), shuffle(b, *parts[2:], range(8)), range(16)))
    within = lambda lanes: [group + lane for group in range(0, 16, 4) for lane in lanes]
    for i, lanes in enumerate(((0, 16, 1, 17), (2, 18, 3, 19))):
        x, y = shuffle(b, rows[0], rows[1], within(lanes)), shuffle(b, rows[2], rows[3], within(lanes))
        for j, pairs in enumerate(((0, 1, 16, 17), (2, 3, 18, 19))):
            place = pointer(b, b.add(to, I64(64 * (2 * i + j))), i32x16.llvm)
            b.store(shuffle(b, x, y, within(pairs)), place, align=1)


# (address, stride) -> the 4-byte word, or the half as float32, at `address + r * stride` in lane r
column_i32 = instruction(i32x16, (types.intp, types.intp), _column(I32))
column_half = instruction(
    f32x16, (types.intp, types.intp), lambda b, a, stride: widen(b, _column(I16)(b, a, stride))
)
# (address, stride, to): the four words of 16 bytes of each row, as four vectors from `to` on
store_columns = instruction(None, (types.intp,) * 3, _store_columns)


# ---- from one kind of lanes to another


def half(n, shift):
    """-> intrinsic(n words) -> the half that begins at bit `shift` of each, as float32."""
    words, singles = Vec(n, "i32"), Vec(n, "f32")

    def emit(b, x):
        short = b.trunc(b.lshr(x, constant(n, "i32", [shift] * n)), ir.VectorType(ELEMENT["i16"], n))
        return widen(b, short)

    return instruction(singles, (words,), emit)


half_low, half_high = half(ROWS, 0), half(ROWS, 16)
as_bytes = instruction(i8x64, (i32x16,), lambda b, x: b.bitcast(x, i8x64.llvm))
as_words = instruction(i32x16, (i8x64,), lambda b, x: b.bitcast(x, i32x16.llvm))
as_floats = instruction(f32x16, (i32x16,), lambda b, x: b.bitcast(x, f32x16.llvm))
float_bits = instruction(i32x16, (f32x16,), lambda b, x: b.bitcast(x, i32x16.llvm))
to_f32 = instruction(f32x16, (i32x16,), lambda b, x: b.sitofp(x, f32x16.llvm))


def _load_signed(b, address):
    return b.sext(b.load(pointer(b, address, I8X16), align=1), i32x16.llvm)


def _store_high_halves(b, address, x):
    short = b.trunc(b.lshr(x, constant(16, "i32", [16] * 16)), ir.VectorType(I16, 16))
    b.store(short, pointer(b, address, short.type), align=1)


# 16 int8 as words; and the upper halves of words, 32 bytes, to an address
load_signed = instruction(i32x16, (types.intp,), _load_signed)
store_high_halves = instruction(None, (types.intp, i32x16), _store_high_halves)


def lookup(values):
    """-> intrinsic(words) -> values[byte] in place of each byte; there are 16 values, and no byte is above 15."""

    def emit(b, x):
        table, x = constant(16, "i8", values), b.bitcast(x, i8x64.llvm)
        parts = []
        for first in range(0, 64, 16):
            index = shuffle(b, x, x, range(first, first + 16))
            part = ir.Constant(I8X16, ir.Undefined)
            for i in range(16):
                value = b.extract_element(table, b.extract_element(index, I32(i)))
                part = b.insert_element(part, value, I32(i))
            parts.append(part)
        halves = (shuffle(b, *parts[i : i + 2], range(32)) for i in (0, 2))
        return b.bitcast(shuffle(b, *halves, range(64)), i32x16.llvm)

    return instruction(i32x16, (i32x16,), emit)
