"""Activations in float16, as the matrix units take them: each row divided by its largest scale or value. Multiplies nothing.

    x[t, k] = largest[t] * halves[t, k]

Columns lie in an order of the products' (columns.py). Rows are filled up with zeros to whole interleaved units.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels.columns import MOST_MIX, Order, in_order
from rocforge.kernels.early import wait
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.layout import UNIT
from rocforge.kernels.quantize import quantize_tile
from rocforge.kernels.sizes import cdiv, next_power_of_2

# Blocks of 32 that a program has, and columns of floats that it has at a time.
BLOCKS, COLUMNS = 64, 1024
# Warps of a program that has a row, and columns that it has registers for.
ROW_WARPS, MOST_COLUMNS = 16, 16384


class Halves(NamedTuple):
    """float16 [T, columns] and float32 [T]; the formula at the top of the file."""

    values: torch.Tensor
    largest: torch.Tensor


def of_q8(x: Q8, order: Order) -> Halves:
    """[T, interleaved units of 64 columns]."""
    T, K = x.values.shape
    made = empty(T, K, order, x.scales)
    columns = made.values.shape[1]
    launch(
        halves_of_q8, (T, cdiv(columns, 32 * BLOCKS)), x.values, x.scales, *made, K, columns,
        BS=next_power_of_2(K // 32), BLOCKS=BLOCKS, **order._asdict(),
    )  # fmt: skip
    return made


@triton.jit
def store_halves(y, out, largest, columns, MIX: tl.constexpr, PAIRED: tl.constexpr):
    """A token's row y float32 [blocks, 32], 0 where the row has ended, in 8 bits and from there to the `columns` halves at
    `out`, and what it is divided by to `largest`: what store_q8 and halves_of_q8 do of it."""
    BLOCKS: tl.constexpr = y.shape[0]
    q, scale = quantize_tile(y)
    factor = tl.max(scale, 0)
    factor = tl.where(factor > 0, factor, 1.0)
    tl.store(largest, factor)
    h = in_order((q * (scale * (1 / factor))[:, None]).to(tl.float16), MIX, PAIRED)
    block = tl.arange(0, BLOCKS)
    to = out + block[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(to, h, mask=(block < columns // 32)[:, None])


def fits(columns: int) -> bool:
    """Whether one program holds a row of so many in its registers."""
    return columns <= MOST_COLUMNS


def empty(T: int, K: int, order: Order, like: torch.Tensor) -> Halves:
    """For T rows of K columns in this order, to be written by the next launch: they hold until others are asked for."""
    return _scratch(T, padded(K, order), like)


def of_floats(x: torch.Tensor) -> Halves:
    """[T, K], columns in their order."""
    made = _scratch(*x.shape, x)
    launch(halves_of_floats, (len(x),), x, *made, x.shape[1], x.stride(0), BK=COLUMNS)
    return made


def padded(columns: int, order: Order) -> int:
    """Columns that a row takes."""
    return cdiv(columns, order.MIX * UNIT) * order.MIX * UNIT


def n_bytes(tokens: int, columns: int) -> int:
    """Device memory that they take at the most."""
    return 2 * tokens * padded(columns, Order(MOST_MIX, False)) + 4 * tokens


def _scratch(T: int, columns: int, like: torch.Tensor) -> Halves:
    return Halves(scratch("halves", (T, columns), torch.float16, like), scratch("largest", (T,), torch.float32, like))


@triton.jit
def halves_of_q8(
    x, x_scales, out, largest, K, out_stride,
    BS: tl.constexpr, BLOCKS: tl.constexpr, MIX: tl.constexpr, PAIRED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (t, i): BLOCKS blocks of row t of x, the largest of whose scales each program finds by itself; BS holds all."""
    wait(EARLY)
    t, n = tl.program_id(0), tl.arange(0, BS)
    scales = x_scales + t * (K // 32)
    factor = tl.max(tl.load(scales + n, mask=n < K // 32, other=0), 0)
    factor = tl.where(factor > 0, factor, 1.0)
    tl.store(largest + t, factor)
    block, column = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS), tl.arange(0, 32)[None, :]
    there = block < K // 32
    scale = tl.load(scales + block, mask=there, other=0) * (1 / factor)
    at = t.to(tl.int64) * K + block[:, None] * 32 + column
    y = (tl.load(x + at, mask=there[:, None], other=0).to(tl.float32) * scale[:, None]).to(tl.float16)
    to = t.to(tl.int64) * out_stride + block[:, None] * 32 + column
    tl.store(out + to, in_order(y, MIX, PAIRED), mask=(block < out_stride // 32)[:, None])


@triton.jit
def halves_of_floats(x, out, largest, K, x_stride, BK: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t of x."""
    wait(EARLY)
    t = tl.program_id(0).to(tl.int64)
    seen = tl.zeros((BK,), tl.float32)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        seen = tl.maximum(seen, tl.abs(tl.load(x + t * x_stride + k, mask=k < K, other=0)))
    factor = tl.max(seen, 0)
    factor = tl.where(factor > 0, factor, 1.0)
    tl.store(largest + t, factor)
    for first in range(0, K, BK):
        k = first + tl.arange(0, BK)
        value = tl.load(x + t * x_stride + k, mask=k < K, other=0) / factor
        tl.store(out + t * K + k, value.to(tl.float16), mask=k < K)
