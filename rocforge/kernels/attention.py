"""Attention over a paged KV cache, with online softmax. A score is never stored.

Many tokens are tiled: a program's rows are BT consecutive tokens times the heads of one kv-head, which
share the keys that it reads. Few tokens go to attention_decode.py, which splits the keys instead.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8Cache
from rocforge.kernels import halves, target, tuning
from rocforge.kernels.attention_block import (
    NEVER,
    Tiles,
    cache_format,
    float_out,
    is_seen,
    load_pages,
    load_rows,
    queries_of,
    rows_of,
    tile_of,
)
from rocforge.kernels.attention_decode import DECODE, Splits, Turn, decode, join, join_to_halves
from rocforge.kernels.attention_lanes import attend
from rocforge.kernels.columns import Order
from rocforge.kernels.early import wait
from rocforge.kernels.halves import Halves
from rocforge.kernels.launch import launch
from rocforge.kernels.rope import LAYOUTS, rope_store
from rocforge.kernels.sizes import cdiv, next_power_of_2

PAGE = 32


class PrefillTile(NamedTuple):
    """ROWS queries (tokens times heads of one kv-head) a program, BN keys a step.

    `peels`: blocks that need no mask have a loop of their own. AMD's compiler then leaves the weights in
    registers between the two products; without, it shares out a product's columns too, and needs fewer of them.
    """

    ROWS: int
    BN: int
    num_warps: int
    num_stages: int
    peels: bool = True


PREFILL: Tiles[PrefillTile] = {
    "nvidia": {
        2: {128: PrefillTile(64, 64, 4, 3), 256: PrefillTile(64, 32, 8, 3)},
        1: {128: PrefillTile(128, 64, 8, 3), 256: PrefillTile(64, 32, 8, 3)},
    },
    "cdna": {
        2: {64: PrefillTile(128, 64, 4, 1), 128: PrefillTile(128, 32, 4, 1), 256: PrefillTile(64, 32, 4, 1)},
        1: {64: PrefillTile(128, 32, 4, 1), 128: PrefillTile(64, 32, 2, 1), 256: PrefillTile(64, 32, 4, 1)},
    },
    # gfx11 holds each operand of its matrix instructions twice: tiles are small, or the registers do not do.
    "rdna": {
        2: {64: PrefillTile(128, 32, 8, 1), 128: PrefillTile(32, 32, 4, 1), 256: PrefillTile(16, 16, 16, 1)},
        1: {64: PrefillTile(128, 32, 8, 1), 128: PrefillTile(64, 16, 8, 1), 256: PrefillTile(16, 16, 16, 1)},
    },
    "gfx12": {
        2: {64: PrefillTile(128, 64, 8, 1), 128: PrefillTile(128, 32, 8, 1), 256: PrefillTile(32, 32, 8, 1)},
        1: {64: PrefillTile(128, 64, 8, 1), 128: PrefillTile(64, 32, 4, 1), 256: PrefillTile(32, 32, 8, 1)},
    },
    "interpreter": {2: {256: PrefillTile(32, 32, 1, 1)}, 1: {256: PrefillTile(32, 64, 1, 1)}},
}


@triton.jit
def hide(scores, k0, position, WINDOW: tl.constexpr, BN: tl.constexpr):
    """Scores [ROWS, BN] of keys from k0 on, below any other where the query does not see the key."""
    seen = is_seen((k0 + tl.arange(0, BN))[None, :], position[:, None], WINDOW)
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def fold_in(scores, factor, v, m, l, acc):
    """(m, l, acc) with the scores of a block's keys folded in, [ROWS, BN], and their values v [BN, BD]."""
    largest = tl.maximum(m, tl.max(scores, 1) * factor)
    weights = tl.exp2(scores * factor[:, None] - largest[:, None])
    shrink = tl.exp2(m - largest)
    l = l * shrink + tl.sum(weights, 1)
    return largest, l, tl.dot(weights.to(tl.float16), v, acc * shrink[:, None])


