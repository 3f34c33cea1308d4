"""float16 to float32 and back, for a scalar or a vector: LLVM code for hosts with and without instructions for it.

x86 has them since F16C (2012). Where they lack, LLVM calls functions of the compiler's own library, which is
not there when code is compiled at run time: so integers do the work.
"""

from llvmlite import ir

from rocforge.cpu.tier import converts_halves

_I16, _I32, _F16, _F32 = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()


def _like(x, element):
    return ir.VectorType(element, x.type.count) if isinstance(x.type, ir.VectorType) else element


def _all(x, element, value):
    """The constant in every lane that x has."""
    llvm = _like(x, element)
    return ir.Constant(llvm, [ir.Constant(element, value)] * x.type.count if isinstance(x.type, ir.VectorType) else value)


def widen(b, x):
    """The float32 of 16-bit patterns."""
    return b.fpext(b.bitcast(x, _like(x, _F16)), _like(x, _F32)) if converts_halves() else widen_by_integers(b, x)


def narrow(b, x):
    """The 16-bit patterns of float32, rounded to nearest even."""
    return b.bitcast(b.fptrunc(x, _like(x, _F16)), _like(x, _I16)) if converts_halves() else narrow_by_integers(b, x)


def widen_by_integers(b, x):
    """Exponent and fraction move up by 13 bits, which is 2^112 too small, subnormals included; 31 becomes 255."""
    number = lambda value: _all(x, _I32, value)
    word = b.zext(x, _like(x, _I32))
    magnitude = b.and_(word, number(0x7FFF))
    small = b.bitcast(b.shl(magnitude, number(13)), _like(x, _F32))
    finite = b.bitcast(b.fmul(small, _all(x, _F32, 2.0**112)), _like(x, _I32))
    special = b.or_(b.shl(magnitude, number(13)), number(0x7F800000))
    bits = b.select(b.icmp_unsigned(">=", magnitude, number(0x7C00)), special, finite)
    return b.bitcast(b.or_(bits, b.shl(b.and_(word, number(0x8000)), number(16))), _like(x, _F32))


def narrow_by_integers(b, x):
    """Above 2^-14: half a unit less a bit is added, and the bit if the last one kept is odd. Below: a sum with 0.5
    has its units where a subnormal half has them. From 65520 on: infinity; NaN stays one."""
    number = lambda value: _all(x, _I32, value)
    bits = b.bitcast(x, _like(x, _I32))
    magnitude = b.and_(bits, number(0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, number(13)), number(1))
    rebased = b.sub(magnitude, number(112 << 23))
    normal = b.lshr(b.add(b.add(rebased, number(0xFFF)), odd), number(13))
    shifted = b.fadd(b.bitcast(magnitude, _like(x, _F32)), _all(x, _F32, 0.5))
    tiny = b.sub(b.bitcast(shifted, _like(x, _I32)), number(126 << 23))
    special = b.select(b.icmp_unsigned(">", magnitude, number(0x7F800000)), number(0x7E00), number(0x7C00))
    found = b.select(b.icmp_unsigned("<", magnitude, number(113 << 23)), tiny, normal)
    found = b.select(b.icmp_unsigned(">=", magnitude, number(143 << 23)), special, found)
    return b.trunc(b.or_(found, b.and_(b.lshr(bits, number(16)), number(0x8000))), _like(x, _I16))
