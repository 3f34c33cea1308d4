"""Products of a matrix and few tokens: bound by memory. A lane works at one unit of several rows, in integers.

With the parts as decode.py names them, for a half of 32 columns of a unit

    I = sum over its two groups of  scale * (sum of value * x - OFFSET * sum of x)      int32, exact
    M = sum over its two groups of  min * (sum of x)                                    int32, exact
    acc += x's scale * (d * I + m * M)                                                  float32

each lane over its units in ascending order, then the lanes in a tree: one order for one tile.
Float formats multiply in float32, a lane's columns in ascending order, then the lanes in a tree.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import target, tuning
from rocforge.kernels.asm import dot4
from rocforge.kernels.decode import DECODE, split_words
from rocforge.kernels.finish import finish, strides
from rocforge.kernels.launch import launch
from rocforge.kernels.layout import UNIT, Matrix


class GemvTile(NamedTuple):
    """BN rows by BU units (of a float format: BK columns) a step of a program."""

    BN: int
    BU: int
    BK: int
    num_warps: int


# Tokens at the most: more are the matrix units' (gemm.py).
TOKENS = 8

# By the target's family, then by the tokens (a power of two) that a tile is good for at the most: each
# token has sums of its own in every lane's registers, of which GCN and CDNA 1 have 256.
TILES: dict[str, dict[int, GemvTile]] = {
    "nvidia": {8: GemvTile(2, 32, 128, 1)},
    "cdna": {4: GemvTile(4, 64, 256, 1), 8: GemvTile(2, 64, 256, 1)},
    "gfx906": {2: GemvTile(4, 64, 256, 1), 8: GemvTile(2, 64, 256, 1)},
    "rdna": {8: GemvTile(4, 32, 128, 1)},
    "interpreter": {8: GemvTile(16, 4, 64, 1)},
}


def tile(BT: int) -> GemvTile:
    at = target.current()
    by_tokens = TILES.get(at.arch) or TILES[at.family]
    return by_tokens[min(most for most in by_tokens if most >= BT)]


# ---- block formats


@triton.jit
def by_scale(a, b, scale_a, scale_b, SCALED: tl.constexpr, HALVES: tl.constexpr):
    """Two groups' integers by their scales, summed."""
    if not SCALED:
        return a + b
    elif HALVES:
        return scale_a * (a + b)
    else:
        return scale_a * a + scale_b * b


@triton.jit
def dots(words, x, mask, ISA: tl.constexpr):
    """words [BN, BU, 4] by the activations' words at x + [1, BU] -> int32 [BN, BU]: a group's 16 columns."""
    BN: tl.constexpr = words.shape[0]
    BU: tl.constexpr = words.shape[1]
    x = tl.load(x[:, :, None] + tl.arange(0, 4)[None, None, :], mask=mask[:, :, None], other=0)
    w0, w1, w2, w3 = split_words(words)
    x0, x1, x2, x3 = split_words(x)
    total = dot4(w0, tl.broadcast_to(x0, (BN, BU)), tl.zeros((BN, BU), tl.int32), ISA)
    total = dot4(w1, tl.broadcast_to(x1, (BN, BU)), total, ISA)
    total = dot4(w2, tl.broadcast_to(x2, (BN, BU)), total, ISA)
    return dot4(w3, tl.broadcast_to(x3, (BN, BU)), total, ISA)


@triton.jit
def lane_load(at, mask):
    """Load [1, BU] with one element a lane (see decode.word_at)."""
    return tl.load(tl.max_contiguous(at, [1, 1]), mask=mask, other=0)


