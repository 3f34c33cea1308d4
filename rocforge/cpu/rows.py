"""out = x W^T for a few tokens: a few rows at a time, read once for all of them. As matmul.py says, bit for bit.

A step of few tokens is bound by reading the weights. So rows are taken as they lie in memory, without
the transposition that a tile of 16 rows needs, and unpacked in registers only. Of the 16 lanes, the
first eight are the strips of 256 columns of one row, the others those of another: the eight partial
sums that matmul.py tells of.

A core waits for its memory line by line, and longest where a page begins, which its prefetcher does not
look beyond and whose address it has to find first. So the rows at a time lie far apart, and each is
followed by its neighbour: where one begins a page, the others are within theirs. (Two cores of a Xeon
read pages of 4 KiB with 26 GB/s in one place each, 28 in two, 31 in four, and huge pages with 31, 35, 34.)
"""

from typing import NamedTuple

from llvmlite import ir
from numba import types

from rocforge.cpu import decode, groups
from rocforge.cpu.dots import dot4, dot4_small, has_registers, sums16, sums32
from rocforge.cpu.epilogue import finish
from rocforge.cpu.groups import f32x8, i16x16
from rocforge.cpu.isa import (
    ELEMENT,
    call,
    f32x16,
    fma,
    heap,
    heap_free,
    i32x16,
    instruction,
    load,
    load_i64,
    pointer,
    prefetch,
    prefetch_far,
    shuffle,
    stack,
    store,
    store_i64,
    sum_f32,
    zero,
)
from rocforge.cpu.lanes import to_f32
from rocforge.cpu.threads import inline, kernel, share, words
from rocforge.cpu.tier import at_least
from rocforge.gguf.formats import IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0

# Tokens of a step, at the most, for which reading rows beats unpacking tiles: with registers for what is unpacked, and without.
FEW, FEWER = 6, 4
GROUP = 256
# Rows at once, a pair of which is multiplied after the other.
PAIRS = 2
AT_ONCE = 2 * PAIRS
MOST_BYTES = 512  # no group of a row is longer
# Groups of a row by which weights are asked for before their use: far ahead (Fetch) into the second-level cache, enough to
# cover the memory's latency, and near into the first, which has few lines to wait for at a time.
NEAR = 3

load_words, store_words = load(16, "i32"), store(16, "i32")
load_lanes, store_lanes, zero_lanes, fused = load(16, "f32"), store(16, "f32"), zero(16, "f32"), fma(16)
_acc, _at, _tails = stack(64 * FEW * PAIRS), stack(8 * AT_ONCE), stack(MOST_BYTES * AT_ONCE)
_T = 7  # which word of the arguments is the number of tokens
# Room for whole vectors, in which they are cleared.
_values, _scales, _sums = stack(GROUP * FEW), stack(64 * FEW), stack(64 * FEW)
# Of a token and group, two vectors that are the same for all rows: what offsets and minimums make of its sums.
MARKS = 128


def _twice(vector, half):
    """-> intrinsic(address) -> the half vector there, in both halves of a vector."""

    def emit(b, a):
        x = b.load(pointer(b, a, half.llvm), align=1)
        return shuffle(b, x, x, [*range(half.n), *range(half.n)])

    return instruction(vector, (types.intp,), emit)


load_scales = _twice(f32x16, f32x8)
joined = instruction(f32x16, (f32x8, f32x8), lambda b, x, y: shuffle(b, x, y, range(16)))
load_sums = instruction(
    i32x16, (types.intp,), lambda b, a: b.sext(b.load(pointer(b, a, i16x16.llvm), align=1), i32x16.llvm)
)
# (x, y) -> every second lane of x, then of y, from lane 0 or 1 on
evens, odds = (
    instruction(i32x16, (i32x16, i32x16), lambda b, x, y, first=first: shuffle(b, x, y, range(first, 32, 2))) for first in (0, 1)
)
fold8 = sum_f32(8)
_half = lambda first: instruction(f32x8, (f32x16,), lambda b, x: shuffle(b, x, x, range(first, first + 8)))
lower, upper = _half(0), _half(8)
copy = instruction(
    None, (types.intp,) * 3,
    lambda b, to, a, n: call(
        b, "memcpy", ir.PointerType(ELEMENT["i8"]), [ir.PointerType(ELEMENT["i8"])] * 2 + [n.type],
        [pointer(b, to, ELEMENT["i8"]), pointer(b, a, ELEMENT["i8"]), n],
    ),
)  # fmt: skip


