"""Rows picked out of a matrix."""

import torch
import triton
import triton.language as tl

from rocforge.kernels.early import wait
from rocforge.kernels.launch import launch
from rocforge.kernels.sizes import cdiv

# Columns that one program copies, and its warps.
COLUMNS, WARPS = 1024, 4


@triton.jit
def gather_rows(x, rows, out, N, BN: tl.constexpr, EARLY: tl.constexpr):
    """Program (r, i): columns i * BN .. of row rows[r]."""
    wait(EARLY)
    r, n = tl.program_id(0).to(tl.int64), tl.program_id(1) * BN + tl.arange(0, BN)
    row = tl.load(rows + r).to(tl.int64)
    tl.store(out + r * N + n, tl.load(x + row * N + n, mask=n < N, other=0), mask=n < N)


def gather(x: torch.Tensor, rows: torch.Tensor, out: torch.Tensor) -> None:
    """out[r] = x[rows[r]]; x float32 [T, N], rows int32 [R], out float32 [R, N]."""
    assert x.is_contiguous() and rows.dtype == torch.int32, (x.stride(), rows.dtype)
    R, N = out.shape
    launch(gather_rows, (R, cdiv(N, COLUMNS)), x, rows, out, N, num_warps=WARPS, BN=COLUMNS)