@triton.jit(do_not_specialize=["T", "P"])
def attend_tile(
    qkv, positions, sequences, page_table, k_values, k_scales, v_values, v_scales, out, T, P, G, qkv_stride, scale,
    WINDOW: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, PAGE: tl.constexpr,
    ROWS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, PEELS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (g, i): the heads of kv-head g, for the i-th last tile of BT tokens; one run of a sequence after the other.

    Late tiles see the most keys, so they come first: short ones fill up the end. Rows of other runs
    are computed along, and not stored.
    """
    wait(EARLY)
    g, start = tl.program_id(0), (tl.num_programs(1) - 1 - tl.program_id(1)) * BT
    end = tl.minimum(start + BT, T)
    r, d = tl.arange(0, ROWS), tl.arange(0, BD)
    t, head = start + r // GROUP, g * GROUP + r % GROUP
    is_token = t < end
    position = tl.load(positions + t, mask=is_token, other=-1)
    sequence = tl.where(position >= 0, tl.load(sequences + t, mask=is_token, other=-1), -1)  # -1 of padding
    q = qkv + start.to(tl.int64) * qkv_stride + ((t - start)[:, None] * qkv_stride + head[:, None] * D + d[None, :])
    q, factor = queries_of(tl.load(q, mask=is_token[:, None] & (d < D)[None, :], other=0), scale, tl.float16)

    at = start
    while at < end:
        first = tl.load(positions + at)
        number = tl.where(first >= 0, tl.load(sequences + at), -1)
        next = tl.min(tl.where(is_token & (t > at) & (sequence != number), t, end), 0)
        in_run = is_token & (t >= at) & (t < next)
        last = tl.max(tl.where(in_run, position, -1), 0)
        table = page_table + tl.maximum(number, 0).to(tl.int64) * P
        m = tl.full((ROWS,), NEVER, tl.float32)
        l = tl.zeros((ROWS,), tl.float32)
        acc = tl.zeros((ROWS, BD), tl.float32)
        # Blocks that every query of the run sees whole need no mask. PEELS: they have a loop of their own.
        begin = 0
        if WINDOW > 0:
            begin = tl.maximum(first - WINDOW + 1, 0) // BN * BN
        if PEELS and WINDOW == 0:
            whole = (first + 1) // BN * BN
            pages = load_pages(table, 0, last, BN, PAGE)
            for k0 in range(0, whole, BN):
                rows = rows_of(pages, g, G, k0, last, BN, PAGE)
                k = load_rows(k_values, k_scales, rows, D, BD, 0, tl.float16)
                v = load_rows(v_values, v_scales, rows, D, BD, 1, tl.float16)
                pages = load_pages(table, k0 + BN, last, BN, PAGE)
                m, l, acc = fold_in(tl.dot(q, k), factor, v, m, l, acc)
            begin = whole
        pages = load_pages(table, begin, last, BN, PAGE)
        for k0 in range(begin, last + 1, BN):
            rows = rows_of(pages, g, G, k0, last, BN, PAGE)
            k = load_rows(k_values, k_scales, rows, D, BD, 0, tl.float16)
            v = load_rows(v_values, v_scales, rows, D, BD, 1, tl.float16)
            pages = load_pages(table, k0 + BN, last, BN, PAGE)
            scores = tl.dot(q, k)
            if PEELS:
                scores = hide(scores, k0, position, WINDOW, BN)
            elif k0 + BN > first + 1 or (WINDOW > 0 and k0 <= last - WINDOW):
                scores = hide(scores, k0, position, WINDOW, BN)
            m, l, acc = fold_in(scores, factor, v, m, l, acc)
        acc /= tl.where(l == 0, 1, l)[:, None]
        # From the run's first row on: what does not change from run to run would be kept in registers.
        to = out + at.to(tl.int64) * (G * GROUP * D) + ((t - at)[:, None] * (G * GROUP * D) + head[:, None] * D + d[None, :])
        tl.store(to, acc, mask=in_run[:, None] & (d < D)[None, :])
        at = next


def prefill(inputs: tuple, out: "torch.Tensor | Q8", sizes: tuple, shape: dict[str, Any]) -> None:
    """attention() of many tokens on the matrix units: caches in halves or Q8."""
    T, (_, G, *_), GROUP = len(inputs[0]), sizes, shape["GROUP"]
    tile = tile_of(PREFILL, inputs[4].itemsize, shape["BD"])
    tile = tuning.tile(attend_tile, tile, cache_format(inputs[4]), (shape["D"], GROUP, G), T)
    rows = max(tile.ROWS, next_power_of_2(GROUP))
    tokens = rows // GROUP
    with float_out(out, inputs[0]) as floats:
        launch(
            attend_tile, (G, cdiv(T, tokens)), *inputs, floats, T, *sizes, **shape, ROWS=rows, BT=tokens, BN=tile.BN,
            PEELS=tile.peels, num_warps=tile.num_warps, num_stages=tile.num_stages,
        )  # fmt: skip


def _arranged(
    qkv, positions, sequences, page_table, k_cache, v_cache, out, heads: int, kv_heads: int, head_dim: int, scale: float, window: int
) -> tuple[tuple, tuple, dict[str, Any]]:
    """attention()'s arguments as kernels take them: (inputs, sizes, shape)."""
    T, P = len(qkv), page_table.shape[1]
    k, v = (c if isinstance(c, Q8Cache) else Q8Cache(c, None) for c in (k_cache, v_cache))
    shape = (k.values.shape[0], kv_heads, PAGE, head_dim)
    assert k.values.shape == v.values.shape == shape, (k.values.shape, v.values.shape, shape)
    assert k.values.dtype == v.values.dtype, (k.values.dtype, v.values.dtype)
    if k.scales is not None:
        blocks = (*shape[:3], head_dim // Q8_BLOCK)
        assert head_dim % Q8_BLOCK == 0 and k.scales.shape == v.scales.shape == blocks, (k.scales.shape, v.scales.shape)
    outs = out if isinstance(out, Q8) else (out,)
    assert all(part is None or part.is_contiguous() for part in (*k, *v, *outs, page_table))
    assert qkv.shape[1] >= heads * head_dim and qkv.stride(1) == 1, (qkv.shape, qkv.stride())
    assert outs[0].shape == (T, heads * head_dim), (outs[0].shape, T)
    assert out.dtype == torch.float32 if len(outs) == 1 else head_dim % Q8_BLOCK == 0, (outs[0].dtype, head_dim)
    assert head_dim <= 256, head_dim
    assert heads % kv_heads == 0 and scale > 0 and window >= 0, (heads, kv_heads, scale, window)
    inputs = (qkv, positions, sequences, page_table, *k, *v)
    sizes = (P, kv_heads, qkv.stride(0), scale)
    shape = {
        "WINDOW": window, "GROUP": heads // kv_heads, "D": head_dim, "BD": max(16, next_power_of_2(head_dim)),
        "PAGE": PAGE,
    }  # fmt: skip
    return inputs, sizes, shape


def attention(
    qkv: torch.Tensor,
    positions: torch.Tensor,
    sequences: torch.Tensor,
    page_table: torch.Tensor,
    k_cache: "torch.Tensor | Q8Cache",
    v_cache: "torch.Tensor | Q8Cache",
    out: "torch.Tensor | Q8",
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    window: int,
) -> None:
    """out[t, h] = softmax(scale * q[t, h] K^T) V over the positions p - window + 1 .. p of t's sequence.

    p = positions[t]; window 0 begins at 0. Head h reads kv-head h // (H/G). q is the first H*D
    columns of qkv; k_cache, v_cache [pages, G, PAGE, D] in float32 or float16, or a Q8Cache; out float32
    [T, H*D], or a Q8 (D a multiple of 32): float32 results, then quantised. A sequence's tokens follow each
    other. With half or Q8 caches, products are of float16, their sums float32. A token with p < 0 is padding: its
    row of out is zeros, whatever its q.
    """
    inputs, sizes, shape = _arranged(
        qkv, positions, sequences, page_table, k_cache, v_cache, out, heads, kv_heads, head_dim, scale, window
    )
    join(_attend(inputs, out, sizes, shape), out)


def to_halves(order: Order, *, out: "torch.Tensor | Q8", **given) -> Halves | None:
    """attention() of these keywords in 8 bits, as the matrix units take them: what halves.of_q8 makes of it. None where out is written,
    as by attention()."""
    inputs, sizes, shape = _arranged(**given, out=out)
    parts = _attend(inputs, out, sizes, shape)
    if parts is not None and halves.fits(sizes[1] * shape["GROUP"] * shape["D"]):
        return join_to_halves(parts, order)
    join(parts, out)
    return None


def _attend(inputs: tuple, out: "torch.Tensor | Q8", sizes: tuple, shape: dict[str, Any]) -> Splits | None:
    """attention() up to where parts are joined, if there are any."""
    T, S = len(inputs[0]), len(inputs[3])
    has_tiles = _has_tiles(inputs, shape)
    # A step of decode may be padded to a power of two.
    if has_tiles and T > next_power_of_2(S):
        prefill(inputs, out, sizes, shape)
        return None
    if has_tiles and tile_of(DECODE, inputs[4].itemsize, shape["BD"]):
        return decode(inputs, out, sizes, shape)
    return attend(inputs, out, sizes, shape)


def _has_tiles(inputs: tuple, shape: dict[str, Any]) -> bool:
    """Whether the matrix units can do it. Rows that are no multiple of 16 bytes load element by element: matrix units would
    wait for them, and a mask for each element would take more scalar registers than there are."""
    at = target.current()
    return inputs[4].dtype != torch.float32 and not (at.backend == "hip" and not at.matrix) and shape["D"] % 8 == 0


def rope_attention(*, table, q_norm, k_norm, layout: str, eps: float, out, scale: float, window: int, **both) -> None:
    """rope_store(), then attention(), of their keywords: for one token by one kernel, which may leave q and k in qkv as they are.

    Not where a launch begins early: there a launch more costs no more than what the one kernel has to do first.
    """
    inputs, sizes, shape = _arranged(**both, out=out, scale=scale, window=window)
    is_one = len(inputs[0]) == 1 and not target.current().begins_early
    if is_one and _has_tiles(inputs, shape) and tile_of(DECODE, inputs[4].itemsize, shape["BD"]):
        columns = (both["heads"] + 2 * both["kv_heads"]) * both["head_dim"]
        assert inputs[0].shape[1] == columns, (inputs[0].shape, columns)
        assert (q_norm is None) == (k_norm is None), "a norm for q and none for k, or the other way round"
        join(decode(inputs, out, sizes, shape, Turn(table, q_norm, k_norm, float(eps), LAYOUTS.index(layout) == 1)), out)
    else:
        rope_store(**both, table=table, q_norm=q_norm, k_norm=k_norm, layout=layout, eps=eps)
        attention(**both, out=out, scale=scale, window=window)
