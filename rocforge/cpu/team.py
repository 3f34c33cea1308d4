"""The team of threads that walks over a program's launches, a barrier after each. Knows what a launch is by its addresses alone."""

import ctypes
import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from rocforge.cpu.isa import I64, instruction, load_i64, pointer, store_i64
from rocforge.cpu.machine_code import address_of, inline
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
# Looks for a next job before it sleeps: half a millisecond, more than the caller takes between two steps of text. (The built-in
# model on a virtual Xeon's two cores, tokens a second: 4,300 without and 6,200 with, after a second's pause 1,900 and 5,200; of
# `generate`, which draws each token, 2,090 with two fifths of it and 2,760.)
_IDLE_LOOKS = 250000

# A team's memory: the barrier's counter and how many sleep, the job, and for each thread a semaphore (POSIX: 32
# bytes at the most) and the core that it was on at the last barrier, each on cache lines of its own.
_COUNTER, _SLEEPERS, _TABLE, _LENGTH, _START, _QUIT, _SEMAPHORES, LINE = 0, 64, 128, 136, 144, 152, 192, 64
_CORE = _SEMAPHORES + 48


@inline
def _is_shared(state, tid, n):
    """Whether another of the first n threads was on this core when it last came to a barrier."""
    core = core_of_this()
    for other in range(n):
        if other != tid and load_i64(state + _CORE + LINE * other) == core:
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
    store_i64(state + _CORE + LINE * tid, core_of_this())


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
        store_i64(state + _CORE + LINE * tid, core_of_this())
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
        post(state + _SEMAPHORES + LINE * tid)
    _walk(state, 0, team)


@inline
def _await_job(state, tid):
    """Returns when the caller has a job, which mostly comes soon: a thread that sleeps is woken late, and on the caller's core."""
    semaphore = state + _SEMAPHORES + LINE * tid
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
        self._memory = np.zeros((_SEMAPHORES + LINE * n) // 8, np.int64)
        self._state = self._memory.ctypes.data
        self._lock = threading.Lock()
        self._lead, follow = _compiled()
        for tid in range(1, n):
            if ctypes.CDLL(None).sem_init(ctypes.c_void_p(self._state + _SEMAPHORES + LINE * tid), 0, 0) != 0:
                log.warning("this system has no semaphores for threads: one thread is used, not %d", n)
                n = 1
        self.n = n
        # A thread holds on to the memory and not to the team, so a forgotten team is collected.
        target = functools.partial(_serve, follow, self._memory)
        self._threads = [threading.Thread(target=target, args=(tid, n), name=f"rocforge-cpu-{tid}", daemon=True) for tid in range(1, n)]
        for thread in self._threads:
            thread.start()

    def run(self, program: Any) -> None:
        """Run a threads.Program, whose table is all that is read of it, on all threads; returns when it is done. Callers wait for each other."""
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
                ctypes.CDLL(None).sem_post(ctypes.c_void_p(self._state + _SEMAPHORES + LINE * tid))
        for thread in self._threads:
            thread.join()
        self._threads, self.n = [], 1

    def __del__(self):
        if getattr(self, "_threads", None):
            self.close()


def _serve(follow: Callable, memory: np.ndarray, tid: int, team: int) -> None:
    follow(memory.ctypes.data, tid, team)
