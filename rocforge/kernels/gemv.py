"""Products of a matrix and few tokens: bound by memory. A lane works at one unit of several rows, in integers.

With the parts as decode.py names them, for a half of 32 columns of a unit

    I = sum over its two groups of  scale * (sum of value * x - OFFSET * sum of x)      int32, exact
    M = sum over its two groups of  min * (sum of x)                                    int32, exact
    acc += x's scale * (d * I + m * M)                                                  float32

each lane over its units in ascending order, then the lanes in a tree: one order for one tile.
Float formats multiply in float32, a lane's columns in ascending order, then the lanes in a tree.

For up to AHEAD_TOKENS tokens programs are as many as the device holds at once, and each goes through its share of the rows.
What a step needs of the weights is on its way while the step before is computed, so memory is never idle.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Q8_BLOCK, Format
from rocforge.kernels import target, tuning
from rocforge.kernels.asm import byte_of, dot2
from rocforge.kernels.decode import DECODE
from rocforge.kernels.dots import dots_of
from rocforge.kernels.early import wait
from rocforge.kernels.finish import ends_of, finish, strides
from rocforge.kernels.launch import launch
from rocforge.kernels.layout import EIGHTS, FOURS, PLANES, TWOS, UNIT, Matrix
from rocforge.kernels.norm import Root
from rocforge.kernels.sizes import cdiv, next_power_of_2


class GemvTile(NamedTuple):
    """BN rows by BU units a step of a program; `programs` of them for each compute unit."""

    BN: int
    BU: int
    num_warps: int
    programs: int


class FloatsTile(NamedTuple):
    """BN rows by BK columns a step of a program."""

    BN: int
    BK: int
    num_warps: int


# Tokens at the most, by the target's family: more are the matrix units' (gemm.py). On an H100 these overtake at three.
TOKENS = {"nvidia": 2, "cdna": 8, "rdna": 8, "interpreter": 8}
# Tokens for which weights are read a step ahead: with more, registers are full of what the tokens need.
AHEAD_TOKENS = 4
# Units that a lane works at in a step, by the target's family (or itself), then by the tokens (a power of two) that
# they are good for at the most: each token has sums of its own in every lane's registers, of which GCN has 256.
LANE_UNITS: dict[str, dict[int, int]] = {
    "nvidia": {8: 2},
    "cdna": {8: 2},
    "gfx906": {4: 2, 8: 1},
    "rdna": {8: 2},
}
# Warps that share a row at the most, and units that a lane of them has then; units that the programs of a compute unit
# have, for each lane of a warp.
ROW_WARPS, LONG_UNITS = 8, 2
HELD = {"nvidia": 40, "cdna": 32, "rdna": 32}

FLOATS: dict[str, FloatsTile] = {
    "nvidia": FloatsTile(2, 128, 1),
    "cdna": FloatsTile(4, 256, 1),
    "rdna": FloatsTile(4, 128, 1),
    "interpreter": FloatsTile(16, 64, 1),
}


def most_tokens() -> int:
    return TOKENS[target.current().family]


def tile(U: int, BT: int, format: Format) -> GemvTile:
    """For rows of U units of a block format and up to BT tokens.

    With one token a step is a whole row, or several short ones: its activations then stay in registers. With more
    it is half a row at the most, or the compiler would keep all tokens' activations, for which there is no room.
    """
    at = target.current()
    if at.backend == "interpreter":
        return GemvTile(16, 4, 1, 8)
    if at.family == "nvidia" and BT == 1:
        return _one_token(U, at.lanes, format)
    by_tokens = LANE_UNITS.get(at.arch) or LANE_UNITS[at.family]
    units, BU = by_tokens[min(n for n in by_tokens if n >= BT)], next_power_of_2(U)
    if BT > 1:
        BU = max(1, min(at.lanes, BU // 2))
    if BU <= at.lanes * units:
        return GemvTile(at.lanes * units // BU, BU, 1, HELD[at.family] // units)
    warps = min(BU // at.lanes, ROW_WARPS)
    BU = min(BU, LONG_UNITS * at.lanes * warps)
    return GemvTile(1, BU, warps, max(2, HELD[at.family] * at.lanes // BU))


def _one_token(U: int, lanes: int, format: Format) -> GemvTile:
    """What an H100 and an H200 did best with rows of 2,048 to 18,944 columns: a step is as much of a row as lanes have use for,
    of several rows. Programs are as many as registers leave room for at once (sm90, Triton 3.6): one more would wait for all
    others (128,256 rows of Q6_K: 116 us with 8, 101 with 6; 3,584 rows of 18,944 columns of Q4_K: 14.0 with 8, 12.0 with 4)."""
    sizes = [BU for BU in (256, 128, 64) if -U % BU * 8 <= U + -U % BU]  # at least 7 of 8 lanes are used
    BU = min(sizes[0] if sizes else lanes, next_power_of_2(U))
    has_more = has_more_bits(format)
    if BU > 2 * lanes:  # a few steps a row
        return _of_lanes(2, BU, 2 * lanes, 16) if has_more else _of_lanes(4, BU, 4 * lanes, 16)
    if BU < U:  # many
        return _of_lanes(4, BU, 4 * lanes, 10) if has_more else _of_lanes(8, BU, 8 * lanes, 8)
    return _of_lanes(max(4, 4 * lanes // BU), BU, 4 * lanes, 12 if has_more else 16)


def has_more_bits(format: Format) -> bool:
    """Than four, for each weight."""
    quants, high, *_ = PLANES[format]
    return quants is EIGHTS or (quants is FOURS and high is not None)


def _of_lanes(BN: int, BU: int, units: int, held: int) -> GemvTile:
    """A tile each of whose warps has so many units of a step; a compute unit holds so many warps."""
    warps = max(1, BN * BU // units)
    return GemvTile(BN, BU, warps, held // warps)


# ---- block formats


@triton.jit
def by_scale(
    a, b, scales, HALF: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, SHORT: tl.constexpr, ISA: tl.constexpr
):
    """The integers of a half's two groups by their scales, summed. SHORT: they are below 2^15."""
    if not SCALED:
        return a + b
    elif HALVES:
        return byte_of(scales, HALF, ISA) * (a + b)
    elif SHORT and ISA == "ptx":
        return dot2(a, b, scales, HALF)
    else:
        return byte_of(scales, 2 * HALF, ISA) * a + byte_of(scales, 2 * HALF + 1, ISA) * b


