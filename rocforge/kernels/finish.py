"""The end of every matrix product: bias and residual added, the result stored. Multiplies nothing."""

from collections.abc import Iterator
from typing import Any

import torch
import triton
import triton.language as tl

from rocforge.kernels.layout import Matrix


@triton.jit
def ends_of(bias, residual, tokens, rows, is_last, T, N, residual_stride):
    """What is added to the products of these tokens and rows: the bias [1, BN] and the residual [BT, BN], 0 where there is
    none. They may be asked for before they are needed; nothing is loaded unless `is_last`."""
    some = tl.where(is_last, rows, N) < N
    b, r = 0.0, 0.0
    if bias is not None:
        b = tl.load(bias + rows, mask=some, other=0)[None, :]
    if residual is not None:
        at = residual + tokens[:, None].to(tl.int64) * residual_stride + rows[None, :]
        r = tl.load(at, mask=(tokens < T)[:, None] & some[None, :], other=0)
    return b, r


@triton.jit
def finish(acc, ends, out, tokens, rows, T, N, out_stride):
    """out[t, n] = acc + bias[n] + residual[t, n], acc being [BT, BN]; `ends` are of ends_of."""
    to = out + tokens[:, None].to(tl.int64) * out_stride + rows[None, :]
    tl.store(to, acc + ends[0] + ends[1], mask=(tokens < T)[:, None] & (rows < N)[None, :])


def strides(residual: Any, out: torch.Tensor) -> tuple[int, int]:
    """Elements from row to row of residual (0 where there is none) and out."""
    return (0 if residual is None else residual.stride(0)), out.stride(0)


def apart(weights: tuple[Matrix, ...], bias: Any, residual: Any, out: torch.Tensor) -> Iterator[tuple]:
    """Each of the matrices, one below the other, with what of bias, residual and out belongs to its rows."""
    start = 0
    for w in weights:
        rows = slice(start, start + w.rows)
        yield w, None if bias is None else bias[rows], None if residual is None else residual[:, rows], out[:, rows]
        start += w.rows
