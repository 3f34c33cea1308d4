"""out = x W^T + bias + residual, from planes of quantised weights. Chooses the way; multiplies nothing itself.

A few tokens (gemv.most_tokens) are multiplied lane by lane (gemv.py), more on the matrix units (gemm.py). The files say
what each computes, in which order.
"""

import torch

from rocforge.gguf.formats import Q8
from rocforge.kernels import gemm, gemv, halves
from rocforge.kernels.finish import apart
from rocforge.kernels.halves import Halves
from rocforge.kernels.layout import Matrix
from rocforge.kernels.norm import Root


def linear(
    x: "Q8 | torch.Tensor",
    weights: tuple[Matrix, ...],
    bias: "torch.Tensor | None",
    residual: "torch.Tensor | None",
    out: torch.Tensor,
) -> None:
    """out = x W^T + bias + residual, W being the rows of `weights` one below the other.

    The weights are all of block formats, and x is then a Q8 [T, K]; or all of float formats, and x
    is float32 [T, K]. bias float32 [N] or None; residual float32 [T, N] or None, which may be `out`
    itself; out float32 [T, N], N the rows of all weights together. Rows of x (if float32), residual
    and out need not lie one behind the other. The formulas are at the head of gemv.py and gemm.py.
    """
    is_float, N = weights[0].format.is_float, sum(w.rows for w in weights)
    T, K = (x if is_float else x.values).shape
    assert all(w.format.is_float == is_float and w.columns == K for w in weights), (K, weights)
    assert out.shape == (T, N) and out.dtype == torch.float32, (out.shape, out.dtype, T, N)
    assert bias is None or bias.shape == (N,), (bias.shape, N)
    assert residual is None or residual.shape == (T, N), (residual.shape, T, N)
    assert is_float or all(part.is_contiguous() for part in x)
    is_few = T <= gemv.most_tokens()
    if not is_few and not is_float:
        linear_of_halves(halves.of_q8(x, gemm.order(T)), weights, bias, residual, out)
        return
    products = (gemv.floats if is_few else gemm.floats) if is_float else gemv.blocks
    for w, *ends in apart(weights, bias, residual, out):
        products(x, w, *ends)


def linear_of_halves(x: Halves, weights, bias, residual, out: torch.Tensor) -> None:
    """linear() of more than a few tokens, whose activations are made already in gemm.order."""
    gemm.blocks(x, weights, bias, residual, out)


def linear_of_root(x: Q8, weights, bias, residual, out: torch.Tensor, root: Root) -> None:
    """linear() of one token whose norm has left its root: out = root * (x W^T) + bias + residual."""
    assert len(x.values) == 1, x.values.shape
    for w, *ends in apart(weights, bias, residual, out):
        gemv.blocks(x, w, *ends, root)

