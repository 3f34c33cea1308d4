"""A token's products by gate and up, and what SwiGLU makes of them in 8 bits: one launch of two.

    out = q8(silu(x G^T) * (x U^T))              x and out in 8 bits, blocks of 32; G above U in one matrix

Programs go through their share of the rows as in gemv.py, which keeps memory busy best, by a few rows of gate and the same of
up. So a block of 32 values is several programs': whichever is the last to have written some of it rounds all of it.
"""

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Q8_BLOCK, Format
from rocforge.kernels import target, tuning
from rocforge.kernels.activation import silu
from rocforge.kernels.early import wait
from rocforge.kernels.gemv import GemvTile, add_units, parts_of, programs, read_activations, root_of, squares_of, zeros
from rocforge.kernels.gemv import tile as gemv_tile
from rocforge.kernels.launch import cleared, launch, scratch
from rocforge.kernels.layout import PLANES, TWOS, UNIT, Matrix
from rocforge.kernels.norm import Root
from rocforge.kernels.quantize import store_q8
from rocforge.kernels.sizes import cdiv


def tile(U: int, format: Format) -> GemvTile:
    """For rows of U units of a block format: as one token's product has it, but for rows that are no part of a block, and for registers:
    158 to 187 a lane (sm90, Triton 3.6; of two bits 128), so fewer programs run at once."""
    at = gemv_tile(U, 1, format)
    share = 4 if PLANES[format].quants is TWOS else 3
    return at._replace(BN=min(at.BN, Q8_BLOCK), programs=max(1, at.programs * share // 4))


@triton.jit
def gemv_swiglu(
    x, x_scales, x_sums, squares, quants, high, scales_, supers, made, arrived, values_out, scales_out, sums_out, F, K, n_pairs, eps,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    BN: tl.constexpr, U: tl.constexpr, BU: tl.constexpr, CHUNKS: tl.constexpr, BS: tl.constexpr, ISA: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Program p of P: the pairs p, p + P .. of BN rows of gate and the same of up, `n_pairs` in all; CHUNKS steps of BU units each.

    made float32 [F]: what is not rounded yet. arrived int32 [F / 32]: how many programs have made some of a block, 0 before and after.
    """
    P, pair = tl.num_programs(0), tl.program_id(0)
    lane, n = tl.arange(0, BU), tl.arange(0, BN)
    END: tl.constexpr = None if CHUNKS * BU == U else U
    words = read_values(quants, high, pair * BN, n, 0, END, U, BU, False)
    marks = read_scales(scales_, supers, pair * BN, n, 0, END, U, BU, False)
    wait(EARLY)
    root, kept = root_of(squares, K, eps, BS), None
    if CHUNKS == 1:  # the activations of a whole row stay in registers
        kept = read_activations(x, x_scales, x_sums, 0, lane[None, :], U, K, MINS or OFFSET > 0)
    for _ in range((n_pairs - pair + P - 1) // P):
        sums = ()
        for half in tl.static_range(2):
            accs = zeros(1, BN, BU)
            for chunk in range(CHUNKS):
                is_last = chunk == CHUNKS - 1
                its_pair = tl.where(is_last, pair + P, pair) if half == 1 else pair
                next_words, next_marks = words, marks
                if its_pair < n_pairs:  # a branch, as in gemv.gemv_blocks
                    of_up = not is_last if half == 1 else is_last
                    top, first = its_pair * BN + tl.where(of_up, F, 0), tl.where(is_last, 0, chunk + 1) * BU
                    next_words = read_values(quants, high, top, n, first, END, U, BU, False)
                    next_marks = read_scales(scales_, supers, top, n, first, END, U, BU, False)
                if pair < n_pairs:  # always; else NVIDIA's assembler computes before it loads
                    accs = add_units(
                        accs, words, marks, kept, x, x_scales, x_sums, (chunk * BU + lane)[None, :], 1, K, U,
                        dots, values, scales, OFFSET, SCALED, HALVES, MINS, SHORT, 1, ISA,
                    )  # fmt: skip
                words, marks = next_words, next_marks
            sums += (root * tl.sum(accs[0], 1),)
        tl.store(made + pair * BN + n, silu(sums[0]) * sums[1])
        block = pair * BN // 32
        tl.debug_barrier()  # all lanes have stored
        if tl.atomic_add(arrived + block, 1, sem="acq_rel") == 32 // BN - 1:
            whole = tl.load(made + block * 32 + tl.arange(0, 32), cache_modifier=".cg")  # others' too: past the first cache
            its = block + tl.arange(0, 1)
            store_q8(whole[None, :], values_out, scales_out, sums_out, its, its >= 0)
            tl.store(arrived + block, 0)
        pair += P


def fits(w: Matrix) -> bool:
    """Whether the rows of gate and of up are whole blocks."""
    return not w.format.is_float and w.rows % (2 * Q8_BLOCK) == 0


def linear_swiglu(x: Q8, w: Matrix, out: Q8, root: Root | None = None) -> None:
    """One token's matmul.linear() by gate and up, then activation.swiglu() of them to `out`; of a normed x that lacks its root too."""
    T, K = x.values.shape
    assert T == 1 and fits(w) and out.values.shape == (1, w.rows // 2), (x.values.shape, w.format, out.values.shape)
    U, F = cdiv(K, UNIT), w.rows // 2
    at = tuning.tile(gemv_swiglu, tile(U, w.format), w.format.name, (w.rows, K), T)
    n_pairs, (squares, eps) = F // at.BN, root or (None, 0.0)
    made, arrived = scratch("made", (F,), torch.float32, x.scales), cleared("arrived", (F // Q8_BLOCK,), torch.int32, x.scales)
    launch(
        gemv_swiglu, (programs(n_pairs, at.programs * target.current().units),), x.values.view(torch.int32), x.scales, x.sums, squares,
        *w.planes, made, arrived, *out, F, K, n_pairs, eps, num_warps=at.num_warps, **parts_of(w.format), BN=at.BN, U=U, BU=at.BU,
        CHUNKS=cdiv(U, at.BU), BS=squares_of(K, root), ISA=target.current().isa,
    )  # fmt: skip
