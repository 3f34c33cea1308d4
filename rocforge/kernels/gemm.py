"""Products of a matrix and many tokens, on the matrix units. Two ways, by the number of tokens.

Some tokens: weights and activations become float16 a tile at a time, in registers. Many (EXPAND_TOKENS
on): both are expanded to float16 in memory first, the weights a slab of rows at a time, which costs a
write and a read of two bytes a weight and makes of the product a plain one. Either way

    out[t, n] = largest[t] * sum over k of  f16(w[n, k]) * f16(x[t, k] / largest[t])       sums in float32

largest[t] is the largest scale among x's blocks in row t (of float32 x: its largest value), so activations may be of any
size; weights must be below 65504. BF16 and F32 weights are multiplied in parts of bfloat16 instead.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import F16, Q8
from rocforge.kernels import target, tuning
from rocforge.kernels.decode import DECODE
from rocforge.kernels.early import wait
from rocforge.kernels.embed import weights_of
from rocforge.kernels.finish import finish, strides
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.layout import UNIT, Matrix


class GemmTile(NamedTuple):
    """BT tokens by BN rows a program, BU units a step; of float rows 32 columns."""

    BT: int
    BN: int
    BU: int
    num_warps: int
    num_stages: int


class PlainTile(NamedTuple):
    """BT tokens by BN rows a program, BK columns a step, of operands in float16."""

    BT: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int


# Tokens from which expanding the weights pays, and bytes of a slab of them.
EXPAND_TOKENS = 64
SLAB_BYTES = 128 << 20

TILES: dict[str, GemmTile] = {
    "nvidia": GemmTile(128, 256, 1, 8, 3),
    "cdna": GemmTile(128, 128, 1, 8, 1),
    "rdna": GemmTile(64, 64, 2, 8, 1),
    "interpreter": GemmTile(32, 32, 2, 1, 1),
}
# Without matrix units (gfx906, RDNA2) a tile of the product has to stay in the lanes' registers.
TILE_LANES = GemmTile(32, 32, 1, 4, 1)

PLAIN: dict[str, PlainTile] = {
    "nvidia": PlainTile(128, 128, 64, 8, 4),
    "cdna": PlainTile(128, 128, 64, 8, 2),
    "rdna": PlainTile(128, 64, 32, 8, 1),
    "interpreter": PlainTile(64, 32, 64, 1, 1),
}
PLAIN_LANES = PlainTile(32, 32, 32, 4, 1)

# Units of a row that one program expands, and its warps; blocks of 32 of a token at a time.
EXPAND_UNITS, EXPAND_WARPS, BLOCKS = 64, 1, 32


def tile() -> GemmTile:
    return TILE_LANES if _on_lanes() else TILES[target.current().family]


def plain_tile() -> PlainTile:
    return PLAIN_LANES if _on_lanes() else PLAIN[target.current().family]


def _on_lanes() -> bool:
    at = target.current()
    return at.backend == "hip" and not at.matrix


# ---- some tokens, block formats


@triton.jit
def largest_scales(x_scales, token, K, BT: tl.constexpr, BS: tl.constexpr):
    """[BT]: the largest scale of each token's blocks; 1 for a row of zeros."""
    seen = tl.zeros((BT, BS), tl.float32)
    for first in range(0, K // 32, BS):
        block = first + tl.arange(0, BS)
        at = x_scales + token[:, None] * (K // 32) + block[None, :]
        seen = tl.maximum(seen, tl.load(at, mask=(block < K // 32)[None, :], other=0))
    # Once, behind the loop: Triton 3.6 and 3.7 fail to compile a maximum within it for RDNA2.
    largest = tl.max(seen, 1)
    return tl.where(largest > 0, largest, 1.0)


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
    read_values: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr,
    SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr, BT: tl.constexpr,
    BN: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A program's BT tokens by BN rows; those of one tile of rows follow each other, so it is read once."""
    wait(EARLY)
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row = tl.minimum(tokens, T - 1), tl.minimum(rows, N - 1).to(tl.int64)

    largest = largest_scales(x_scales, token, K, BT, BS)
    inverse = 1 / largest

    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, U, BU):
        units = first + tl.arange(0, BU)
        u = units[None, :]
        mask = u < U
        q0, q1, q2, q3 = values(read_values(quants, high, row, units, U, mask), ISA)
        d0, d1, m0, m1, s0, s1, s2, s3, n0, n1, n2, n3 = scales(read_scales(scales_, supers, row, units, U, mask))
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


def blocks(x: Q8, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a block format."""
    T, K = x.values.shape
    if T >= EXPAND_TOKENS:
        _expanded_blocks(x, w, bias, residual, out)
        return
    at = tuning.tile(gemm_blocks, tile(), w.format.name, (w.rows, K), T)
    launch(
        gemm_blocks, (triton.cdiv(w.rows, at.BN) * triton.cdiv(T, at.BT),), x.values, x.scales, *w.planes, bias,
        residual, out, T, w.rows, K, -(-K // UNIT), *strides(residual, out), num_warps=at.num_warps,
        num_stages=at.num_stages, **DECODE[w.format]._asdict(), BT=at.BT, BN=at.BN, BU=at.BU, BS=BLOCKS,
        ISA=target.current().isa,
    )  # fmt: skip


# ---- float formats


@triton.jit
def two_parts(x, PART: tl.constexpr):
    """x as the sum of two bfloat16: 16 bits of its fraction, all of its range. Held as type PART."""
    upper = x.to(tl.bfloat16).to(tl.float32)
    return upper.to(PART), (x - upper).to(tl.bfloat16).to(PART)


@triton.jit(do_not_specialize=["T"])
def gemm_floats(
    x, w, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride,
    EXACT: tl.constexpr, PART: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Products of parts on the matrix units; EXACT: a weight is one bfloat16, its second part 0."""
    wait(EARLY)
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


def floats(x: torch.Tensor, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a float format."""
    T, K = x.shape
    if T >= EXPAND_TOKENS and w.format is F16:
        halves, largest = scratch("x16", (T, K), torch.float16, x), scratch("largest", (T,), torch.float32, x)
        launch(expand_floats, (T,), x, halves, largest, K, x.stride(0), num_warps=EXPAND_WARPS, BK=1024)
        _plain(halves, largest, w.planes.quants, bias, residual, out)
        return
    at = tuning.tile(gemm_floats, tile(), w.format.name, (w.rows, K), T)
    # The interpreter multiplies matrices in numpy, which has no bfloat16.
    part = tl.float32 if target.current().backend == "interpreter" else tl.bfloat16
    launch(
        gemm_floats, (triton.cdiv(w.rows, at.BN) * triton.cdiv(T, at.BT),), x, w.planes.quants, bias, residual, out,
        T, w.rows, K, x.stride(0), *strides(residual, out), num_warps=at.num_warps, num_stages=at.num_stages,
        EXACT=w.planes.quants.dtype == torch.bfloat16, PART=part, BT=at.BT, BN=at.BN, BK=32,
    )  # fmt: skip


# ---- many tokens


@triton.jit
def expand_tokens(x, x_scales, out, factors, K, BS: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t of x to float16, less its largest scale, which goes to factors[t]."""
    wait(EARLY)
    t = tl.program_id(0)
    largest = largest_scales(x_scales, t + tl.arange(0, 1), K, 1, BS)
    tl.store(factors + t + tl.arange(0, 1), largest)
    inverse = tl.max(1 / largest, 0)
    for first in range(0, K // 32, BS):
        block = first + tl.arange(0, BS)
        there = block < K // 32
        scale = tl.load(x_scales + t * (K // 32) + block, mask=there, other=0) * inverse
        at = t.to(tl.int64) * K + block[:, None] * 32 + tl.arange(0, 32)[None, :]
        values = tl.load(x + at, mask=there[:, None], other=0).to(tl.float32)
        tl.store(out + at, (values * scale[:, None]).to(tl.float16), mask=there[:, None])


@triton.jit
def expand_floats(x, out, factors, K, x_stride, BK: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t of x to float16, less its largest value, which goes to factors[t]."""
    wait(EARLY)
    t = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BK,), tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        largest = tl.maximum(largest, tl.abs(tl.load(x + t * x_stride + k, mask=k < K, other=0)))
    factor = tl.max(largest, 0)
    factor = tl.where(factor > 0, factor, 1.0)
    tl.store(factors + t, factor)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        value = tl.load(x + t * x_stride + k, mask=k < K, other=0) / factor
        tl.store(out + t * K + k, value.to(tl.float16), mask=k < K)


@triton.jit
def expand_rows(
    quants, high, scales_, supers, out, first_row, K, U,
    read_values: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr,
    SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr, BU: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (n, i): units i * BU .. of row first_row + n, as float16, to row n of out."""
    wait(EARLY)
    n = tl.program_id(0).to(tl.int64)
    rows = first_row + n + tl.zeros((1,), tl.int64)
    units = tl.program_id(1) * BU + tl.arange(0, BU)
    mask = (units < U)[None, :]
    q0, q1, q2, q3 = values(read_values(quants, high, rows, units, U, mask), ISA)
    d0, d1, m0, m1, s0, s1, s2, s3, n0, n1, n2, n3 = scales(read_scales(scales_, supers, rows, units, U, mask))
    k = units[None, :, None] * 64 + tl.arange(0, 16)[None, None, :]
    to = out + n * K + k
    tl.store(to, weights_of(q0, d0, s0, m0, n0, OFFSET, SCALED, MINS, SIGNED).to(tl.float16), mask=k < K)
    tl.store(to + 16, weights_of(q1, d0, s1, m0, n1, OFFSET, SCALED, MINS, SIGNED).to(tl.float16), mask=k + 16 < K)
    tl.store(to + 32, weights_of(q2, d1, s2, m1, n2, OFFSET, SCALED, MINS, SIGNED).to(tl.float16), mask=k + 32 < K)
    tl.store(to + 48, weights_of(q3, d1, s3, m1, n3, OFFSET, SCALED, MINS, SIGNED).to(tl.float16), mask=k + 48 < K)


@triton.jit(do_not_specialize=["T"])
def gemm_plain(
    x, factors, w, bias, residual, out, T, N, K, residual_stride, out_stride,
    BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A program's BT tokens by BN rows of x [T, K] and w [N, K]. WHOLE: K is a multiple of BK."""
    wait(EARLY)
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row = tl.minimum(tokens, T - 1).to(tl.int64), tl.minimum(rows, N - 1).to(tl.int64)
    k = tl.arange(0, BK)
    a_at, b_at = x + token[:, None] * K + k[None, :], w + row[:, None] * K + k[None, :]
    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, K, BK):
        if WHOLE:
            a, b = tl.load(a_at), tl.load(b_at)
        else:
            a = tl.load(a_at, mask=(k < K - first)[None, :], other=0)
            b = tl.load(b_at, mask=(k < K - first)[None, :], other=0)
        acc = tl.dot(a, tl.trans(b), acc)
        a_at += BK
        b_at += BK
    acc *= tl.load(factors + token)[:, None]
    finish(acc, bias, residual, out, tokens, rows, T, N, residual_stride, out_stride)


def _plain(x: torch.Tensor, factors: torch.Tensor, w: torch.Tensor, bias, residual, out: torch.Tensor) -> None:
    (T, K), N = x.shape, len(w)
    at = tuning.tile(gemm_plain, plain_tile(), F16.name, (N, K), T)
    launch(
        gemm_plain, (triton.cdiv(N, at.BN) * triton.cdiv(T, at.BT),), x, factors, w, bias, residual, out, T, N, K,
        *strides(residual, out), num_warps=at.num_warps, num_stages=at.num_stages,
        BT=at.BT, BN=at.BN, BK=at.BK, WHOLE=K % at.BK == 0,
    )  # fmt: skip


def _expanded_blocks(x: Q8, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    T, K = x.values.shape
    U = -(-K // UNIT)
    halves, factors = scratch("x16", (T, K), torch.float16, out), scratch("largest", (T,), torch.float32, out)
    launch(expand_tokens, (T,), x.values, x.scales, halves, factors, K, num_warps=EXPAND_WARPS, BS=BLOCKS)
    slab_rows = slab_of(w.rows, K)
    for first in range(0, w.rows, slab_rows):
        part = slice(first, min(first + slab_rows, w.rows))
        slab = scratch("w16", (part.stop - first, K), torch.float16, out)
        launch(
            expand_rows, (len(slab), triton.cdiv(U, EXPAND_UNITS)), *w.planes, slab, first, K, U,
            num_warps=EXPAND_WARPS, **DECODE[w.format]._asdict(), BU=EXPAND_UNITS, ISA=target.current().isa,
        )  # fmt: skip
        parts = (None if bias is None else bias[part], None if residual is None else residual[:, part], out[:, part])
        _plain(halves, factors, slab, *parts)


def slab_of(rows: int, columns: int) -> int:
    """Rows that are expanded at a time: all, or as many as a slab holds, in whole tiles."""
    return min(rows, max(256, SLAB_BYTES // (2 * columns) // 256 * 256))


def scratch_bytes(tokens: int, matrices: list[tuple[int, int]]) -> int:
    """Device memory that products of `tokens` tokens need beside their operands; matrices (rows, columns)."""
    if tokens < EXPAND_TOKENS or not matrices:
        return 0
    slabs = max(2 * slab_of(rows, columns) * columns for rows, columns in matrices)
    return slabs + 2 * tokens * max(columns for _, columns in matrices) + 4 * tokens
