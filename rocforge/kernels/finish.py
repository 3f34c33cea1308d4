"""The end of every matrix product: bias and residual added, the result stored. Multiplies nothing."""

from typing import Any

import torch
import triton
import triton.language as tl


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


def strides(residual: Any, out: torch.Tensor) -> tuple[int, int]:
    """Elements from row to row of residual (0 where there is none) and out."""
    return (0 if residual is None else residual.stride(0)), out.stride(0)
