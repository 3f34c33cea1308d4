"""RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight, as float32, in 8 bits, or in halves that are made of those."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import halves, tuning
from rocforge.kernels.columns import Order
from rocforge.kernels.early import settled, wait
from rocforge.kernels.finish import strides
from rocforge.kernels.halves import Halves, store_halves
from rocforge.kernels.launch import launch
from rocforge.kernels.parts import Parts, joined
from rocforge.kernels.quantize import store_q8
from rocforge.kernels.sizes import next_power_of_2

# Warps of the program that has a row, by the columns that it is at the most: few enough to join their
# sums quickly, enough to hold the row in registers.
WARPS = ((1024, 2), (2048, 4), (8192, 8), (1 << 30, 16))
# Twice as many where parts are joined before, which wait for more loads: 3.0 us instead of 3.7 on an H200 (8 tokens, four parts).
MOST_WARPS = 16


class NormTile(NamedTuple):
    num_warps: int


class Root(NamedTuple):
    """What a token's norm leaves to the products that read it: they multiply their sums by

        1 / sqrt(sum of squares / K + eps)

    where `squares` float32 [K / 32] are the sums of the squares of each block of its x, before any weight.
    """

    squares: torch.Tensor
    eps: float


def tile(columns: int) -> NormTile:
    return NormTile(next(warps for most, warps in WARPS if columns <= most))


@triton.jit
def inverse_rms(total, n, eps):
    """1 / sqrt(total / n + eps): of n values whose squares sum to `total`."""
    return tl.div_rn(1.0 + total * 0, tl.sqrt_rn(tl.div_rn(total, n + total * 0) + eps))


@triton.jit
def rms_norm_f32(x, weight, out, N, eps, BN: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t, whole."""
    t, i = tl.program_id(0).to(tl.int64), tl.arange(0, BN)
    w = settled(weight + i, i < N, EARLY)
    wait(EARLY)
    row = tl.load(x + t * N + i, mask=i < N, other=0)
    inverse = inverse_rms(tl.sum(row * row, 0), N, eps)
    tl.store(out + t * N + i, row * inverse * w, mask=i < N)


@triton.jit
def rms_norm_q8(x, weight, values, scales, sums, N, eps, BB: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t, whole, as BB blocks of 32."""
    t, block = tl.program_id(0).to(tl.int64), tl.arange(0, BB)
    i = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    w = settled(weight + i, i < N, EARLY)
    wait(EARLY)
    row = tl.load(x + t * N + i, mask=i < N, other=0)
    inverse = inverse_rms(tl.sum(tl.sum(row * row, 1), 0), N, eps)
    y = row * inverse * w
    store_q8(y, values + t * N, scales + t * (N // 32), sums + t * (N // 16), block, block < N // 32)


@triton.jit
def rms_norm_halves(
    x, weight, out, largest, N, out_stride, eps, BB: tl.constexpr, MIX: tl.constexpr, PAIRED: tl.constexpr, EARLY: tl.constexpr
):
    """Program t: row t, whole, as BB blocks of 32."""
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BB)[:, None] * 32 + tl.arange(0, 32)[None, :]
    w = settled(weight + i, i < N, EARLY)
    wait(EARLY)
    row = tl.load(x + t * N + i, mask=i < N, other=0)
    inverse = inverse_rms(tl.sum(tl.sum(row * row, 1), 0), N, eps)
    store_halves(row * inverse * w, out + t * out_stride, largest + t, out_stride, MIX, PAIRED)


@triton.jit(do_not_specialize=["T", "n_parts"])
def norm_of_parts(
    parts, parts_largest, bias, residual, x, weight, out, largest, T, N, n_parts, residual_stride, x_stride, out_stride, eps,
    BB: tl.constexpr, MIX: tl.constexpr, PAIRED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program t: row t of x, which parts.add would make, and its norm."""
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, BB)[:, None] * 32 + tl.arange(0, 32)[None, :]
    w = settled(weight + i, i < N, EARLY)
    wait(EARLY)
    row = joined(parts, parts_largest, t, i, i < N, T, N, n_parts)
    b, r = 0.0, 0.0
    if bias is not None:
        b = tl.load(bias + i, mask=i < N, other=0)
    if residual is not None:
        r = tl.load(residual + t * residual_stride + i, mask=i < N, other=0)
    row = row + b + r
    tl.store(x + t * x_stride + i, row, mask=i < N)
    inverse = inverse_rms(tl.sum(tl.sum(row * row, 1), 0), N, eps)
    store_halves(row * inverse * w, out + t * out_stride, largest + t, out_stride, MIX, PAIRED)


def to_halves(x: torch.Tensor, weight: torch.Tensor, eps: float, order: Order) -> Halves:
    """rms_norm() in 8 bits, as the matrix units take them: what halves.of_q8 makes of it."""
    T, N = x.shape
    made, at = halves.empty(T, N, order, x), tuning.tile(rms_norm_q8, tile(N), "", (N,), T)
    launch(
        rms_norm_halves, (T,), x, weight, *made, N, made.values.stride(0), float(eps), num_warps=at.num_warps, fuses=False,
        BB=_blocks_of(made), **order._asdict(),
    )  # fmt: skip
    return made


def parts_to_halves(parts: Parts, bias, residual, x: torch.Tensor, weight: torch.Tensor, eps: float, order: Order) -> Halves:
    """x = the product whose parts these are + bias + residual, and to_halves() of it."""
    n, T, N = parts.sums.shape
    made, at = halves.empty(T, N, order, x), tuning.tile(rms_norm_q8, tile(N), "", (N,), T)
    launch(
        norm_of_parts, (T,), *parts, bias, residual, x, weight, *made, T, N, n, *strides(residual, x), made.values.stride(0),
        float(eps), num_warps=min(MOST_WARPS, 2 * at.num_warps), fuses=False, BB=_blocks_of(made), **order._asdict(),
    )  # fmt: skip
    return made


def _blocks_of(made: Halves) -> int:
    return next_power_of_2(made.values.shape[1] // 32)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, out: "torch.Tensor | Q8", *, eps: float) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight for each row (Zhang and Sennrich, arXiv 1910.07467).

    x float32 [T, N], weight float32 [N]; out float32 [T, N], or a Q8 (N a multiple of 32): float32
    results, then quantised.
    """
    T, N = x.shape
    assert x.is_contiguous() and weight.shape == (N,), (x.shape, x.stride(), weight.shape)
    if isinstance(out, Q8):
        blocks, at = next_power_of_2(N // 32), tuning.tile(rms_norm_q8, tile(N), "", (N,), T)
        launch(rms_norm_q8, (T,), x, weight, *out, N, float(eps), num_warps=at.num_warps, fuses=False, BB=blocks)
    else:
        width, at = next_power_of_2(N), tuning.tile(rms_norm_f32, tile(N), "", (N,), T)
        launch(rms_norm_f32, (T,), x, weight, out, N, float(eps), num_warps=at.num_warps, fuses=False, BN=width)
