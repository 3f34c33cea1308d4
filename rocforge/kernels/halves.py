"""Activations in float16, as the matrix units take them: each row divided by its largest scale or value. Multiplies nothing.

    x[t, k] = largest[t] * halves[t, k]

Rows are filled up to whole units with zeros. PAIRED: of each 16 columns, those of word i (columns 4 i .. 4 i + 3) lie at
2 i, 2 i + 1, 2 i + 8 and 2 i + 9. NVIDIA's matrix instructions want these of one lane (PTX ISA, wgmma: fragments of A), and the
weights' lanes have words; the sum over columns does not mind their order. AMD's want four next to each other.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import target
from rocforge.kernels.early import wait
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.layout import UNIT

# Blocks of 32 that a program has, and columns of floats that it has at a time.
BLOCKS, COLUMNS = 64, 1024


class Halves(NamedTuple):
    """float16 [T, columns] and float32 [T]; the formula at the top of the file."""

    values: torch.Tensor
    largest: torch.Tensor


def is_paired() -> bool:
    return target.current().isa == "ptx"


def of_q8(x: Q8) -> Halves:
    """[T, units of 64 columns], PAIRED if the target is."""
    T, K = x.values.shape
    made = _scratch(T, -(-K // UNIT) * UNIT, x.scales)
    columns = made.values.shape[1]
    launch(
        halves_of_q8, (T, triton.cdiv(columns, 32 * BLOCKS)), x.values, x.scales, *made, K, columns,
        BS=triton.next_power_of_2(K // 32), BLOCKS=BLOCKS, PAIRED=is_paired(),
    )  # fmt: skip
    return made


def of_floats(x: torch.Tensor) -> Halves:
    """[T, K], columns in their order."""
    made = _scratch(*x.shape, x)
    launch(halves_of_floats, (len(x),), x, *made, x.shape[1], x.stride(0), BK=COLUMNS)
    return made


def n_bytes(tokens: int, columns: int) -> int:
    """Device memory that they take."""
    return 2 * tokens * -(-columns // UNIT) * UNIT + 4 * tokens


def _scratch(T: int, columns: int, like: torch.Tensor) -> Halves:
    return Halves(scratch("halves", (T, columns), torch.float16, like), scratch("largest", (T,), torch.float32, like))


@triton.jit
def halves_of_q8(
    x, x_scales, out, largest, K, out_stride, BS: tl.constexpr, BLOCKS: tl.constexpr, PAIRED: tl.constexpr, EARLY: tl.constexpr
):
    """Program (t, i): BLOCKS blocks of row t of x, the largest of whose scales each program finds by itself; BS holds all."""
    wait(EARLY)
    t, n = tl.program_id(0), tl.arange(0, BS)
    scales = x_scales + t * (K // 32)
    factor = tl.max(tl.load(scales + n, mask=n < K // 32, other=0), 0)
    factor = tl.where(factor > 0, factor, 1.0)
    tl.store(largest + t, factor)
    # Of a block two groups, of a group four words, of a word two pairs.
    block, column = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS), tl.arange(0, 32)[None, :]
    there = block < K // 32
    scale = tl.load(scales + block, mask=there, other=0) * (1 / factor)
    at = t.to(tl.int64) * K + block[:, None] * 32 + column
    y = (tl.load(x + at, mask=there[:, None], other=0).to(tl.float32) * scale[:, None]).to(tl.float16)
    if PAIRED:
        y = tl.permute(tl.reshape(y, (2 * BLOCKS, 4, 2, 2)), (0, 2, 1, 3))
    to = t.to(tl.int64) * out_stride + block[:, None] * 32 + column
    tl.store(out + to, tl.reshape(y, (BLOCKS, 32)), mask=(block < out_stride // 32)[:, None])


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
