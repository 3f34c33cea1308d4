"""Kernels as addresses, steps as programs, and the team of threads that runs them. Knows no op.

A CPU kernel is a compiled function `kernel(args, tid, team)`: `args` points to its argument
words (addresses, integers, float bits), and it does the share of thread `tid` of `team`.
A launch is a kernel's address with its words. Outside of `record()` it runs at once; inside,
it is appended to a Program, which `Team.run` later runs whole: every thread walks the same
list in compiled code, with a barrier after each launch, and Python is not asked in between.
It is to the CPU what a captured graph is to a GPU.
"""

import contextlib
import contextvars
import ctypes
import functools
import logging
import os
import struct
import threading
from collections.abc import Callable

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from rocforge.cpu.isa import I64, as_f32, instruction, load_i64, pointer, store_i64
from rocforge.cpu.machine_code import address_of, is_kept
from rocforge.cpu.system import (
    EVERYBODY,
    FUTEX_WAIT,
    FUTEX_WAKE,
    MASK_BYTES,
    add,
    core_of_this,
    futex,
    get_cores,
    give_way,
    mask,
    other_mask,
    post,
    read,
    set_cores,
    try_wait,
    wait,
)

log = logging.getLogger(__name__)

# Numba settles on the machine that it compiles for when the first function is decorated. A forced tier
# is compiled for a machine that has no more than that; the generic one for this host, whose halves and
# fused products it takes from the compiler.
if os.environ.get("ROCFORGE_CPU_ISA") == "avx2":
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = "haswell", ""

# What every function below a kernel is compiled with: inlined, no exceptions, no fastmath
# (the order of a sum is part of the contract), and without the wrappers that Python would call it
# by, which are a seventh of all compiling.
inline = njit(forceinline=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


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


# ---- the walk over a program


def _emit_call(b, function, args, tid, team):
    target = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
    b.call(pointer(b, function, target), [args, tid, team])


_call = instruction(None, (types.int64, types.int64, types.intp, types.intp), _emit_call)
# Looks of a waiting thread before it sleeps: some 100 microseconds, more than the others' shares of a launch
# differ by (with a fifth of them decoding loses 13 %, for waking takes as long). Another process may hold a
# core for milliseconds: one that is left idle meanwhile lets the system bring the thread there that all wait for.
# Every so many looks the core is offered to a thread of the team that was seen on it, and to nobody else: another
# process would keep it for milliseconds (of the built-in model's speed a thirtieth was left).
_SPINS, _YIELD_EVERY = 100000, 2000
# Looks for a next job before it sleeps: some 200 microseconds, more than the caller takes between two steps. (The built-in
# model on a virtual Xeon's two cores: 4,300 tokens a second without, 6,200 with; after a second's pause 1,900 and 5,400.)
_IDLE_LOOKS = 100000

# A team's memory: the barrier's counter and how many sleep, the job, and for each thread a semaphore (POSIX: 32
# bytes at the most) and the core that it was on at the last barrier, each on cache lines of its own.
_COUNTER, _SLEEPERS, _TABLE, _LENGTH, _START, _QUIT, _SEMAPHORES, _LINE = 0, 64, 128, 136, 144, 152, 192, 64
_CORE = _SEMAPHORES + 48


@inline
def _is_shared(state, tid, n):
    """Whether another of the first n threads was on this core when it last came to a barrier."""
    core = core_of_this()
    for other in range(n):
        if other != tid and load_i64(state + _CORE + _LINE * other) == core:
            return True
    return False


@inline
def _part(state, tid):
    """Leave a core that a thread before this one is on. A system wakes a thread where the one is that wakes it, and takes
    tens of milliseconds to part them; the thread stays free to move."""
    core, all_cores, others = core_of_this(), mask(), other_mask()
    if 0 <= core < 8 * MASK_BYTES and _is_shared(state, tid, tid) and get_cores(all_cores) == 0:
        left, own = 0, core // 64 * 8
        for i in range(0, MASK_BYTES, 8):
            word = load_i64(all_cores + i) & (~(1 << core % 64) if i == own else -1)
            store_i64(others + i, word)
            left |= word
        if left != 0 and set_cores(others) == 0:
            set_cores(all_cores)
    store_i64(state + _CORE + _LINE * tid, core_of_this())


@inline
def _await(state, target, tid, team):
    """Returns when the counter has come to the target. Who brings it there wakes those that sleep.

    A sleeper is counted before it looks at the counter a last time, and the system lets it sleep only
    while the counter (its lower half) is what it saw.
    """
    for i in range(_SPINS):
        if read(state + _COUNTER) >= target:
            return
        if i % _YIELD_EVERY == _YIELD_EVERY - 1 and _is_shared(state, tid, team):
            give_way()
    add(state + _SLEEPERS, 1)
    seen = read(state + _COUNTER)
    while seen < target:
        futex(state + _COUNTER, FUTEX_WAIT, seen & 0xFFFFFFFF)
        seen = read(state + _COUNTER)
    add(state + _SLEEPERS, -1)


@inline
def _walk(state, tid, team):
    """This thread's share of every launch of the job, with a barrier after each."""
    table, start = load_i64(state + _TABLE), load_i64(state + _START)
    for i in range(load_i64(state + _LENGTH)):
        _call(load_i64(table + 16 * i), load_i64(table + 16 * i + 8), tid, team)
        store_i64(state + _CORE + _LINE * tid, core_of_this())
        target = start + team * (i + 1)
        if add(state + _COUNTER, 1) + 1 == target:
            if read(state + _SLEEPERS) != 0:
                futex(state + _COUNTER, FUTEX_WAKE, EVERYBODY)
        else:
            _await(state, target, tid, team)


def _lead(state, table, length, team):
    """What the caller's thread does: hand out the job, walk along. Done when all are done."""
    store_i64(state + _TABLE, table)
    store_i64(state + _LENGTH, length)
    store_i64(state + _START, read(state + _COUNTER))
    store_i64(state + _CORE, core_of_this())
    for tid in range(1, team):
        post(state + _SEMAPHORES + _LINE * tid)
    _walk(state, 0, team)


@inline
def _await_job(state, tid):
    """Returns when the caller has a job, which mostly comes soon: a thread that sleeps is woken late, and on the caller's core."""
    semaphore = state + _SEMAPHORES + _LINE * tid
    for i in range(_IDLE_LOOKS):
        if try_wait(semaphore) == 0:
            return
        if i % _YIELD_EVERY == 0 and _is_shared(state, tid, tid):
            break  # a caller on this core would wait for the core
    while wait(semaphore) != 0:
        pass  # a signal came in between


def _follow(state, tid, team):
    """What the other threads do until the team is closed."""
    while True:
        _await_job(state, tid)
        if load_i64(state + _QUIT) != 0:
            return
        _part(state, tid)
        _walk(state, tid, team)


@functools.cache
def _compiled() -> tuple[Callable, Callable]:
    """_lead and _follow as machine code, which ctypes calls without the GIL."""
    found = []
    for function, n_words in ((_lead, 4), (_follow, 3)):
        found.append(ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n_words)(address_of(function, n_words)))
    return tuple(found)


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
    raw = np.empty(n_bytes + _LINE, np.uint8)
    start = -raw.__array_interface__["data"][0] % _LINE
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


