"""A token's queries, keys and values, and what rope_store does to them: one launch of two.

A program has whole pairs of values that RoPE turns by one angle, so it needs nothing of what others compute: rows of a head
are taken in pairs, whichever of the two layouts they lie in. Norms of heads and caches in 8 bits need more of a head than that.
"""

import itertools
import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Format
from rocforge.kernels import target, tuning
from rocforge.kernels.early import settled, wait
from rocforge.kernels.gemv import has_more_bits, parts_of, root_of, row_sums, squares_of
from rocforge.kernels.launch import launch
from rocforge.kernels.layout import UNIT, Matrix
from rocforge.kernels.norm import Root
from rocforge.kernels.rope import LAYOUTS
from rocforge.kernels.sizes import next_power_of_2


class GemvRopeTile(NamedTuple):
    """BN rows by BU units a step of a program."""

    BN: int
    BU: int
    num_warps: int


# Rows of a program at the most, and units of a step; units that a lane has of it. Of matrices of FEW_ROWS rows and less,
# fewer rows on as many warps: else there would be less than a program for each compute unit.
MOST_ROWS, STEP, LANE_UNITS = 16, 32, 4
FEW_ROWS, FEW, FEW_STEP, FEW_UNITS = 2048, 8, 64, 2


def tile(U: int, D: int, N: int, format: Format) -> GemvRopeTile:
    """For N rows of U units, D of them a head. What an H100 did best with 1,024 to 6,144 rows of 2,048 and 4,096 columns."""
    at = target.current()
    most, step, units = (FEW, FEW_STEP, FEW_UNITS) if N <= FEW_ROWS else (MOST_ROWS, STEP, LANE_UNITS)
    BN = math.gcd(D, most)
    if at.backend == "interpreter":
        return GemvRopeTile(BN, 4, 1)
    BU, units = min(step, next_power_of_2(U)), units // (1 + has_more_bits(format))
    return GemvRopeTile(BN, BU, max(1, BN * BU // (units * at.lanes)))


@triton.jit
def turn_rows(
    block, x, x_scales, x_sums, squares, quants, high, scales_, supers, bias, qkv, table, positions, sequences, page_table,
    k_cache, v_cache, first_row, K, P, H, G, eps,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    APART: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BN: tl.constexpr, U: tl.constexpr, BU: tl.constexpr,
    BS: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Rows block * BN .. of a matrix whose first is row first_row of qkv: of one head, as D divides by BN, two by two a pair."""
    n, first = tl.arange(0, BN), block * BN
    pair = first % D // 2 + tl.arange(0, BN // 2)  # in its head
    if APART:
        top, n = first // D * D + first % D // 2, n // 2 + n % 2 * (D // 2)
    else:
        top = first
    END: tl.constexpr = None if U % BU == 0 else U
    words = read_values(quants, high, top, n, 0, END, U, BU, False)
    marks = read_scales(scales_, supers, top, n, 0, END, U, BU, False)
    head = (first_row + first) // D
    cos, sin = settled(table + pair, None, EARLY), settled(table + D // 2 + pair, None, EARLY)
    position = settled(positions, None, EARLY)
    page = settled(page_table + settled(sequences, None, EARLY) * P + tl.maximum(position, 0) // PAGE, None, EARLY)
    wait(EARLY)
    root = root_of(squares, K, eps, BS)
    y = root * row_sums(
        words, marks, top, n, x, x_scales, x_sums, quants, high, scales_, supers, K, read_values, dots, values, read_scales, scales,
        OFFSET, SCALED, HALVES, MINS, SHORT, U, BU, ISA,
    )  # fmt: skip
    if bias is not None:
        y += tl.load(bias + first_row + top + n)
    a, b = tl.split(tl.reshape(y, (BN // 2, 2)))
    if head < H + G:
        a, b = a * cos - b * sin, b * cos + a * sin
    at = first % D + 2 * tl.arange(0, BN // 2)  # in the head, of the pair's first
    step = 1
    if APART:
        at, step = pair, D // 2
    if head < H:
        to = qkv + head * D + at
        tl.store(to, a)
        tl.store(to + step, b)
    elif position >= 0:
        kind: tl.constexpr = k_cache.dtype.element_ty
        row = ((page.to(tl.int64) * G + (head - H) % G) * PAGE + position % PAGE) * D
        if head < H + G:
            tl.store(k_cache + row + at, a.to(kind))
            tl.store(k_cache + row + at + step, b.to(kind))
        else:
            tl.store(v_cache + row + at, a.to(kind))
            tl.store(v_cache + row + at + step, b.to(kind))


@triton.jit(do_not_specialize=["P"])
def gemv_rope(
    x, x_scales, x_sums, squares, quants, high, scales_, supers, quants_2, high_2, scales_2_, supers_2, bias, qkv, table,
    positions, sequences, page_table, k_cache, v_cache, first_row, row_2, blocks, K, P, H, G, eps,
    read_values: tl.constexpr, dots: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SHORT: tl.constexpr,
    read_values_2: tl.constexpr, dots_2: tl.constexpr, values_2: tl.constexpr, read_scales_2: tl.constexpr, scales_2: tl.constexpr,
    OFFSET_2: tl.constexpr, SCALED_2: tl.constexpr, HALVES_2: tl.constexpr, MINS_2: tl.constexpr, SHORT_2: tl.constexpr,
    APART: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BN: tl.constexpr, BN_2: tl.constexpr, U: tl.constexpr, BU: tl.constexpr,
    BS: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Programs 0 .. blocks - 1 have BN rows each of the first matrix, those behind them BN_2 of the second, if there is one.
    APART: a pair is D / 2 rows apart, else two rows next to each other."""
    program = tl.program_id(0)
    if quants_2 is None or program < blocks:
        turn_rows(
            program, x, x_scales, x_sums, squares, quants, high, scales_, supers, bias, qkv, table, positions, sequences, page_table,
            k_cache, v_cache, first_row, K, P, H, G, eps, read_values, dots, values, read_scales, scales, OFFSET, SCALED, HALVES,
            MINS, SHORT, APART, D, PAGE, BN, U, BU, BS, ISA, EARLY,
        )  # fmt: skip
    else:
        turn_rows(
            program - blocks, x, x_scales, x_sums, squares, quants_2, high_2, scales_2_, supers_2, bias, qkv, table, positions,
            sequences, page_table, k_cache, v_cache, row_2, K, P, H, G, eps, read_values_2, dots_2, values_2, read_scales_2, scales_2,
            OFFSET_2, SCALED_2, HALVES_2, MINS_2, SHORT_2, APART, D, PAGE, BN_2, U, BU, BS, ISA, EARLY,
        )  # fmt: skip


def fits(weights: tuple[Matrix, ...], table, k_cache, q_norm, head_dim: int) -> bool:
    """Whether pairs are all that is needed, and each matrix holds whole heads."""
    is_plain = q_norm is None and isinstance(k_cache, torch.Tensor) and table.shape[1] == head_dim and head_dim % 4 == 0
    return is_plain and all(not w.format.is_float and w.rows % head_dim == 0 for w in weights)


def linear_rope(x: Q8, weights: tuple[Matrix, ...], bias, root: Root | None, *, qkv, table, positions, sequences, page_table,
    q_norm, k_norm, k_cache, v_cache, heads: int, kv_heads: int, head_dim: int, layout: str, eps: float,
) -> None:  # fmt: skip
    """One token's matmul.linear() to qkv, then rope.rope_store(); in qkv are the queries alone."""
    T, K = x.values.shape
    assert T == 1 and fits(weights, table, k_cache, q_norm, head_dim), (T, head_dim)
    U, row = -(-K // UNIT), 0
    squares, root_eps = root or (None, 0.0)
    for w, second in itertools.zip_longest(weights[::2], weights[1::2]):  # two formats at a time
        at = tuning.tile(gemv_rope, tile(U, head_dim, w.rows, w.format), w.format.name, (w.rows, K), T)
        at = at._replace(BN=math.gcd(at.BN, head_dim))  # tuned for another model's heads, perhaps
        programs, parts, planes, BN_2 = w.rows // at.BN, parts_of(w.format), (None,) * 4, 0
        if second:
            # No more registers than the first needs, of which a program takes as many as the one that needs the most.
            BN_2 = at.BN // (2 if has_more_bits(second.format) > has_more_bits(w.format) and at.BN > 2 else 1)
            programs, planes = programs + second.rows // BN_2, second.planes
        parts_2 = {f"{name}_2": part for name, part in (parts_of(second.format) if second else dict.fromkeys(parts)).items()}
        launch(
            gemv_rope, (programs,), x.values.view(torch.int32), x.scales, x.sums, squares, *w.planes, *planes, bias, qkv, table,
            positions, sequences, page_table, k_cache, v_cache, row, row + w.rows, w.rows // at.BN, K, page_table.shape[1], heads,
            kv_heads, root_eps, num_warps=at.num_warps, **parts, **parts_2, APART=LAYOUTS.index(layout) == 1, D=head_dim,
            PAGE=k_cache.shape[2], BN=at.BN, BN_2=BN_2, U=U, BU=at.BU, BS=squares_of(K, root), ISA=target.current().isa,
        )  # fmt: skip
        row += w.rows + (second.rows if second else 0)
