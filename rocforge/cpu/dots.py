"""Products of small integers, in the instructions of each tier: all give the same exact sums. Knows no format."""

from llvmlite import ir
from numba import types

from rocforge.cpu.isa import I32, I64, Vec, call, constant, i32x16, instruction, pointer, shuffle, spread
from rocforge.cpu.tier import at_least, tier

i8x64, i16x32 = Vec(64, "i8"), Vec(32, "i16")
# What signed bytes are too large by as unsigned ones.
SIGN = 128


def taken_off() -> int:
    """What add_word takes off each value: AVX2 multiplies signed bytes in fewer instructions than unsigned ones."""
    return SIGN if tier() == "avx2" else 0


def _madd(b, x, y):
    if tier() == "avx2":
        return _by_halves(b, "llvm.x86.avx2.pmadd.wd", i32x16, x, y)
    wide = ir.VectorType(I32, 32)
    products = b.mul(b.sext(x, wide), b.sext(y, wide))
    return b.add(shuffle(b, products, products, range(0, 32, 2)), shuffle(b, products, products, range(1, 32, 2)))


def _add_dot4(b, acc, values, x):
    """acc + dot4(values, x) in portable LLVM: bytes at even places and those at odd ones apart, as int16.

    x stays in the upper half of an int16, 256 times too large, until the sum of four products is made:
    this saves a shift, and LLVM sees that no product fits into 16 bits, and takes multiply-add.
    """
    eight, low, upper = (constant(n, e, [v] * n) for n, e, v in ((32, "i16", 8), (32, "i16", 255), (32, "i16", -256)))
    values, x = b.bitcast(values, i16x32.llvm), b.bitcast(x, i16x32.llvm)
    even = _madd(b, b.and_(values, low), b.shl(x, eight))
    odd = _madd(b, b.lshr(values, eight), b.and_(x, upper))
    return b.add(acc, b.ashr(b.add(even, odd), constant(16, "i32", [8] * 16)))


def _add_dot4_vnni(b, acc, values, x):
    operands = [i32x16.llvm, i8x64.llvm, i8x64.llvm]
    return call(b, "llvm.x86.avx512.vpdpbusd.512", i32x16.llvm, operands, [acc, values, x])


def _by_halves(b, name, result, x, y):
    """The AVX2 instruction `name` on the lower and upper 32 bytes of x and y."""
    n, parts = x.type.count // 2, []
    half = ir.VectorType(result.llvm.element, result.n // 2)
    for lanes in (range(n), range(n, 2 * n)):
        operands = [shuffle(b, v, v, lanes) for v in (x, y)]
        parts.append(call(b, name, half, [operands[0].type] * 2, operands))
    return shuffle(b, *parts, range(result.n))


def _dot4_small_avx2(b, values, x):
    """vpmaddubsw, whose sums of two products must fit into 16 bits: values up to 127."""
    return _madd(b, _by_halves(b, "llvm.x86.avx2.pmadd.ub.sw", i16x32, values, x), constant(32, "i16", [1] * 32))


def _accumulate(b, acc, values, x):
    return (_add_dot4_vnni if at_least("avx512vnni") else _add_dot4)(b, acc, values, x)


def _dot4(b, values, x):
    return _accumulate(b, constant(16, "i32", [0] * 16), values, b.load(pointer(b, x, i8x64.llvm), align=1))


def _dot4_small(b, values, x):
    if tier() != "avx2":
        return _dot4(b, values, x)
    return _dot4_small_avx2(b, values, b.load(pointer(b, x, i8x64.llvm), align=1))


def _word(b, x):
    return b.bitcast(spread(b, b.load(pointer(b, x, I32), align=1), 16), i8x64.llvm)


def _add_word(b, acc, values, x):
    if tier() != "avx2":
        return _accumulate(b, acc, values, _word(b, x))
    # |w| times x with w's sign, w being the value less SIGN: of signed bytes two products fit into 16 bits, 128 * 127 of each.
    w = b.xor(values, constant(64, "i8", [-SIGN] * 64))
    signed = lambda of: _by_halves(b, "llvm.x86.avx2.psign.b", i8x64, of, w)
    return b.add(acc, _dot4_small_avx2(b, signed(w), signed(_word(b, x))))


def _add_word_small(b, acc, values, x):
    if tier() != "avx2":
        return _add_word(b, acc, values, x)
    return b.add(acc, _dot4_small_avx2(b, values, _word(b, x)))


# Whether there are registers for the vectors of several tokens: 16 narrow ones are not enough.
has_registers = instruction(types.int64, (), lambda b: I64(int(at_least("avx512vnni"))))
# (values, x): unsigned bytes and the address of 64 signed ones -> sums of four products each
dot4 = instruction(i32x16, (i8x64, types.intp), _dot4)
# the same for values below 128
dot4_small = instruction(i32x16, (i8x64, types.intp), _dot4_small)
# (acc, values, x): acc + the sums of four products of unsigned bytes, less taken_off(), and the four signed ones at an address
add_word = instruction(i32x16, (i32x16, i8x64, types.intp), _add_word)
# the same for values below 128, of which nothing is taken off
add_word_small = instruction(i32x16, (i32x16, i8x64, types.intp), _add_word_small)


# ---- sums of neighbouring lanes


def _folded(b, x, y, take):
    """x[i] + x[i + d] and y[j] + y[j + d]: `take` tells, for each lane, whose and which i."""
    pairs = [(16 * source + i, 16 * source + i + d) for source, i, d in take]
    # One of the two stays in its lane where it can: such a shuffle is a blend.
    pairs = [(q, p) if q % 16 == lane else (p, q) for lane, (p, q) in enumerate(pairs)]
    return b.add(shuffle(b, x, y, [p for p, _ in pairs]), shuffle(b, x, y, [q for _, q in pairs]))


def _sums16(b, v0, v1, v2, v3):
    """Lane 4k + i of the second sum is that of k-th four lanes of v_i; they are then put in order."""
    first = [(lane % 2, lane // 2 * 2, 1) for lane in range(16)]
    second = [(lane % 4 // 2, lane // 4 * 4 + lane % 2, 2) for lane in range(16)]
    x = _folded(b, _folded(b, v0, v1, first), _folded(b, v2, v3, first), second)
    return shuffle(b, x, x, [4 * (lane % 4) + lane // 4 for lane in range(16)])


def _sums32(b, x, y):
    return _folded(b, x, y, [(lane // 8, lane % 8 * 2, 1) for lane in range(16)])


# (v0, v1, v2, v3) -> sums of each four lanes, in their order: of dot4's, those of 16 columns
sums16 = instruction(i32x16, (i32x16,) * 4, _sums16)
# (x, y) -> sums of each two lanes of x, then of y
sums32 = instruction(i32x16, (i32x16, i32x16), _sums32)