class Team:
    """`n` threads, the caller's among them, that run programs together. `close()` ends them.

    The caller hands out the job and does its share in one call into machine code: an interrupt
    (Ctrl-C) is seen before or after a program, never within.
    """

    def __init__(self, n: int):
        assert n >= 1, n
        self._start(n)

    def _start(self, n: int) -> None:
        """Memory and threads, in this process."""
        self._process = os.getpid()
        self._memory = np.zeros((_SEMAPHORES + _LINE * n) // 8, np.int64)
        self._state = self._memory.ctypes.data
        self._lock = threading.Lock()
        self._lead, follow = _compiled()
        for tid in range(1, n):
            if ctypes.CDLL(None).sem_init(ctypes.c_void_p(self._state + _SEMAPHORES + _LINE * tid), 0, 0) != 0:
                log.warning("this system has no semaphores for threads: one thread is used, not %d", n)
                n = 1
        self.n = n
        # A thread holds on to the memory and not to the team, so a forgotten team is collected.
        target = functools.partial(_serve, follow, self._memory)
        self._threads = [threading.Thread(target=target, args=(tid, n), name=f"rocforge-cpu-{tid}", daemon=True) for tid in range(1, n)]
        for thread in self._threads:
            thread.start()

    def run(self, program: "Program") -> None:
        """Run the program on all threads; returns when it is done. Callers wait for each other."""
        table = program.table
        if not len(table):
            return  # nobody would wait for the others to wake, and they would find the next job twice
        if self._process != os.getpid():
            self._start(self.n)  # in the child of a fork, which has none of the threads
        with self._lock:
            self._lead(self._state, table.__array_interface__["data"][0], len(table), self.n)

    def close(self) -> None:
        """End the threads. What runs later runs on the caller's alone."""
        with self._lock:
            self._memory[_QUIT // 8] = 1
            for tid in range(1, self.n):
                ctypes.CDLL(None).sem_post(ctypes.c_void_p(self._state + _SEMAPHORES + _LINE * tid))
        for thread in self._threads:
            thread.join()
        self._threads, self.n = [], 1

    def __del__(self):
        if getattr(self, "_threads", None):
            self.close()


def _serve(follow: Callable, memory: np.ndarray, tid: int, team: int) -> None:
    follow(memory.ctypes.data, tid, team)


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
    made = aligned(_LINE)
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
