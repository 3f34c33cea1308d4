"""out = x W^T + bias + residual, from planes of quantised weights. Expands a tile at a time, in registers.

Few tokens (up to GEMV_TOKENS) are memory's: a lane works at one unit of several rows, in integers.
With the parts as decode.py names them, for a half of 32 columns of a unit

    I = sum over its two groups of  scale * (sum of value * x - OFFSET * sum of x)      int32, exact
    M = sum over its two groups of  min * (sum of x)                                    int32, exact
    acc += x's scale * (d * I + m * M)                                                  float32

each lane over its units in ascending order, then the lanes in a tree: one order for one tile.
Many tokens are the matrix units': weights and activations become float16 a tile at a time. The weights
must be below 65504 for that; activations may be of any size, each row of x is divided by its largest scale first.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import target
from rocforge.kernels.decode import DECODE, split_words
from rocforge.kernels.asm import dot4
from rocforge.kernels.embed import weights_of
from rocforge.kernels.launch import launch
from rocforge.kernels.layout import UNIT, Matrix


class GemvTile(NamedTuple):
    """BN rows by BU units a step of a program; of a float row 4 columns for each unit."""

    BN: int
    BU: int
    num_warps: int


class GemmTile(NamedTuple):
    """BT tokens by BN rows a program, BU units a step; of a float row 32 columns."""

    BT: int
    BN: int
    BU: int
    num_warps: int
    num_stages: int


# Tokens that are multiplied one by one; above, the matrix units are faster.
GEMV_TOKENS = 8

GEMV: dict[str, GemvTile] = {
    "nvidia": GemvTile(2, 32, 1),
    "cdna": GemvTile(4, 64, 1),
    "rdna": GemvTile(4, 32, 1),
    "interpreter": GemvTile(8, 4, 1),
}
GEMM: dict[str, GemmTile] = {
    "nvidia": GemmTile(128, 256, 1, 8, 3),
    "cdna": GemmTile(128, 128, 1, 8, 1),
    "rdna": GemmTile(64, 64, 2, 8, 1),
    "interpreter": GemmTile(32, 32, 2, 1, 1),
}
# Without matrix units (gfx906, RDNA2) a tile of the product has to stay in the lanes' registers.
GEMM_LANES = GemmTile(32, 32, 1, 4, 1)


def gemv_tile() -> GemvTile:
    return GEMV[target.current().family]


def gemm_tile() -> GemmTile:
    at = target.current()
    return GEMM_LANES if at.backend == "hip" and not at.matrix else GEMM[at.family]


@triton.jit
def finish(acc, bias, residual, out, tokens, rows, T, N, residual_stride, out_stride):
    """out[t, n] = acc + bias[n] + residual[t, n], acc being [BT, BN]; None for what there is not."""
    mask = (tokens < T)[:, None] & (rows < N)[None, :]
    if bias is not None:
        acc += tl.load(bias + rows, mask=rows < N, other=0)[None, :]
    tokens = tokens[:, None].to(tl.int64)
    if residual is not None:
        acc += tl.load(residual + tokens * residual_stride + rows[None, :], mask=mask, other=0)
    tl.store(out + tokens * out_stride + rows[None, :], acc, mask=mask)


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


@triton.jit
def gemm_group(
    acc, x, x_scale, words, d, scale, m, minimum, mask,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """acc + one group's columns: x int8 at [BT, BU, 16] addresses, x_scale and mask [BT, BU]."""
    BT: tl.constexpr = x.shape[0]
    BN: tl.constexpr = words.shape[0]
    COLUMNS: tl.constexpr = 16 * words.shape[1]
    a = tl.load(x, mask=mask[:, :, None], other=0).to(tl.float32) * x_scale[:, :, None]
    w = weights_of(words, d, scale, m, minimum, OFFSET, SCALED, MINS, SIGNED)
    a = tl.reshape(a.to(tl.float16), (BT, COLUMNS))
    w = tl.reshape(w.to(tl.float16), (BN, COLUMNS))
    return tl.dot(a, tl.trans(w), acc)


