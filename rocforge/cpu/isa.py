"""LLVM vectors as Numba values, and the few instructions that Python cannot say. Knows no op.

A `<n x T>` of LLVM is the Numba type `Vec(n, "T")`; a kernel holds such values in ordinary
local variables and they live in registers. Everything here is portable LLVM: a target without
wide registers gets several narrow ones. Addresses are plain integers (`intp`).
"""

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

from rocforge.cpu.half import narrow, widen

ELEMENT = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f32": ir.FloatType(),
    "f64": ir.DoubleType(),
}
# Integers of every width are int64 in a kernel: Numba makes a float of a sum of signed and unsigned.
SCALAR = {"i8": types.int64, "i16": types.int64, "i32": types.int64, "i64": types.int64, "f32": types.float32, "f64": types.float64}
I8, I16, I32, I64, F32 = (ELEMENT[e] for e in ("i8", "i16", "i32", "i64", "f32"))


class Vec(types.Type):
    """The Numba type of an LLVM vector of `n` elements of kind `element`."""

    def __init__(self, n: int, element: str):
        self.n, self.element = n, element
        super().__init__(name=f"Vec({n}x{element})")

    @property
    def key(self):
        return self.n, self.element

    @property
    def llvm(self):
        return ir.VectorType(ELEMENT[self.element], self.n)


@register_model(Vec)
class VecModel(models.PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, fe_type.llvm)


def instruction(result, arguments, emit):
    """A Numba intrinsic of fixed types whose LLVM code is `emit(builder, *values)`.

    `result` and each of `arguments` is a Numba type; `result` None means nothing is returned.
    """
    signature = (types.void if result is None else result)(*arguments)

    def codegen(context, builder, _signature, values):
        out = emit(builder, *values)
        return context.get_dummy_value() if result is None else out

    # Numba reads the arity off the function, so there is one definition an arity.
    if len(arguments) == 0:

        @intrinsic
        def op(typing):
            return signature, codegen
    elif len(arguments) == 1:

        @intrinsic
        def op(typing, a):
            return signature, codegen
    elif len(arguments) == 2:

        @intrinsic
        def op(typing, a, b):
            return signature, codegen
    elif len(arguments) == 3:

        @intrinsic
        def op(typing, a, b, c):
            return signature, codegen
    else:
        assert len(arguments) == 4, len(arguments)

        @intrinsic
        def op(typing, a, b, c, d):
            return signature, codegen

    return op