@triton.jit
def read_activations(x, x_scales, x_sums, token, u, U: tl.constexpr, K, SUMS: tl.constexpr):
    """A token's words of the four groups, two scales, and four sums if SUMS, of the units u [1, BU]."""
    mask, second = u < U, u * 64 + 32 < K  # the last unit may be half a one
    x += token * (K // 4)
    x0, x1 = group(x, u, 0, mask), group(x, u, 1, mask)
    x2, x3 = group(x, u, 2, second), group(x, u, 3, second)
    at = x_scales + token * (K // 32) + u * 2
    scale0, scale1 = tl.load(at, mask=mask, other=0), tl.load(at + 1, mask=second, other=0)
    sum0, sum1, sum2, sum3 = 0, 0, 0, 0
    if SUMS:
        at = x_sums + token * (K // 16) + u * 4
        sum0, sum1 = tl.load(at, mask=mask, other=0), tl.load(at + 1, mask=mask, other=0)
        sum2, sum3 = tl.load(at + 2, mask=second, other=0), tl.load(at + 3, mask=second, other=0)
        sum0, sum1, sum2, sum3 = sum0.to(tl.int32), sum1.to(tl.int32), sum2.to(tl.int32), sum3.to(tl.int32)
    return x0, x1, x2, x3, scale0, scale1, sum0, sum1, sum2, sum3


@triton.jit
def group(x, u, g: tl.constexpr, mask):
    """The words [1, BU, 4] of group g of the units u [1, BU]."""
    at = x + u[:, :, None] * 16 + (4 * g + tl.arange(0, 4))[None, None, :]
    return tl.load(at, mask=mask[:, :, None], other=0)


@triton.jit
def add_units(
    accs, words, marks, kept, x, x_scales, x_sums, u, T, K, U,
    dots: tl.constexpr, values: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr, SCALED: tl.constexpr,
    HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr, BT: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """Each token's acc [BN, BU] plus the units u [1, BU] of the rows whose words and marks these are. `kept` are one
    token's activations where they are at hand, else None."""
    d0, d1, m0, m1, s, n = scales(marks)
    sums = ()
    for t in tl.static_range(BT):
        if kept is not None:
            x0, x1, x2, x3, scale0, scale1, sum0, sum1, sum2, sum3 = kept
        else:
            x0, x1, x2, x3, scale0, scale1, sum0, sum1, sum2, sum3 = read_activations(
                x, x_scales, x_sums, tl.minimum(t, T - 1), u, U, K, MINS or OFFSET > 0
            )
        i0, i1, i2, i3 = dots(words, x0, x1, x2, x3, K >> 31, values, ISA)
        if OFFSET:
            i0, i1, i2, i3 = i0 - OFFSET * sum0, i1 - OFFSET * sum1, i2 - OFFSET * sum2, i3 - OFFSET * sum3
        y0 = d0 * by_scale(i0, i1, s, 0, SCALED, HALVES, SHORT, ISA).to(tl.float32)
        y1 = d1 * by_scale(i2, i3, s, 1, SCALED, HALVES, SHORT, ISA).to(tl.float32)
        if MINS:
            y0 += m0 * by_scale(sum0, sum1, n, 0, SCALED, HALVES, SHORT, ISA).to(tl.float32)
            y1 += m1 * by_scale(sum2, sum3, n, 1, SCALED, HALVES, SHORT, ISA).to(tl.float32)
        sums += (accs[t] + scale0 * y0 + scale1 * y1,)
    return sums


@triton.jit
def zeros(BT: tl.constexpr, BN: tl.constexpr, BU: tl.constexpr):
    accs = ()
    for t in tl.static_range(BT):
        accs += (tl.zeros((BN, BU), tl.float32),)
    return accs


@triton.jit
def finish_rows(accs, root, ends, rows, out, T, N, out_stride, BT: tl.constexpr, BN: tl.constexpr):
    """The lanes' sums in a tree, all tokens at once: addresses of each would take more scalar registers than CDNA has."""
    tokens, y = tl.arange(0, BT), tl.zeros((BT, BN), tl.float32)
    for t in tl.static_range(BT):
        y = tl.where((tokens == t)[:, None], tl.sum(accs[t], 1)[None, :], y)
    finish(root * y, ends, out, tokens, rows, T, N, out_stride)


@triton.jit
def root_of(squares, K, eps, BS: tl.constexpr):
    """What the products of a token are to be multiplied by: see norm.Root; 1 where its norm is whole. BS is a multiple of 32.

    Each warp makes it by itself, so that none waits for another: lanes have what a warp has lanes for, again and again.
    """
    root = 1.0
    if squares is not None:
        lane, total = tl.arange(0, 32), tl.zeros((32,), tl.float32)
        for first in tl.static_range(0, BS, 32):
            total += tl.load(squares + first + lane, mask=first + lane < K // 32, other=0)
        root = tl.rsqrt(tl.sum(total, 0) / K + eps)
    return root


@triton.jit(do_not_specialize=["T", "n_blocks"])
def gemv_blocks(
    x, x_scales, x_sums, squares, quants, high, scales_, supers, bias, residual, out, T, N, K, n_blocks, residual_stride,
    out_stride, eps,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr, U: tl.constexpr, BU: tl.constexpr, CHUNKS: tl.constexpr, RAGGED: tl.constexpr,
    BS: tl.constexpr, AHEAD: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program p of P: of all T <= BT tokens the blocks p, p + P .. of BN rows, of `n_blocks` in all.

    x is the words of Q8's values. A row takes CHUNKS steps of BU units. AHEAD: weights are read a step before their
    use; else a program has one block.
    """
    P, block, chunk = tl.num_programs(0), tl.program_id(0), 0
    lane, n = tl.arange(0, BU), tl.arange(0, BN)
    END: tl.constexpr = None if CHUNKS * BU == U else U
    accs, kept = zeros(BT, BN, BU), None
    if AHEAD:
        row = rows_of(block * BN, n, N, RAGGED)
        words = read_values(quants, high, block * BN, row, 0, END, U, BU, False)
        marks = read_scales(scales_, supers, block * BN, row, 0, END, U, BU, False)
        wait(EARLY)
        root = root_of(squares, K, eps, BS)
        if CHUNKS == 1 and BT == 1:  # the activations of a whole row stay in registers
            kept = read_activations(x, x_scales, x_sums, 0, lane[None, :], U, K, MINS or OFFSET > 0)
        for _ in range((n_blocks - block + P - 1) // P * CHUNKS):
            if CHUNKS == 1:
                is_last, next_block, next_chunk = True, block + P, 0
            else:
                is_last = chunk == CHUNKS - 1
                next_block, next_chunk = tl.where(is_last, block + P, block), tl.where(is_last, 0, chunk + 1)
            next_words, next_marks = words, marks
            # NVIDIA's assembler saves registers by loading as late as it can, but not across the end of a branch.
            if next_block < n_blocks:
                top, first = next_block * BN, next_chunk * BU
                row = rows_of(top, n, N, RAGGED)
                next_words = read_values(quants, high, top, row, first, END, U, BU, False)
                next_marks = read_scales(scales_, supers, top, row, first, END, U, BU, False)
            rows = block * BN + n
            ends = ends_of(bias, residual, tl.arange(0, BT), rows, is_last, T, N, residual_stride)
            accs = add_units(
                accs, words, marks, kept, x, x_scales, x_sums, (chunk * BU + lane)[None, :], T, K, U,
                dots, values, scales, OFFSET, SCALED, HALVES, MINS, SHORT, BT, ISA,
            )  # fmt: skip
            if is_last:
                finish_rows(accs, root, ends, rows, out, T, N, out_stride, BT, BN)
                accs = zeros(BT, BN, BU)
            words, marks, block, chunk = next_words, next_marks, next_block, next_chunk
    else:
        wait(EARLY)
        row = rows_of(block * BN, n, N, RAGGED)
        for first in range(0, U, BU):
            words = read_values(quants, high, block * BN, row, first, END, U, BU, False)
            marks = read_scales(scales_, supers, block * BN, row, first, END, U, BU, False)
            accs = add_units(
                accs, words, marks, kept, x, x_scales, x_sums, (first + lane)[None, :], T, K, U,
                dots, values, scales, OFFSET, SCALED, HALVES, MINS, SHORT, BT, ISA,
            )  # fmt: skip
        ends = ends_of(bias, residual, tl.arange(0, BT), block * BN + n, True, T, N, residual_stride)
        finish_rows(accs, 1.0, ends, block * BN + n, out, T, N, out_stride, BT, BN)


@triton.jit
def rows_of(top, n, N, RAGGED: tl.constexpr):
    """The rows from `top` on, counted from there. RAGGED: those beyond the last are the last again, not stored."""
    return tl.minimum(n, N - 1 - top) if RAGGED else n


@triton.jit
def row_sums(
    words, marks, top, n, x, x_scales, x_sums, quants, high, scales_, supers, K,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    U: tl.constexpr, BU: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """One token's products [BN] of the rows top + n, a step after the other; `words` and `marks` are those of the first."""
    BN: tl.constexpr = n.shape[0]
    lane = tl.arange(0, BU)
    CHUNKS: tl.constexpr = (U + BU - 1) // BU
    END: tl.constexpr = None if U % BU == 0 else U
    accs = zeros(1, BN, BU)
    for chunk in range(CHUNKS):
        next_words, next_marks = words, marks
        if chunk < CHUNKS - 1:  # a branch, as in gemv_blocks
            first = (chunk + 1) * BU
            next_words = read_values(quants, high, top, n, first, END, U, BU, False)
            next_marks = read_scales(scales_, supers, top, n, first, END, U, BU, False)
        accs = add_units(
            accs, words, marks, None, x, x_scales, x_sums, (chunk * BU + lane)[None, :], 1, K, U,
            dots, values, scales, OFFSET, SCALED, HALVES, MINS, SHORT, 1, ISA,
        )  # fmt: skip
        words, marks = next_words, next_marks
    return tl.sum(accs[0], 1)


def parts_of(format: Format) -> dict[str, Any]:
    """The constants by which a kernel here knows a format."""
    is_short = PLANES[format].quants is TWOS  # 16 products of an int8 and of two bits, or three with their offset taken off
    parts = {**DECODE[format]._asdict(), "dots": dots_of(format, target.current().isa), "SHORT": is_short}
    del parts["SIGNED"]
    return parts


def squares_of(K: int, root: Root | None) -> int:
    """BS of root_of."""
    return 0 if root is None else cdiv(K // Q8_BLOCK, 32) * 32


def programs(n_blocks: int, at_once: int) -> int:
    """Programs for so many blocks, no more than run at once, and all with as many blocks but for the last ones."""
    return math.ceil(n_blocks / math.ceil(n_blocks / at_once))


def blocks(x: Q8, w: Matrix, bias, residual, out: torch.Tensor, root: Root | None = None) -> None:
    """matmul.linear() for one matrix of a block format and T <= most_tokens() tokens; of one token that has a root too."""
    T, K = x.values.shape
    U, BT = -(-K // UNIT), next_power_of_2(T)
    at = tuning.tile(gemv_blocks, tile(U, BT, w.format), w.format.name, (w.rows, K), T)
    n_blocks, is_ahead = cdiv(w.rows, at.BN), BT <= AHEAD_TOKENS
    grid = programs(n_blocks, at.programs * target.current().units) if is_ahead else n_blocks
    squares, eps = root or (None, 0.0)
    launch(
        gemv_blocks, (grid,), x.values.view(torch.int32), x.scales, x.sums, squares, *w.planes, bias, residual, out, T,
        w.rows, K, n_blocks, *strides(residual, out), eps, num_warps=at.num_warps, **parts_of(w.format), BT=BT,
        BN=at.BN, U=U, BU=at.BU, CHUNKS=cdiv(U, at.BU), RAGGED=w.rows % at.BN > 0, BS=squares_of(K, root),
        AHEAD=is_ahead, ISA=target.current().isa,
    )  # fmt: skip


# ---- float formats


@triton.jit(do_not_specialize=["T"])
def gemv_floats(
    x, w, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride,
    BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program i: rows i * BN .. of all T <= BT tokens; each lane's columns ascending, then the lanes in a tree."""
    wait(EARLY)
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    row = tl.minimum(rows, N - 1).to(tl.int64)
    accs = ()
    for t in tl.static_range(BT):
        accs += (tl.zeros((BN, BK), tl.float32),)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        weights = tl.load(w + row[:, None] * K + k[None, :], mask=(k < K)[None, :], other=0).to(tl.float32)
        sums = ()
        for t in tl.static_range(BT):
            token = tl.minimum(t, T - 1)
            sums += (accs[t] + weights * tl.load(x + token * x_stride + k, mask=k < K, other=0)[None, :],)
        accs = sums
    for t in tl.static_range(BT):
        y = tl.sum(accs[t], 1)[None, :]
        tokens = t + tl.arange(0, 1)
        finish(y, ends_of(bias, residual, tokens, rows, True, T, N, residual_stride), out, tokens, rows, T, N, out_stride)


def floats(x: torch.Tensor, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a float format and T <= most_tokens() tokens."""
    T, K = x.shape
    BT = next_power_of_2(T)
    at = FLOATS[target.current().family]
    at = at._replace(BN=max(1, at.BN // BT))  # each token has sums of its own in every lane
    at = tuning.tile(gemv_floats, at, w.format.name, (w.rows, K), T)
    launch(
        gemv_floats, (cdiv(w.rows, at.BN),), x, w.planes.quants, bias, residual, out, T, w.rows, K, x.stride(0),
        *strides(residual, out), num_warps=at.num_warps, BT=BT, BN=at.BN, BK=at.BK,
    )  # fmt: skip