class Fetch(NamedTuple):
    """What suits one machine and not another: `AHEAD`, groups of a row and of those behind it."""

    AHEAD: int


DEFAULT = Fetch(8)


def most_tokens() -> int:
    """Of this machine, FEW or FEWER."""
    return FEW if at_least("avx512vnni") else FEWER


@inline
def clear(address, n_bytes):
    for i in range(0, n_bytes, 64):
        store_lanes(address + i, zero_lanes())


@inline
def halves(values, x, dot):
    """The sum of value * x over each 16 columns."""
    v0, v1, v2, v3 = values
    return sums16(dot(v0, x), dot(v1, x + 64), dot(v2, x + 128), dot(v3, x + 192))


@inline
def mark(sums, scales, marks, layout):
    """What offsets and minimums make of a group's sums."""
    x_sums = load_sums(sums)
    if layout.offset != 0:
        store_words(marks, x_sums * layout.offset)
    if layout.has_mins:
        x_scale, first, second = load_scales(scales), evens(x_sums, x_sums), odds(x_sums, x_sums)
        if layout.by_halves:
            store_lanes(marks, x_scale * to_f32(first))
            store_lanes(marks + 64, x_scale * to_f32(second))
        else:
            store_lanes(marks, x_scale * to_f32(first + second))


@inline
def add_group(acc, row, other, values, scales, marks, dot, layout):
    """p of matmul.py after eight strips of two rows; the activations' parts by their addresses."""
    row_values, scale, next_scale, minimum, next_minimum = row
    other_values, other_scale, other_next_scale, other_minimum, other_next_minimum = other
    low, high = halves(row_values, values, dot), halves(other_values, values, dot)
    if layout.offset != 0:
        taken_off = load_words(marks)
        low, high = low - taken_off, high - taken_off
    if layout.by_halves:
        first = to_f32(evens(low, high)) * joined(scale, other_scale)
        c = fused(to_f32(odds(low, high)), joined(next_scale, other_next_scale), first)
    else:
        c = to_f32(sums32(low, high)) * joined(scale, other_scale)
    p = fused(load_scales(scales), c, acc)
    if layout.has_mins:
        p = fused(joined(minimum, other_minimum), load_lanes(marks), p)
        if layout.by_halves:
            p = fused(joined(next_minimum, other_next_minimum), load_lanes(marks + 64), p)
    return p


@inline
def fetch_group(far, near, n_bytes):
    """Ask for the cache lines of `n_bytes` from either address on."""
    for i in range(0, n_bytes, 64):
        prefetch_far(far + i)
        prefetch(near + i)


@inline
def rows(args, tid, team, unpack, dot, layout):
    # One token, which most steps have, is compiled apart: what it adds up stays in registers.
    if load_i64(args + 8 * _T) == 1:
        rows_of(args, tid, team, 1, unpack, dot, layout)
    else:
        rows_of(args, tid, team, load_i64(args + 8 * _T), unpack, dot, layout)