def call(builder, name, result, arguments, values, **flags):
    """Call the LLVM function `name` (an intrinsic or a libc symbol)."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, arguments), name)
    return builder.call(function, values, **flags)


def pointer(builder, address, llvm_type):
    """The integer address as a pointer.

    LLVM may split `row + i` into a pointer made of `i` and an offset made of `row`; where i is 0 it
    would take that for a null pointer and the code around it for dead. The attribute forbids this.
    llvmlite's set of attributes does not know it, so it is added past the check.
    """
    set.add(builder.function.attributes, "null_pointer_is_valid")
    return builder.inttoptr(address, ir.PointerType(llvm_type))


def constant(n, element, values):
    e = ELEMENT[element]
    return ir.Constant(ir.VectorType(e, n), [ir.Constant(e, v) for v in values])


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes)))


def spread(builder, scalar, n):
    """A vector of n copies of a scalar."""
    vector = ir.VectorType(scalar.type, n)
    undefined = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(undefined, scalar, I32(0))
    return shuffle(builder, one, undefined, [0] * n)


# ---- memory

def load(n, element):
    """-> intrinsic(address) -> Vec(n, element); any alignment."""
    v = Vec(n, element)
    return instruction(v, (types.intp,), lambda b, a: b.load(pointer(b, a, v.llvm), align=1))


def store(n, element):
    """-> intrinsic(address, Vec(n, element)); any alignment."""
    v = Vec(n, element)
    return instruction(None, (types.intp, v), lambda b, a, x: b.store(x, pointer(b, a, v.llvm), align=1))


def load_scalar(element):
    """-> intrinsic(address) -> the number there, integers widened to int64; `f32 f64 i8 i16 i32 i64`."""
    llvm = ELEMENT[element]

    def emit(b, a):
        x = b.load(pointer(b, a, llvm), align=1)
        return x if element in ("f32", "f64", "i64") else b.sext(x, I64)

    return instruction(SCALAR[element], (types.intp,), emit)


def store_scalar(element):
    """-> intrinsic(address, number); of an int64 as many low bits as fit."""
    llvm = ELEMENT[element]

    def emit(b, a, x):
        b.store(x if element in ("f32", "i64") else b.trunc(x, llvm), pointer(b, a, llvm), align=1)

    return instruction(None, (types.intp, SCALAR[element]), emit)


def load_f16(n):
    """-> intrinsic(address of n halves) -> Vec(n, "f32")."""
    emit = lambda b, a: widen(b, b.load(pointer(b, a, ir.VectorType(I16, n)), align=1))
    return instruction(Vec(n, "f32"), (types.intp,), emit)


def store_f16(n):
    """-> intrinsic(address, Vec(n, "f32")): as n halves, rounded to nearest even."""
    emit = lambda b, a, x: b.store(narrow(b, x), pointer(b, a, ir.VectorType(I16, n)), align=1)
    return instruction(None, (types.intp, Vec(n, "f32")), emit)


def load_bf16(n):
    """-> intrinsic(address of n bfloat16) -> Vec(n, "f32")."""
    half, word = ir.VectorType(I16, n), ir.VectorType(I32, n)

    def emit(b, a):
        raised = b.shl(b.zext(b.load(pointer(b, a, half), align=1), word), constant(n, "i32", [16] * n))
        return b.bitcast(raised, ir.VectorType(F32, n))

    return instruction(Vec(n, "f32"), (types.intp,), emit)


load_half = instruction(
    types.float32, (types.intp,), lambda b, a: widen(b, b.load(pointer(b, a, I16), align=1))
)
load_bhalf = instruction(
    types.float32,
    (types.intp,),
    lambda b, a: b.bitcast(b.shl(b.zext(b.load(pointer(b, a, I16), align=1), I32), I32(16)), F32),
)
store_half = instruction(
    None, (types.intp, types.float32), lambda b, a, x: b.store(narrow(b, x), pointer(b, a, I16), align=1)
)
load_f32, load_i64, load_i32 = load_scalar("f32"), load_scalar("i64"), load_scalar("i32")
load_i8, load_i16 = load_scalar("i8"), load_scalar("i16")
store_f32, store_i16, store_i64 = (store_scalar(e) for e in ("f32", "i16", "i64"))


def _prefetch(locality):
    """-> intrinsic(address): ask for the cache line; locality 3 is the first-level cache, 2 the second."""
    arguments = [ir.PointerType(I8), I32, I32, I32]
    emit = lambda b, a: call(
        b, "llvm.prefetch.p0", ir.VoidType(), arguments, [pointer(b, a, I8), I32(0), I32(locality), I32(1)]
    )
    return instruction(None, (types.intp,), emit)


prefetch, prefetch_far = _prefetch(3), _prefetch(2)
as_f32 = instruction(types.float32, (types.int64,), lambda b, w: b.bitcast(b.trunc(w, I32), F32))


# ---- arithmetic on vectors


def _narrowed(b, x, element):
    """A kernel's number as an element: of an int64 as many low bits as fit."""
    return x if x.type == ELEMENT[element] else b.trunc(x, ELEMENT[element])


def zero(n, element):
    return instruction(Vec(n, element), (), lambda b: constant(n, element, [0] * n))


def splat(n, element):
    """-> intrinsic(x) -> x in every lane; of an int64 as many low bits as fit."""
    emit = lambda b, x: spread(b, _narrowed(b, x, element), n)
    return instruction(Vec(n, element), (SCALAR[element],), emit)