@triton.jit(do_not_specialize=["T"])
def gemm_blocks(
    x, x_scales, quants, high, scales_, supers, bias, residual, out, T, N, K, U, residual_stride, out_stride,
    values: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr,
    MINS: tl.constexpr, SIGNED: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """A program's BT tokens by BN rows; those of one tile of rows follow each other, so it is read once."""
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row = tl.minimum(tokens, T - 1), tl.minimum(rows, N - 1).to(tl.int64)

    largest = tl.zeros((BT,), tl.float32)
    for first in range(0, K // 32, BS):
        block = first + tl.arange(0, BS)
        at = x_scales + token[:, None] * (K // 32) + block[None, :]
        largest = tl.maximum(largest, tl.max(tl.load(at, mask=(block < K // 32)[None, :], other=0), 1))
    inverse = 1 / tl.where(largest > 0, largest, 1)

    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, U, BU):
        units = first + tl.arange(0, BU)
        u = units[None, :]
        mask = u < U
        q0, q1, q2, q3 = values(quants, high, row, units, U, mask, ISA)
        d0, d1, m0, m1, s0, s1, s2, s3, n0, n1, n2, n3 = scales(scales_, supers, row, units, U, mask)
        there = (token[:, None] >= 0) & mask
        second = (token[:, None] >= 0) & (u * 64 + 32 < K)
        scale = x_scales + token[:, None] * (K // 32) + u * 2
        scale0 = tl.load(scale, mask=there, other=0) * inverse[:, None]
        scale1 = tl.load(scale + 1, mask=second, other=0) * inverse[:, None]
        at = x + token[:, None, None].to(tl.int64) * K + u[:, :, None] * 64 + tl.arange(0, 16)[None, None, :]
        acc = gemm_group(acc, at, scale0, q0, d0, s0, m0, n0, there, OFFSET, SCALED, MINS, SIGNED)
        acc = gemm_group(acc, at + 16, scale0, q1, d0, s1, m0, n1, there, OFFSET, SCALED, MINS, SIGNED)
        acc = gemm_group(acc, at + 32, scale1, q2, d1, s2, m1, n2, second, OFFSET, SCALED, MINS, SIGNED)
        acc = gemm_group(acc, at + 48, scale1, q3, d1, s3, m1, n3, second, OFFSET, SCALED, MINS, SIGNED)
    acc *= largest[:, None]
    finish(acc, bias, residual, out, tokens, rows, T, N, residual_stride, out_stride)


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


@triton.jit
def two_parts(x, PART: tl.constexpr):
    """x as the sum of two bfloat16: 16 bits of its fraction, all of its range. Held as type PART."""
    upper = x.to(tl.bfloat16).to(tl.float32)
    return upper.to(PART), (x - upper).to(tl.bfloat16).to(PART)


@triton.jit(do_not_specialize=["T"])
def gemm_floats(
    x, w, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride,
    EXACT: tl.constexpr, PART: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Products of parts on the matrix units; EXACT: a weight is one bfloat16, its second part 0."""
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row = tl.minimum(tokens, T - 1).to(tl.int64), tl.minimum(rows, N - 1).to(tl.int64)
    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        a = tl.load(x + token[:, None] * x_stride + k[None, :], mask=(k < K)[None, :], other=0)
        weights = tl.load(w + row[:, None] * K + k[None, :], mask=(k < K)[None, :], other=0)
        a_upper, a_lower = two_parts(a, PART)
        w_upper, w_lower = two_parts(weights.to(tl.float32), PART)
        acc = tl.dot(a_lower, tl.trans(w_upper), acc)
        if not EXACT:
            acc = tl.dot(a_upper, tl.trans(w_lower), acc)
        acc = tl.dot(a_upper, tl.trans(w_upper), acc)
    finish(acc, bias, residual, out, tokens, rows, T, N, residual_stride, out_stride)


def linear(
    x: "Q8 | torch.Tensor",
    weights: tuple[Matrix, ...],
    bias: "torch.Tensor | None",
    residual: "torch.Tensor | None",
    out: torch.Tensor,
) -> None:
    """out = x W^T + bias + residual, W being the rows of `weights` one below the other.

    The weights are all of block formats, and x is then a Q8 [T, K]; or all of float formats, and x
    is float32 [T, K]. bias float32 [N] or None; residual float32 [T, N] or None, which may be `out`
    itself; out float32 [T, N], N the rows of all weights together. Rows of x (if float32), residual
    and out need not lie one behind the other. The formula and its order are at the top of the file.
    """
    is_float = weights[0].format.is_float
    T, K = (x if is_float else x.values).shape
    N = sum(w.rows for w in weights)
    assert all(w.format.is_float == is_float and w.columns == K for w in weights), (K, weights)
    assert out.shape == (T, N) and out.dtype == torch.float32, (out.shape, out.dtype, T, N)
    assert bias is None or bias.shape == (N,), (bias.shape, N)
    assert residual is None or residual.shape == (T, N), (residual.shape, T, N)
    assert is_float or all(part.is_contiguous() for part in x)
    start = 0
    for w in weights:
        rows = slice(start, start + w.rows)
        parts = (None if bias is None else bias[rows], None if residual is None else residual[:, rows], out[:, rows])
        (_floats if is_float else _blocks)(x, w, *parts)
        start += w.rows


def _strides(residual: Any, out: torch.Tensor) -> tuple[int, int]:
    return (0 if residual is None else residual.stride(0)), out.stride(0)


def _blocks(x: Q8, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    T, K = x.values.shape
    U = -(-K // UNIT)
    sizes, decoder = (T, w.rows, K, U, *_strides(residual, out)), DECODE[w.format]._asdict()
    if T <= GEMV_TOKENS:
        tile = gemv_tile()
        launch(
            gemv_blocks, (triton.cdiv(w.rows, tile.BN),), x.values.view(torch.int32), x.scales, x.sums, *w.planes, bias,
            residual, out, *sizes, num_warps=tile.num_warps, **decoder,
            BT=triton.next_power_of_2(T), BN=tile.BN, BU=tile.BU, ISA=target.current().isa,
        )  # fmt: skip
    else:
        tile = gemm_tile()
        launch(
            gemm_blocks, (triton.cdiv(w.rows, tile.BN) * triton.cdiv(T, tile.BT),), x.values, x.scales, *w.planes, bias,
            residual, out, *sizes, num_warps=tile.num_warps, num_stages=tile.num_stages, **decoder,
            BT=tile.BT, BN=tile.BN, BU=tile.BU, BS=32, ISA=target.current().isa,
        )  # fmt: skip


def _part_type() -> tl.dtype:
    # The interpreter multiplies matrices in numpy, which has no bfloat16.
    return tl.float32 if target.current().backend == "interpreter" else tl.bfloat16


def _floats(x: torch.Tensor, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    T, K = x.shape
    sizes = (T, w.rows, K, x.stride(0), *_strides(residual, out))
    if T <= GEMV_TOKENS:
        tile, BT = gemv_tile(), triton.next_power_of_2(T)
        BN = max(1, tile.BN // BT)  # each token has sums of its own in every lane
        launch(
            gemv_floats, (triton.cdiv(w.rows, BN),), x, w.planes.quants, bias, residual, out, *sizes,
            num_warps=tile.num_warps, BT=BT, BN=BN, BK=4 * tile.BU,
        )  # fmt: skip
    else:
        tile = gemm_tile()
        launch(
            gemm_floats, (triton.cdiv(w.rows, tile.BN) * triton.cdiv(T, tile.BT),), x, w.planes.quants, bias, residual,
            out, *sizes, num_warps=tile.num_warps, num_stages=tile.num_stages,
            EXACT=w.planes.quants.dtype == torch.bfloat16, PART=_part_type(), BT=tile.BT, BN=tile.BN, BK=32,
        )  # fmt: skip
