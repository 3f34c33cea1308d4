"""RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight, as float32 or in 8 bits."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import tuning
from rocforge.kernels.early import settled, wait
from rocforge.kernels.launch import launch
from rocforge.kernels.quantize import store_q8

# Warps of the program that has a row, by the columns that it is at the most: few enough to join their
# sums quickly, enough to hold the row in registers.
WARPS = ((1024, 2), (2048, 4), (8192, 8), (1 << 30, 16))


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


def rms_norm(x: torch.Tensor, weight: torch.Tensor, out: "torch.Tensor | Q8", *, eps: float) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight for each row (Zhang and Sennrich, arXiv 1910.07467).

    x float32 [T, N], weight float32 [N]; out float32 [T, N], or a Q8 (N a multiple of 32): float32
    results, then quantised.
    """
    T, N = x.shape
    assert x.is_contiguous() and weight.shape == (N,), (x.shape, x.stride(), weight.shape)
    if isinstance(out, Q8):
        blocks, at = triton.next_power_of_2(N // 32), tuning.tile(rms_norm_q8, tile(N), "", (N,), T)
        launch(rms_norm_q8, (T,), x, weight, *out, N, float(eps), num_warps=at.num_warps, fuses=False, BB=blocks)
    else:
        width, at = triton.next_power_of_2(N), tuning.tile(rms_norm_f32, tile(N), "", (N,), T)
        launch(rms_norm_f32, (T,), x, weight, out, N, float(eps), num_warps=at.num_warps, fuses=False, BN=width)