def binary(n, element, name):
    """-> intrinsic(x, y) -> x `name` y, lane by lane; `name` is an llvmlite builder's: add fmul and_ ..."""
    v = Vec(n, element)
    return instruction(v, (v, v), lambda b, x, y: getattr(b, name)(x, y))


def fma(n):
    """-> intrinsic(x, y, acc) -> x * y + acc in one rounding, lane by lane, float32."""
    v = Vec(n, "f32")
    emit = lambda b, *xs: call(b, f"llvm.fma.v{n}f32", v.llvm, [v.llvm] * 3, xs)
    return instruction(v, (v, v, v), emit)


def sum_f32(n):
    """-> intrinsic(x) -> the sum of the lanes, halves folded onto each other: a fixed order."""

    def emit(b, x):
        width = n
        while width > 1:
            width //= 2
            undefined = ir.Constant(x.type, ir.Undefined)
            low, high = shuffle(b, x, undefined, range(width)), shuffle(b, x, undefined, range(width, 2 * width))
            x = b.fadd(low, high)
        return b.extract_element(x, I32(0))

    return instruction(types.float32, (Vec(n, "f32"),), emit)


# ---- operators: of vectors of one type, or of a vector and a number, which is then in every lane

_OPERATORS = {
    operator.add: ("add", "fadd"),
    operator.sub: ("sub", "fsub"),
    operator.mul: ("mul", "fmul"),
    operator.and_: ("and_", None),
    operator.or_: ("or_", None),
    operator.xor: ("xor", None),
    operator.lshift: ("shl", None),
    operator.rshift: ("lshr", None),  # zeros come in: an element has no sign until it is widened
}


def _define(operation, names):
    @infer_global(operation)
    class Operator(AbstractTemplate):
        def generic(self, args, kws):
            x, y = args
            if isinstance(x, Vec) and not (isinstance(y, Vec) and y != x):
                return x(x, y if isinstance(y, Vec) else SCALAR[x.element])

    def emit(context, builder, signature, values):
        vector, (x, y) = signature.args[0], values
        if not isinstance(signature.args[1], Vec):
            y = spread(builder, _narrowed(builder, y, vector.element), vector.n)
        return getattr(builder, names[vector.element.startswith("f")])(x, y)

    for right in (Vec, types.Integer, types.Float):
        lower_builtin(operation, Vec, right)(emit)


for _operation, _names in _OPERATORS.items():
    _define(_operation, _names)

i32x16, f32x16 = Vec(16, "i32"), Vec(16, "f32")


# ---- activations to 8 bits


def _rounded(b, x, inverse):
    scaled = b.fmul(x, spread(b, inverse, 16))
    even = call(b, "llvm.roundeven.v16f32", x.type, [x.type], [scaled])
    return b.fptosi(even, i32x16.llvm)


def _maximum(b, x, y):
    """The larger of each lane, y where one is NaN: one instruction, where llvm.maxnum takes three."""
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _largest_lane(b, x):
    for width in (8, 4, 2, 1):
        undefined = ir.Constant(x.type, ir.Undefined)
        low, high = shuffle(b, x, undefined, range(width)), shuffle(b, x, undefined, range(width, 2 * width))
        x = _maximum(b, low, high)
    return b.extract_element(x, I32(0))


def _clear_outside(b, x, first, last, value):
    lane = constant(16, "i32", range(16))
    inside = [b.icmp_signed(op, lane, spread(b, b.trunc(end, I32), 16)) for op, end in ((">=", first), ("<=", last))]
    return b.select(b.and_(*inside), x, spread(b, value, 16))


