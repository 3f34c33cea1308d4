"""What threads ask of the system: words that they share, semaphores, sleep, and the cores that they are on.

Intrinsics for compiled code that runs without the GIL. Other systems than Linux yield where it sleeps, and leave
threads on the cores that they are on.
"""

import platform
import sys

from llvmlite import ir
from numba import types

from rocforge.cpu.isa import I8, I32, I64, call, instruction, pointer, stack


def _libc(name):
    """-> intrinsic(address) -> int: a function of the C library that takes a pointer."""
    emit = lambda b, a: b.sext(call(b, name, I32, [ir.PointerType(I8)], [pointer(b, a, I8)]), I64)
    return instruction(types.int64, (types.intp,), emit)


read = instruction(types.int64, (types.intp,), lambda b, a: b.load_atomic(pointer(b, a, I64), "seq_cst", 8))
# (address, x) -> what was there before x was added
add = instruction(
    types.int64, (types.intp, types.int64), lambda b, a, x: b.atomic_rmw("add", pointer(b, a, I64), x, "seq_cst")
)
post, wait, try_wait = _libc("sem_post"), _libc("sem_wait"), _libc("sem_trywait")

# Linux's futex: (address, operation, value, no time limit), private to the process.
_FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine(), 0) if sys.platform == "linux" else 0
FUTEX_WAIT, FUTEX_WAKE, EVERYBODY = 128, 129, 2**31 - 1


def _emit_futex(b, address, operation, value):
    if _FUTEX:
        call(b, "syscall", I64, [I64] * 7, [I64(_FUTEX), address, operation, value, I64(0), I64(0), I64(0)])
    else:
        call(b, "sched_yield", I32, [], [])


give_way = instruction(types.int64, (), lambda b: b.sext(call(b, "sched_yield", I32, [], []), I64))
futex = instruction(None, (types.intp, types.int64, types.int64), _emit_futex)

_IS_LINUX = sys.platform == "linux"
MASK_BYTES = 128  # a set of cores, as sched_getaffinity takes it
mask, other_mask = stack(MASK_BYTES), stack(MASK_BYTES)  # -> memory for such a set


def _of_cores(name):
    """-> intrinsic(address of a set of cores) -> 0, or -1: sched_getaffinity or sched_setaffinity of this thread."""

    def emit(b, a):
        if not _IS_LINUX:
            return I64(-1)
        arguments = [I32(0), I64(MASK_BYTES), pointer(b, a, I8)]
        return b.sext(call(b, name, I32, [I32, I64, ir.PointerType(I8)], arguments), I64)

    return instruction(types.int64, (types.intp,), emit)


get_cores, set_cores = _of_cores("sched_getaffinity"), _of_cores("sched_setaffinity")
core_of_this = instruction(types.int64, (), lambda b: b.sext(call(b, "sched_getcpu", I32, [], []), I64) if _IS_LINUX else I64(-1))
