"""Attention without matrix units: any cache, any head size, any number of tokens. Shares no keys among tokens.

A step's keys are the rows of a tile whose columns are a head's elements: a lane multiplies what it
has loaded. Each row is an online softmax of its own, over every BN-th key, so lanes exchange
nothing but the sums over a head's elements until the rows are joined at the end, as splits are.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import target, tuning
from rocforge.kernels.attention_block import LOG2_E, NEVER, cache_format, is_seen, load_pages, load_rows, rows_of, share_of
from rocforge.kernels.attention_decode import Splits, launch_splits, store_heads
from rocforge.kernels.early import wait
from rocforge.kernels.sizes import cdiv


class LanesTile(NamedTuple):
    """Elements of a key that a lane holds at a time (twice as many of bytes), heads a program at the most."""

    elements: int
    heads: int
    num_warps: int


LANES: dict[str, LanesTile] = {
    "nvidia": LanesTile(8, 4, 4),
    "cdna": LanesTile(8, 4, 4),
    "rdna": LanesTile(8, 4, 4),
    "interpreter": LanesTile(4096, 8, 1),
}


def lanes_tile() -> LanesTile:
    return LANES[target.current().family]


@triton.jit(do_not_specialize=["P"])
def attend_lanes(
    qkv, positions, sequences, page_table, k_values, k_scales, v_values, v_scales, out, out_scales, out_sums,
    part_acc, part_m, part_l, P, G, qkv_stride, scale,
    WINDOW: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, PAGE: tl.constexpr,
    HEADS: tl.constexpr, BN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (t, j, i): token t, the j-th HEADS heads (those of a kv-head follow each other), its i-th share of blocks.

    Without part_acc [T, H, splits, D], part_m and part_l [T, H, splits] there is one share, and out is written: with
    scales and sums, in 8 bits.
    """
    wait(EARLY)
    PARTS: tl.constexpr = (GROUP + HEADS - 1) // HEADS
    t, split, splits = tl.program_id(0), tl.program_id(2), tl.num_programs(2)
    g, part = tl.program_id(1) // PARTS, tl.program_id(1) % PARTS
    d = tl.arange(0, BD)
    position = tl.load(positions + t)
    sequence = tl.where(position >= 0, tl.load(sequences + t), 0).to(tl.int64)
    table, last = page_table + sequence * P, tl.maximum(position, 0)

    q, m, l, acc = (), (), (), ()
    for i in tl.static_range(HEADS):
        # A head beyond the kv-head's last is the last again; it is not stored.
        head = g * GROUP + tl.minimum(part * HEADS + i, GROUP - 1)
        x = tl.load(qkv + t.to(tl.int64) * qkv_stride + head * D + d, mask=d < D, other=0)
        q = q + (x * (scale * LOG2_E),)
        m = m + (tl.full((BN,), NEVER, tl.float32),)
        l = l + (tl.zeros((BN,), tl.float32),)
        acc = acc + (tl.zeros((BN, BD), tl.float32),)

    first, end = share_of(position, split, splits, WINDOW, BN)
    pages = load_pages(table, first * BN, last, BN, PAGE)
    for block in range(first, end):
        rows = rows_of(pages, g, G, block * BN, last, BN, PAGE)
        k = load_rows(k_values, k_scales, rows, D, BD, 1, tl.float32)
        v = load_rows(v_values, v_scales, rows, D, BD, 1, tl.float32)
        pages = load_pages(table, (block + 1) * BN, last, BN, PAGE)
        seen = is_seen(block * BN + tl.arange(0, BN), position, WINDOW)
        next_m, next_l, next_acc = (), (), ()
        for i in tl.static_range(HEADS):
            score = tl.where(seen, tl.sum(k * q[i][None, :], 1), float("-inf"))
            largest = tl.maximum(m[i], score)
            weight, shrink = tl.exp2(score - largest), tl.exp2(m[i] - largest)
            next_m = next_m + (largest,)
            next_l = next_l + (l[i] * shrink + weight,)
            next_acc = next_acc + (acc[i] * shrink[:, None] + weight[:, None] * v,)
        m, l, acc = next_m, next_l, next_acc

    for i in tl.static_range(HEADS):
        largest = tl.max(m[i], 0)
        weight = tl.exp2(m[i] - largest)
        total, values = tl.sum(l[i] * weight, 0), tl.sum(acc[i] * weight[:, None], 0)
        head = part * HEADS + i
        mask = d < tl.where(head < GROUP, D, 0)
        row = t.to(tl.int64) * (G * GROUP) + g * GROUP + head
        if part_acc is None:
            values /= tl.where(total == 0, 1, total)
            if out_scales is None:
                tl.store(out + row * D + d, values, mask=mask)
            else:
                store_heads(tl.expand_dims(values, 0), out, out_scales, out_sums, row, tl.minimum(GROUP - head, 1), D)
        else:
            row = row * splits + split
            tl.store(part_m + row, largest, mask=head < GROUP)
            tl.store(part_l + row, total, mask=head < GROUP)
            tl.store(part_acc + row * D + d, values, mask=mask)


def attend(inputs: tuple, out: "torch.Tensor | Q8", sizes: tuple, shape: dict[str, Any]) -> Splits | None:
    """attention() of any cache and any number of tokens, up to where parts are joined."""
    GROUP, k_values, (_, G, *_) = shape["GROUP"], inputs[4], sizes
    tile = tuning.tile(attend_lanes, lanes_tile(), cache_format(k_values), (shape["D"], GROUP, G), len(inputs[0]))
    parts = cdiv(GROUP, tile.heads)
    elements = tile.elements * target.current().lanes * tile.num_warps * (2 if k_values.dtype == torch.int8 else 1)
    # A row of a head for each warp at the least: no sum over a row then crosses warps.
    BN = min(max(elements // shape["BD"], tile.num_warps), 4 * shape["PAGE"])
    return launch_splits(
        attend_lanes, G * parts, BN, inputs, out, sizes, shape,
        HEADS=cdiv(GROUP, parts), num_warps=tile.num_warps, num_stages=1,
    )  # fmt: skip