# (x, first, last, value) -> x with `value` in the lanes that are not among first..last
clear_outside = instruction(f32x16, (f32x16, types.int64, types.int64, types.float32), _clear_outside)
larger = instruction(f32x16, (f32x16, f32x16), _maximum)
largest_lane = instruction(types.float32, (f32x16,), _largest_lane)
# (x, y) -> whether any lane of x is above y
any_above = instruction(
    types.boolean, (f32x16, types.float32),
    lambda b, x, y: b.icmp_unsigned("!=", b.bitcast(b.fcmp_ordered(">", x, spread(b, y, 16)), ir.IntType(16)), ir.IntType(16)(0)),
)  # fmt: skip
first_lane = instruction(types.float32, (f32x16,), lambda b, x: b.extract_element(x, I32(0)))


def _largest_of(b, x, y):
    absolute = lambda v: call(b, "llvm.fabs.v16f32", v.type, [v.type], [v])
    return _largest_lane(b, _maximum(b, absolute(x), absolute(y)))


# (x, y) -> the largest absolute value among the lanes of both
largest_of = instruction(types.float32, (f32x16, f32x16), _largest_of)
# (x, inverse) -> x * inverse to the nearest integer, halves to even, as int32
rounded = instruction(i32x16, (f32x16, types.float32), _rounded)

sum_i32 = instruction(
    types.int64, (i32x16,), lambda b, x: b.sext(call(b, "llvm.vector.reduce.add.v16i32", I32, [i32x16.llvm], [x]), I64)
)
store_bytes = instruction(
    None, (types.intp, i32x16),
    lambda b, a, x: b.store(b.trunc(x, ir.VectorType(I8, 16)), pointer(b, a, ir.VectorType(I8, 16)), align=1),
)


# ---- exp


def _exp(b, x):
    """e^x for 16 lanes: 2^n * e^r with |r| <= ln 2 / 2, e^r by its Taylor series to r^7 (relative
    remainder 5e-9). Below -87 it is 0, above 88 it stays at e^88; NaN stays NaN."""
    vector = x.type
    splat_ = lambda value: constant(16, "f32", [value] * 16)
    fused = lambda *xs: call(b, "llvm.fma.v16f32", vector, [vector] * 3, xs)
    tiny = b.fcmp_ordered("<", x, splat_(-87.0))
    x = b.select(b.fcmp_ordered(">", x, splat_(88.0)), splat_(88.0), x)
    # 1.5 * 2^23: a sum with it has no room for a fraction, and its lowest bits are the integer n.
    shifted = fused(x, splat_(1.4426950408889634), splat_(12582912.0))
    n = b.fsub(shifted, splat_(12582912.0))
    # ln 2 in two parts, the first with so few bits that n times it is exact.
    r = fused(n, splat_(-0.693359375), x)
    r = fused(n, splat_(2.12194440e-4), r)
    total = splat_(1 / 5040)
    for factor in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        total = fused(total, r, splat_(factor))
    biased = b.add(b.bitcast(shifted, i32x16.llvm), constant(16, "i32", [127] * 16))
    power = b.bitcast(b.shl(biased, constant(16, "i32", [23] * 16)), vector)
    return b.select(tiny, splat_(0.0), b.fmul(total, power))


exp16 = instruction(f32x16, (f32x16,), _exp)


# ---- memory for the length of a kernel


def stack(n_bytes):
    """-> intrinsic() -> address of `n_bytes` on the stack, aligned to 64. Call it outside of loops."""

    def emit(b):
        with b.goto_entry_block():
            slot = b.alloca(ir.ArrayType(I8, n_bytes))
            slot.align = 64
        return b.ptrtoint(slot, I64)

    return instruction(types.intp, (), emit)


heap = instruction(
    types.intp,
    (types.intp,),
    lambda b, n: b.ptrtoint(call(b, "malloc", ir.PointerType(I8), [I64], [n]), I64),
)
heap_free = instruction(
    None, (types.intp,), lambda b, a: call(b, "free", ir.VoidType(), [ir.PointerType(I8)], [pointer(b, a, I8)])
)
