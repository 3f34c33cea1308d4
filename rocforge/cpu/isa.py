"""LLVM vectors as Numba values, and the few instructions that Python cannot say. Knows no op.

A `<n x T>` of LLVM is the Numba type `Vec(n, "T")`; a kernel holds such values in ordinary
local variables and they live in registers. Everything here is portable LLVM: a target without
wide registers gets several narrow ones. Addresses are plain integers (`intp`).
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

ELEMENT = {
    "i8": ir.IntType(8),
    "i16": ir.IntType(16),
    "i32": ir.IntType(32),
    "i64": ir.IntType(64),
    "f16": ir.HalfType(),
    "f32": ir.FloatType(),
}
SCALAR = {
    "i8": types.int8,
    "u8": types.uint8,
    "i16": types.int16,
    "u16": types.uint16,
    "i32": types.int32,
    "u32": types.uint32,
    "i64": types.int64,
    "f32": types.float32,
}
I1, I8, I32, I64, F16, F32 = ir.IntType(1), *(ELEMENT[e] for e in ("i8", "i32", "i64", "f16", "f32"))


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
    """-> intrinsic(address) -> scalar; `f32 i8 u8 i16 u16 i32 u32 i64`; any alignment."""
    llvm = ELEMENT[element.replace("u", "i")]
    return instruction(SCALAR[element], (types.intp,), lambda b, a: b.load(pointer(b, a, llvm), align=1))


def store_scalar(element):
    """-> intrinsic(address, scalar); any alignment."""
    llvm = ELEMENT[element.replace("u", "i")]
    emit = lambda b, a, x: b.store(x, pointer(b, a, llvm), align=1)
    return instruction(None, (types.intp, SCALAR[element]), emit)


def load_f16(n):
    """-> intrinsic(address of n halves) -> Vec(n, "f32")."""
    half, single = ir.VectorType(F16, n), ir.VectorType(F32, n)
    emit = lambda b, a: b.fpext(b.load(pointer(b, a, half), align=1), single)
    return instruction(Vec(n, "f32"), (types.intp,), emit)


def store_f16(n):
    """-> intrinsic(address of n halves, Vec(n, "f32")), rounded to nearest even."""
    half = ir.VectorType(F16, n)
    emit = lambda b, a, x: b.store(b.fptrunc(x, half), pointer(b, a, half), align=1)
    return instruction(None, (types.intp, Vec(n, "f32")), emit)


load_half = instruction(
    types.float32, (types.intp,), lambda b, a: b.fpext(b.load(pointer(b, a, F16), align=1), F32)
)
store_half = instruction(
    None, (types.intp, types.float32), lambda b, a, x: b.store(b.fptrunc(x, F16), pointer(b, a, F16), align=1)
)
load_f32, load_i64, load_i32 = load_scalar("f32"), load_scalar("i64"), load_scalar("i32")
load_u8, load_i8, load_u16, load_i16, load_u32 = (load_scalar(e) for e in ("u8", "i8", "u16", "i16", "u32"))
store_f32, store_i8, store_i16, store_i32, store_i64 = (store_scalar(e) for e in ("f32", "i8", "i16", "i32", "i64"))

prefetch = instruction(
    None,
    (types.intp,),
    lambda b, a: call(
        b, "llvm.prefetch.p0", ir.VoidType(), [ir.PointerType(I8), I32, I32, I32],
        [pointer(b, a, I8), I32(0), I32(3), I32(1)],
    ),
)
as_f32 = instruction(types.float32, (types.int64,), lambda b, w: b.bitcast(b.trunc(w, I32), F32))


# ---- arithmetic on vectors

def zero(n, element):
    return instruction(Vec(n, element), (), lambda b: constant(n, element, [0] * n))


def splat(n, element):
    return instruction(Vec(n, element), (SCALAR[element],), lambda b, x: spread(b, x, n))


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