@inline
def pad(tail, parts, K, whole, T):
    """The activations behind the last whole group of each token, with zeros behind them; both as (values, scales, sums)."""
    values, scales, sums = parts
    tail_values, tail_scales, tail_sums = tail
    clear(tail_values, GROUP * T)
    clear(tail_scales, 32 * T)
    clear(tail_sums, 32 * T)
    for t in range(T):
        i = K * t + whole
        copy(tail_values + GROUP * t, values + i, K - whole)
        copy(tail_scales + 32 * t, scales + i // 8, (K - whole) // 8)
        copy(tail_sums + 32 * t, sums + i // 8, (K - whole) // 8)


@inline
def rows_of(args, tid, team, T, unpack, dot, layout):
    w, values, scales, sums, bias, residual, out, _, N, K, residual_stride, out_stride, ahead = words(args, 13)
    row_bytes, group_bytes = K // layout.block * layout.block_bytes, GROUP // layout.block * layout.block_bytes
    far, near = ahead * group_bytes, NEAR * group_bytes
    acc, at, tails = _acc(), _at(), _tails()
    tail_values, tail_scales, tail_sums = _values(), _scales(), _sums()
    whole, n_groups = K // GROUP * GROUP, (K + GROUP - 1) // GROUP
    tail_bytes = row_bytes - whole // GROUP * group_bytes
    if whole < K:
        pad((tail_values, tail_scales, tail_sums), (values, scales, sums), K, whole, T)
        clear(tails, MOST_BYTES * AT_ONCE)
    memory = heap(MARKS * n_groups * T + 64)
    marks = (memory + 63) // 64 * 64
    for t in range(T):
        for g in range(n_groups):
            i, to = (K * t + GROUP * g) // 8, marks + MARKS * (n_groups * t + g)
            if GROUP * g == whole:
                mark(tail_sums + 32 * t, tail_scales + 32 * t, to, layout)
            else:
                mark(sums + i, scales + i, to, layout)

    apart = (N + AT_ONCE - 1) // AT_ONCE
    start, stop = share(apart, tid, team)
    for first in range(start, stop):
        for i in range(AT_ONCE):
            store_i64(at + 8 * i, w + row_bytes * min(first + apart * i, N - 1))
        for i in range(PAIRS * T):
            store_lanes(acc + 64 * i, zero_lanes())
        x, x_scales, x_marks, stride = values, scales, marks, K
        for k in range(0, K, GROUP):
            if k == whole:
                x, x_scales, stride = tail_values, tail_scales, GROUP
                for i in range(AT_ONCE):
                    copy(tails + MOST_BYTES * i, load_i64(at + 8 * i), tail_bytes)
                    store_i64(at + 8 * i, tails + MOST_BYTES * i)
            for p in range(PAIRS):
                a, b = load_i64(at + 16 * p), load_i64(at + 16 * p + 8)
                fetch_group(a + far, a + near, group_bytes)
                fetch_group(b + far, b + near, group_bytes)
                for t in range(T):
                    # Without, what is unpacked would go to memory and back between tokens.
                    if t == 0 or not has_registers():
                        row, other = unpack(a), unpack(b)
                    to, i = acc + 64 * (PAIRS * t + p), stride * t
                    parts = x + i, x_scales + i // 8, x_marks + MARKS * n_groups * t
                    store_lanes(to, add_group(load_lanes(to), row, other, *parts, dot, layout))
                store_i64(at + 16 * p, a + group_bytes)
                store_i64(at + 16 * p + 8, b + group_bytes)
            x, x_scales, x_marks = x + GROUP, x_scales + GROUP // 8, x_marks + MARKS
        for t in range(T):
            for p in range(PAIRS):
                sums8, n = load_lanes(acc + 64 * (PAIRS * t + p)), first + apart * 2 * p
                if n < N:
                    finish(fold8(lower(sums8)), bias, residual, out, t, n, residual_stride, out_stride)
                if n + apart < N:
                    finish(fold8(upper(sums8)), bias, residual, out, t, n + apart, residual_stride, out_stride)
    heap_free(memory)


# Values of 8 bits need the dot product that takes them.
ROWS = {
    Q4_0: kernel(lambda args, tid, team: rows(args, tid, team, groups.q4_0, dot4_small, decode.Q4_0)),
    Q4_1: kernel(lambda args, tid, team: rows(args, tid, team, groups.q4_1, dot4_small, decode.Q4_1)),
    Q5_0: kernel(lambda args, tid, team: rows(args, tid, team, groups.q5_0, dot4_small, decode.Q5_0)),
    Q5_1: kernel(lambda args, tid, team: rows(args, tid, team, groups.q5_1, dot4_small, decode.Q5_1)),
    Q8_0: kernel(lambda args, tid, team: rows(args, tid, team, groups.q8_0, dot4, decode.Q8_0)),
    Q2_K: kernel(lambda args, tid, team: rows(args, tid, team, groups.q2_k, dot4_small, decode.Q2_K)),
    Q3_K: kernel(lambda args, tid, team: rows(args, tid, team, groups.q3_k, dot4_small, decode.Q3_K)),
    Q4_K: kernel(lambda args, tid, team: rows(args, tid, team, groups.q4_k, dot4_small, decode.Q4_K)),
    Q5_K: kernel(lambda args, tid, team: rows(args, tid, team, groups.q5_k, dot4_small, decode.Q5_K)),
    Q6_K: kernel(lambda args, tid, team: rows(args, tid, team, groups.q6_k, dot4_small, decode.Q6_K)),
    IQ4_NL: kernel(lambda args, tid, team: rows(args, tid, team, groups.iq4_nl, dot4, decode.IQ4_NL)),
    IQ4_XS: kernel(lambda args, tid, team: rows(args, tid, team, groups.iq4_xs, dot4, decode.IQ4_XS)),
}
