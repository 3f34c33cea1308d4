"""Products whose programs share columns (gemm.py): what each of them has summed, and the end of such a product. Multiplies nothing.

Whoever reads a product may join its parts itself, and saves `add` its launch (chain.py).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.kernels.early import wait
from rocforge.kernels.finish import ends_of, finish, strides
from rocforge.kernels.launch import launch
from rocforge.kernels.sizes import cdiv

# Rows that one program of add_parts has.
ROWS = 1024


class Parts(NamedTuple):
    """The sums of the programs that share columns, float32 [n, T, N], and Halves.largest [T]: the product is their sum times that."""

    sums: torch.Tensor
    largest: torch.Tensor


@triton.jit
def joined(parts, largest, t, column, there, T, N, n_parts):
    """What these columns of row t have of the product [T, N] whose Parts these are, in the columns' shape."""
    acc = tl.zeros(column.shape, tl.float32)
    for i in range(n_parts):
        acc += tl.load(parts + (i * T + t) * N + column, mask=there, other=0)
    return acc * tl.load(largest + t)


@triton.jit(do_not_specialize=["T", "n_parts"])
def add_parts(
    parts, largest, bias, residual, out, T, N, n_parts, residual_stride, out_stride, BN: tl.constexpr, EARLY: tl.constexpr
):
    """Program (i, t): BN rows of token t."""
    wait(EARLY)
    rows, tokens = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) + tl.arange(0, 1)
    acc = joined(parts, largest, tl.program_id(1).to(tl.int64), rows[None, :], (rows < N)[None, :], T, N, n_parts)
    ends = ends_of(bias, residual, tokens, rows, True, T, N, residual_stride)
    finish(acc, ends, out, tokens, rows, T, N, out_stride)


def add(parts: Parts, bias, residual, out: torch.Tensor) -> None:
    """out = the product whose parts these are + bias + residual, as matmul.linear() has them."""
    n, T, N = parts.sums.shape
    launch(
        add_parts, (cdiv(N, ROWS), T), *parts, bias, residual, out, T, N, n, *strides(residual, out), fuses=False, BN=ROWS
    )  # fmt: skip
