"""Kernels as addresses, steps as programs, and how either is launched on a team of threads (team.py). Knows no op.

A CPU kernel is a compiled function `kernel(args, tid, team)`: `args` points to its argument
words (addresses, integers, float bits), and it does the share of thread `tid` of `team`.
A launch is a kernel's address with its words. Outside of `record()` it runs at once; inside,
it is appended to a Program, which `Team.run` later runs whole: every thread walks the same
list in compiled code, with a barrier after each launch, and Python is not asked in between.
It is to the CPU what a captured graph is to a GPU.
"""

import contextlib
import contextvars
import functools
import struct

import numpy as np
from numba import types
from numba.extending import intrinsic

from rocforge.cpu.isa import I64, as_f32, pointer, store_i64
from rocforge.cpu.machine_code import address_of, inline, is_kept
from rocforge.cpu.system import add
from rocforge.cpu.team import LINE, Team


class Kernel:
    """A Python function (args, tid, team) that is compiled when its address is first asked for.

    `name` is its module and where it stands there: the same in every process.
    """

    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)
        self.name = f"{function.__module__} {function.__qualname__} {function.__code__.co_firstlineno}"

    @property
    def is_compiled(self) -> bool:
        return "address" in self.__dict__

    @property
    def is_kept(self) -> bool:
        """Whether its machine code is in the cache."""
        return is_kept(self.function, _WORDS)

    def compile(self) -> None:
        """Compile now, or load from the cache, what the first launch would."""
        self.address  # noqa: B018

    @functools.cached_property
    def address(self) -> int:
        return address_of(self.function, _WORDS)


_WORDS = 3
# By name, all that there are in the modules imported so far.
KERNELS: dict[str, Kernel] = {}


def kernel(function) -> Kernel:
    """Decorator: `function(args, tid, team)` becomes a Kernel."""
    made = Kernel(function)
    KERNELS[made.name] = made
    return made


# ---- what kernels read their arguments with


@intrinsic(prefer_literal=True)
def words(typing, args, n):
    """words(args, n): the first n argument words as a tuple of integers; n is a literal."""
    count = n.literal_value

    def codegen(context, builder, signature, values):
        base = pointer(builder, values[0], I64)
        loaded = [builder.load(builder.gep(base, [I64(i)])) for i in range(count)]
        return context.make_tuple(builder, signature.return_type, loaded)

    return types.UniTuple(types.int64, count)(args, n), codegen


real = as_f32  # a word that holds a float32's bits


@inline
def share(n, tid, team):
    """The rows [start, end) of n that thread `tid` of `team` does."""
    return n * tid // team, n * (tid + 1) // team


@inline
def take(counter, n, team):
    """The next of n pieces of work that no thread has taken, or -1: each thread asks until it gets that.

    For work of some length: cores are not equally fast at all times. The last to ask leaves the counter, a word of
    memory that `counter` has made, as it was.
    """
    piece = add(counter, 1)
    if piece < n:
        return piece
    if piece == n + team - 1:
        store_i64(counter, 0)
    return -1


class Pool:
    """Memory that launches need between them, and that nothing outlives a step in: one buffer a tag.

    Programs over one pool run one after the other.
    """

    def __init__(self):
        self._buffers: dict[str, np.ndarray] = {}

    def take(self, tag: str, n_bytes: int) -> np.ndarray:
        held = self._buffers.get(tag)
        if held is None or len(held) < n_bytes:
            held = self._buffers[tag] = aligned(n_bytes)
        return held[:n_bytes]


def aligned(n_bytes: int) -> np.ndarray:
    """uint8 [n_bytes] of any content, beginning on a cache line."""
    raw = np.empty(n_bytes + LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % LINE
    return raw[start : start + n_bytes]


class Program:
    """Launches recorded once: run by `Team.run` as often as wanted, over the same buffers."""

    def __init__(self, pool: Pool | None = None):
        self.pool = pool or Pool()
        self._launches: list[tuple[Kernel, np.ndarray]] = []
        self._keep: list = []
        self._table = None

    def append(self, kernel: Kernel, args: tuple) -> None:
        packed = np.array([_word(a) for a in args], np.int64)
        self._keep.append(args)
        self._launches.append((kernel, packed))
        self._table = None

    @property
    def kernels(self) -> list[Kernel]:
        return [kernel for kernel, _ in self._launches]

    @property
    def table(self) -> np.ndarray:
        """int64 [launches, 2]: each kernel's address and its words' address."""
        if self._table is None:
            rows = [(kernel.address, packed.ctypes.data) for kernel, packed in self._launches]
            self._table = np.array(rows, np.int64).reshape(-1, 2)
        return self._table

    def __len__(self) -> int:
        return len(self._launches)


def _word(value) -> int:
    if isinstance(value, np.ndarray):
        assert value.size == 0 or value.strides[-1] == value.itemsize, (value.shape, value.strides)
        return value.__array_interface__["data"][0]
    if isinstance(value, (float, np.floating)):
        return struct.unpack("<i", struct.pack("<f", value))[0]
    if value is None:
        return 0
    return int(value)


# ---- launching

_recording: contextvars.ContextVar[Program | None] = contextvars.ContextVar("recording", default=None)
_team: contextvars.ContextVar[Team | None] = contextvars.ContextVar("team", default=None)


@functools.cache
def _alone() -> Team:
    return Team(1)


def launch(kernel: Kernel, *args) -> None:
    """Run `kernel` over `args` on the current team, or record it.

    An argument is an array (passed as the address of its first element), an int, a float
    (passed as float32 bits, read by `real`) or None (a null address).
    """
    program = _recording.get()
    if program is not None:
        program.append(kernel, args)
        return
    once = Program()
    once.append(kernel, args)
    (_team.get() or _alone()).run(once)


def counter() -> np.ndarray:
    """An argument for one launch, whose threads `take` their work by it."""
    made = aligned(LINE)
    made.fill(0)
    return made


def scratch(tag: str, n_bytes: int) -> np.ndarray:
    """uint8 [n_bytes] of any content, for what one launch hands to the next.

    While recording, all that ask under one tag get the same memory: it holds until the next launcher asks.
    """
    program = _recording.get()
    return aligned(n_bytes) if program is None else program.pool.take(tag, n_bytes)


@contextlib.contextmanager
def record(pool: Pool | None = None):
    """Within it, launches are appended to the Program that it gives instead of being run."""
    program = Program(pool)
    token = _recording.set(program)
    try:
        yield program
    finally:
        _recording.reset(token)


@contextlib.contextmanager
def use(team: Team):
    """Within it, launches run at once on `team`."""
    token = _team.set(team)
    try:
        yield team
    finally:
        _team.reset(token)