@triton.jit(do_not_specialize=["T"])
def gemv_blocks(
    x, x_scales, x_sums, quants, high, scales_, supers, bias, residual, out, T, N, K, U, residual_stride, out_stride,
    values: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr,
    MINS: tl.constexpr, SIGNED: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BU: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """Program i: rows i * BN .. of all T <= BT tokens. x is the words of Q8's values."""
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    # Beyond the last row or token is that row or token again, not stored.
    row = tl.minimum(rows, N - 1)
    accs = ()
    for t in tl.static_range(BT):
        accs += (tl.zeros((BN, BU), tl.float32),)
    for first in range(0, U, BU):
        units = first + tl.arange(0, BU)
        u = units[None, :]
        mask, second = u < U, u * 64 + 32 < K  # the last unit may be half a one
        q0, q1, q2, q3 = values(quants, high, row, units, U, mask, ISA)
        d0, d1, m0, m1, s0, s1, s2, s3, n0, n1, n2, n3 = scales(scales_, supers, row, units, U, mask)
        sums = ()
        for t in tl.static_range(BT):
            token = tl.minimum(t, T - 1)
            at = x + token * (K // 4) + u * 16
            i0, i1 = dots(q0, at, mask, ISA), dots(q1, at + 4, mask, ISA)
            i2, i3 = dots(q2, at + 8, second, ISA), dots(q3, at + 12, second, ISA)
            if MINS or OFFSET:
                at = x_sums + token * (K // 16) + u * 4
                sum0, sum1 = lane_load(at, mask).to(tl.int32), lane_load(at + 1, mask).to(tl.int32)
                sum2, sum3 = lane_load(at + 2, second).to(tl.int32), lane_load(at + 3, second).to(tl.int32)
            if OFFSET:
                i0, i1, i2, i3 = i0 - OFFSET * sum0, i1 - OFFSET * sum1, i2 - OFFSET * sum2, i3 - OFFSET * sum3
            y0 = d0 * by_scale(i0, i1, s0, s1, SCALED, HALVES).to(tl.float32)
            y1 = d1 * by_scale(i2, i3, s2, s3, SCALED, HALVES).to(tl.float32)
            if MINS:
                y0 += m0 * by_scale(sum0, sum1, n0, n1, SCALED, HALVES).to(tl.float32)
                y1 += m1 * by_scale(sum2, sum3, n2, n3, SCALED, HALVES).to(tl.float32)
            at = x_scales + token * (K // 32) + u * 2
            sums += (accs[t] + lane_load(at, mask) * y0 + lane_load(at + 1, second) * y1,)
        accs = sums
    for t in tl.static_range(BT):
        y = tl.sum(accs[t], 1)[None, :]
        finish(y, bias, residual, out, t + tl.arange(0, 1), rows, T, N, residual_stride, out_stride)


def blocks(x: Q8, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a block format and T <= TOKENS tokens."""
    T, K = x.values.shape
    BT = triton.next_power_of_2(T)
    at = tuning.tile(gemv_blocks, tile(BT), w.format.name, (w.rows, K), T)
    launch(
        gemv_blocks, (triton.cdiv(w.rows, at.BN),), x.values.view(torch.int32), x.scales, x.sums, *w.planes, bias,
        residual, out, T, w.rows, K, -(-K // UNIT), *strides(residual, out), num_warps=at.num_warps,
        **DECODE[w.format]._asdict(), BT=BT, BN=at.BN, BU=at.BU, ISA=target.current().isa,
    )  # fmt: skip


# ---- float formats


@triton.jit(do_not_specialize=["T"])
def gemv_floats(
    x, w, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride,
    BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Program i: rows i * BN .. of all T <= BT tokens; each lane's columns ascending, then the lanes in a tree."""
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
        finish(y, bias, residual, out, t + tl.arange(0, 1), rows, T, N, residual_stride, out_stride)


def floats(x: torch.Tensor, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a float format and T <= TOKENS tokens."""
    T, K = x.shape
    BT = triton.next_power_of_2(T)
    at = tile(BT)
    at = at._replace(BN=max(1, at.BN // BT))  # each token has sums of its own in every lane
    at = tuning.tile(gemv_floats, at, w.format.name, (w.rows, K), T)
    launch(
        gemv_floats, (triton.cdiv(w.rows, at.BN),), x, w.planes.quants, bias, residual, out, T, w.rows, K, x.stride(0),
        *strides(residual, out), num_warps=at.num_warps, BT=BT, BN=at.BN, BK=at.BK,
    )  # fmt: skip
