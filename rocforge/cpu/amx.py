"""AMX: eight tiles of up to 16 rows of 64 bytes, and products of bfloat16 between them. Knows no op.

Intel's Architecture Instruction Set Extensions reference, chapter 3. A tile's shape is set for all
that follows by `configure`; `release` gives the tiles back, which spares the kernel from saving them. On a tier
without them these emit nothing.
"""

from llvmlite import ir
from numba import types

from rocforge.cpu.isa import I8, I64, call, instruction, pointer, store_i16, store_i64, store_scalar
from rocforge.cpu.threads import inline
from rocforge.cpu.tier import tier

CONFIG_BYTES = 64
# In a configuration: the palette's byte, 16-bit bytes of a row, and 8-bit rows, of each tile.
_PALETTE, _ROW_BYTES, _ROWS = 0, 16, 48


def _emits(name, n_arguments, tiles):
    """-> intrinsic of n integers: LLVM's `name`, of the tiles numbered `tiles` and then an address and a stride."""

    def emit(b, *values):
        if tier() != "amx":
            return None
        operands = [I8(t) for t in tiles]
        if values:
            operands += [pointer(b, values[0], I8), *values[1:]]
        call(b, f"llvm.x86.{name}", ir.VoidType(), [o.type for o in operands], operands)

    return instruction(None, (types.int64,) * n_arguments, emit)


store_i8 = store_scalar("i8")
configure, release = _emits("ldtilecfg", 1, ()), _emits("tilerelease", 0, ())


@inline
def configure_whole(config):
    """All tiles whole, 16 rows of 64 bytes; `config` is scratch for CONFIG_BYTES."""
    for i in range(0, CONFIG_BYTES, 8):
        store_i64(config + i, 0)
    store_i8(config + _PALETTE, 1)
    for i in range(8):
        store_i16(config + _ROW_BYTES + 2 * i, 64)
        store_i8(config + _ROWS + i, 16)
    configure(config)


def clear_tile(i):
    """-> intrinsic(): tile i = 0."""
    return _emits("tilezero", 0, (i,))


def load_tile(i):
    """-> intrinsic(address, stride): tile i from rows `stride` bytes apart."""
    return _emits("tileloadd64", 2, (i,))


def store_tile(i):
    """-> intrinsic(address, stride): tile i to rows `stride` bytes apart."""
    return _emits("tilestored64", 2, (i,))


def dot_tiles(c, a, b):
    """-> intrinsic(): tile c, float32 [M, N], += tile a, bfloat16 [M, 2 K], times tile b, bfloat16 [K, N, 2]: its row k
    holds two columns of each n. Even and odd columns are summed up by themselves, then both are added."""
    return _emits("tdpbf16ps", 0, (c, a, b))


has_tiles = instruction(types.int64, (), lambda b: I64(int(tier() == "amx")))
