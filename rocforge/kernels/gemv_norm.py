"""A token's product, what is added to it, and the norm of their sum in 8 bits, but for the norm's root. One launch of three.

    out = x W^T + bias + residual
    normed = q8(out * weight)                    x and normed in 8 bits, blocks of 32
    squares[b] = sum of out^2 over block b       of which the readers of `normed` make its root (norm.Root)

A program has the rows of a block, so it needs nothing of what others compute: the root alone does, and a factor of all
of x can be left to the end of the next product.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Q8_BLOCK, Format
from rocforge.kernels import target, tuning
from rocforge.kernels.early import settled, wait
from rocforge.kernels.finish import ends_of
from rocforge.kernels.gemv import has_more_bits, parts_of, root_of, row_sums, squares_of
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.layout import UNIT, Matrix
from rocforge.kernels.norm import Root
from rocforge.kernels.quantize import store_q8
from rocforge.kernels.sizes import next_power_of_2


class GemvNormTile(NamedTuple):
    """BU units a step of a program, which has the rows of one block."""

    BU: int
    num_warps: int


# Units that a lane has of a step that is a whole row, and of one of several, of which the next is on its way; what a
# program of that many warps has room for.
ROW_UNITS, STEP_UNITS, MOST_WARPS = 8, 4, 16


def tile(U: int, format: Format) -> GemvNormTile:
    """For rows of U units of a block format. An H100 did best with whole rows where they fit (2048 x 8192: 4.1 us, 7.4 in two steps)."""
    at = target.current()
    if at.backend == "interpreter":
        return GemvNormTile(4, 1)
    BU = next_power_of_2(U)
    if Q8_BLOCK * BU <= ROW_UNITS * at.lanes * MOST_WARPS:
        return GemvNormTile(BU, max(1, Q8_BLOCK * BU // (ROW_UNITS * at.lanes)))
    units = STEP_UNITS // 2 if has_more_bits(format) else STEP_UNITS
    return GemvNormTile(units * at.lanes * MOST_WARPS // Q8_BLOCK, MOST_WARPS)


@triton.jit
def gemv_norm(
    x, x_scales, x_sums, squares, quants, high, scales_, supers, bias, residual, weight, out, values_out, scales_out, sums_out,
    squares_out, N, K, eps,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    BN: tl.constexpr, U: tl.constexpr, BU: tl.constexpr, BS: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program b: block b of BN = 32 rows."""
    block = tl.program_id(0) + tl.arange(0, 1)
    top, n = tl.program_id(0) * BN, tl.arange(0, BN)
    rows = top + n
    END: tl.constexpr = None if U % BU == 0 else U
    words = read_values(quants, high, top, n, 0, END, U, BU, False)
    marks = read_scales(scales_, supers, top, n, 0, END, U, BU, False)
    w = settled(weight + rows, None, EARLY)
    wait(EARLY)
    b, r = ends_of(bias, residual, tl.arange(0, 1), rows, True, 1, N, N)
    root = root_of(squares, K, eps, BS)
    y = row_sums(
        words, marks, top, n, x, x_scales, x_sums, quants, high, scales_, supers, K, read_values, dots, values, read_scales, scales,
        OFFSET, SCALED, HALVES, MINS, SHORT, U, BU, ISA,
    )  # fmt: skip
    y = root * y[None, :] + b + r
    tl.store(out + rows[None, :], y)
    tl.store(squares_out + block, tl.sum(y * y, 1))
    store_q8(y * w[None, :], values_out, scales_out, sums_out, block, block >= 0)


def fits(w: Matrix) -> bool:
    """Whether the rows of a matrix are whole blocks."""
    return not w.format.is_float and w.rows % Q8_BLOCK == 0


def linear_norm(
    x: Q8, w: Matrix, bias, residual, out: torch.Tensor, weight: torch.Tensor, normed: Q8, eps: float, root: Root | None = None
) -> Root:
    """One token's matmul.linear(), then norm.rms_norm() of `out` to `normed` but for the root that it gives, of this `eps`."""
    T, K = x.values.shape
    assert T == 1 and fits(w) and normed.values.shape == out.shape == (1, w.rows), (x.values.shape, w.format, out.shape)
    U, N = -(-K // UNIT), w.rows
    at = tuning.tile(gemv_norm, tile(U, w.format), w.format.name, (N, K), T)
    squares, factor = root or (None, 0.0)
    # A root that is read and one that is made are not the same memory.
    made = scratch("squares" if root is None else "squares_2", (N // Q8_BLOCK,), torch.float32, out)
    assert squares is None or squares.data_ptr() != made.data_ptr() or squares.device.type == "meta"
    launch(
        gemv_norm, (N // Q8_BLOCK,), x.values.view(torch.int32), x.scales, x.sums, squares, *w.planes, bias, residual, weight,
        out, *normed, made, N, K, factor, num_warps=at.num_warps, **parts_of(w.format), BN=Q8_BLOCK, U=U, BU=at.BU,
        BS=squares_of(K, root), ISA=target.current().isa,
    )  # fmt: skip
    return Root(made, eps)
