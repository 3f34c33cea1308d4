"""Activations to 8 bits, in blocks of 32. The one place that rounds them."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Q8_BLOCK
from rocforge.kernels import tuning
from rocforge.kernels.early import wait
from rocforge.kernels.launch import launch
from rocforge.kernels.sizes import cdiv


class RowsTile(NamedTuple):
    """Blocks of 32 that one program quantises."""

    B: int
    num_warps: int


TILE = RowsTile(32, 4)

# A block that is smaller than this everywhere counts as zero: 127 / amax would leave float32.
TINY = tl.constexpr(2.0**-120)
# A float32 below 2^22 plus this has no room for a fraction: the sum rounds it, halves to even.
ROUND = tl.constexpr(12582912.0)


@triton.jit
def round_even(x):
    """x to the nearest integer, halves to even; |x| < 2^22."""
    return (x + ROUND) - ROUND


@triton.jit
def quantize_tile(x):
    """x float32 [.., 32] -> (values float32 [.., 32], whole numbers; scales float32 [..], amax / 127)."""
    last: tl.constexpr = len(x.shape) - 1
    largest = tl.max(tl.abs(x), last)
    largest = tl.where(largest < TINY, 0.0, largest)
    inverse = tl.where(largest > 0, tl.div_rn(127.0 + largest * 0, tl.where(largest > 0, largest, 1.0)), 0.0)
    return round_even(x * tl.expand_dims(inverse, last)), tl.div_rn(largest, 127.0 + largest * 0)


@triton.jit
def store_q8(x, values, scales, sums, block, there):
    """Blocks [B] of a row, x float32 [B, 32], to the row's Q8 parts, those that are `there`."""
    q, scale = quantize_tile(x)
    column = tl.arange(0, 32)
    tl.store(values + block[:, None] * 32 + column[None, :], q.to(tl.int8), mask=there[:, None])
    tl.store(scales + block, scale, mask=there)
    half_sums = tl.sum(tl.reshape(q, (block.shape[0], 2, 16)), 2)
    tl.store(sums + block[:, None] * 2 + tl.arange(0, 2)[None, :], half_sums.to(tl.int16), mask=there[:, None])


@triton.jit
def quantize_rows(x, values, scales, sums, K, x_stride, B: tl.constexpr, EARLY: tl.constexpr):
    """Program (t, i): blocks i * B .. of row t."""
    wait(EARLY)
    t, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * B
    block = first + tl.arange(0, B)
    at = x + t * x_stride + block[:, None] * 32 + tl.arange(0, 32)[None, :]
    row = tl.load(at, mask=(block < K // 32)[:, None], other=0)
    store_q8(row, values + t * K, scales + t * (K // 32), sums + t * (K // 16), block, block < K // 32)


def quantize(x: torch.Tensor, out: Q8) -> None:
    """out = x in 8 bits: per block of 32, scale = amax / 127, values = x * (127 / amax) rounded half to even.

    x float32 [T, K], finite, K a multiple of 32; a block whose amax is below 2^-120 has scale 0 and values 0.
    """
    assert out.values.shape == x.shape and x.dtype == torch.float32, (out.values.shape, x.shape, x.dtype)
    T, K = x.shape
    at = tuning.tile(quantize_rows, TILE, "", (K,), T)
    grid = T, cdiv(K // Q8_BLOCK, at.B)
    launch(quantize_rows, grid, x, *out, K, x.stride(0), num_warps=at.num_warps, fuses=False, B=at.B)
