"""Attention of few tokens: a token's keys are split over programs, a second kernel joins the parts.

The parts of a token and head, split i of its keys having the largest score m[i] (an exponent of two),
the sum l[i] of 2^(score - m[i]) and the values a[i] in these weights:

    M = max m[i];  out = sum 2^(m[i] - M) a[i] / sum 2^(m[i] - M) l[i]

A split's share of keys is computed on the device from the token's position: one launch serves any length.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import halves, target, tuning
from rocforge.kernels.attention_block import (
    NEVER,
    Tiles,
    cache_format,
    is_seen,
    load_pages,
    load_rows,
    queries_of,
    rows_of,
    share_of,
    store_row,
    tile_of,
)
from rocforge.kernels.columns import Order
from rocforge.kernels.early import settled, wait
from rocforge.kernels.halves import Halves, store_halves
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.quantize import store_q8
from rocforge.kernels.rope import angles_of, turned
from rocforge.kernels.sizes import cdiv, next_power_of_2


class DecodeTile(NamedTuple):
    """BN keys a step of a program."""

    BN: int
    num_warps: int
    num_stages: int


# None: attention_lanes does better.
DECODE: Tiles[DecodeTile | None] = {
    "nvidia": {
        2: {64: DecodeTile(64, 4, 3), 128: DecodeTile(32, 2, 3), 256: DecodeTile(32, 4, 3)},
        1: {64: DecodeTile(128, 4, 3), 128: DecodeTile(64, 4, 3), 256: DecodeTile(32, 4, 3)},
    },
    "cdna": {
        2: {64: DecodeTile(64, 4, 2), 128: DecodeTile(32, 4, 2), 256: DecodeTile(16, 4, 2)},
        1: {64: DecodeTile(128, 4, 2), 128: DecodeTile(64, 4, 2), 256: DecodeTile(32, 4, 2)},
    },
    # Several programs fit on a compute unit and hide each other's loads. gfx11 holds each operand of its
    # matrix instructions twice: for more than this it has no registers, nor any for wide heads.
    "rdna": {
        2: {64: DecodeTile(64, 4, 1), 128: DecodeTile(32, 4, 1), 256: None},
        1: {64: DecodeTile(32, 4, 1), 128: DecodeTile(32, 4, 1), 256: None},
    },
    "gfx12": {
        2: {64: DecodeTile(64, 4, 1), 128: DecodeTile(64, 4, 1), 256: DecodeTile(32, 8, 1)},
        1: {64: DecodeTile(64, 4, 1), 128: DecodeTile(64, 4, 1), 256: DecodeTile(32, 8, 1)},
    },
    "interpreter": {
        2: {64: DecodeTile(64, 1, 1), 256: DecodeTile(16, 1, 1)},
        1: {64: DecodeTile(64, 1, 1), 256: DecodeTile(32, 1, 1)},
    },
}

# Programs that fill the device: enough for each of its compute units to have two in flight.
PROGRAMS: dict[str, int] = {"nvidia": 264, "cdna": 608, "rdna": 192, "interpreter": 8}
MAX_SPLITS = 128
# Columns of a matrix product at the least.
LEAST = 16
# Parts that the second kernel joins a step at the most, columns that one of its programs has (what 8 bits share a scale by),
# and values that one of its warps has.
MOST_PARTS, JOIN_COLUMNS, JOIN_VALUES = 64, 32, 1024


@triton.jit(do_not_specialize=["P"])
def attend_split(
    qkv, positions, sequences, page_table, k_values, k_scales, v_values, v_scales, table, q_norm, k_norm,
    out, out_scales, out_sums, part_acc, part_m, part_l, P, G, qkv_stride, scale, eps,
    WINDOW: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, PAGE: tl.constexpr,
    HALF: tl.constexpr, HALVES: tl.constexpr, ROWS: tl.constexpr, BN: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (t, g, i): token t, the heads of kv-head g, the i-th share of its blocks of BN keys.

    With a table [T, 2 * HALF] it does rope_store's work too: q and k are not rotated yet, and the token's own row is not in
    the cache. The program with the last share has it in registers, and stores it.

    Without part_acc [T, H, splits, D], part_m and part_l [T, H, splits] there is one share, and out is written: with
    scales and sums, in 8 bits.
    """
    t, g, split, splits = tl.program_id(0), tl.program_id(1), tl.program_id(2), tl.num_programs(2)
    r, d = tl.arange(0, ROWS), tl.arange(0, BD)
    head = g * GROUP + r
    position, sequence = settled(positions + t, None, EARLY), settled(sequences + t, None, EARLY)
    sequence = tl.where(position >= 0, sequence, 0).to(tl.int64)
    its_pages, newest = page_table + sequence * P, position  # of what is in the cache
    if table is not None:
        newest = position - 1
        has_own = (split == splits - 1) & (position >= 0)
        own_page = settled(its_pages + tl.maximum(position, 0) // PAGE, None, EARLY)
        angles = angles_of(table + t.to(tl.int64) * 2 * HALF, d, HALF, HALVES, EARLY)
    last = tl.maximum(newest, 0)
    first, end = share_of(newest, split, splits, WINDOW, BN)
    pages = load_pages(its_pages, first * BN, last, BN, PAGE, EARLY)
    wait(EARLY)

    # Keys are the rows of the first product, the head's columns those of the second: there are enough
    # of either for each warp to have its own, where the few queries would leave all warps the same.
    at, mask = qkv + t.to(tl.int64) * qkv_stride + head[:, None] * D, (r < GROUP)[:, None] & (d < D)[None, :]
    if table is None:
        x = tl.load(at + d[None, :], mask=mask, other=0)
    else:
        x = turned(at, d, mask, angles, q_norm, eps, D)
        own = qkv + t.to(tl.int64) * qkv_stride + (G * GROUP + g + tl.zeros((1, 1), tl.int32)) * D
        is_mine = (d < tl.where(has_own, D, 0))[None, :]
        own_k = turned(own, d, is_mine, angles, k_norm, eps, D)
        own_v = tl.load(own + G * D + d[None, :], mask=is_mine, other=0)
    x, factor = queries_of(x, scale, tl.float16)
    q = tl.trans(x)
    m = tl.full((ROWS,), NEVER, tl.float32)
    l = tl.zeros((BN, ROWS), tl.float32)  # of every BN-th key: summed up at the end, warps need not wait for it
    acc = tl.zeros((BD, ROWS), tl.float32)
    if table is not None:
        if has_own:  # first, so that nothing of it is held while the others are gone through
            row = (own_page.to(tl.int64) * G + g) * PAGE + position % PAGE
            k = store_row(own_k, k_values, k_scales, row, D, tl.float16)
            v = store_row(own_v, v_values, v_scales, row, D, tl.float16)
            m = tl.sum(x.to(tl.float32) * k.to(tl.float32), 1) * factor
            l += tl.where(tl.arange(0, BN) == 0, 1.0, 0.0)[:, None]
            acc += tl.trans(v).to(tl.float32)
    for block in range(first, end):
        rows = rows_of(pages, g, G, block * BN, last, BN, PAGE)
        k = load_rows(k_values, k_scales, rows, D, BD, 1, tl.float16)
        v = load_rows(v_values, v_scales, rows, D, BD, 0, tl.float16)
        pages = load_pages(its_pages, (block + 1) * BN, last, BN, PAGE)
        keys = block * BN + tl.arange(0, BN)
        seen = is_seen(keys, position, WINDOW)
        if table is not None:
            seen = seen & (keys <= newest)
        scores = tl.where(seen[:, None], tl.dot(k, q), float("-inf"))
        largest = tl.maximum(m, tl.max(scores, 0) * factor)
        weights = tl.exp2(scores * factor[None, :] - largest[None, :])
        shrink = tl.exp2(m - largest)
        l = l * shrink[None, :] + weights
        acc = tl.dot(v, weights.to(tl.float16), acc * shrink[None, :])
        m = largest

    l = tl.sum(l, 0)
    row = t.to(tl.int64) * (G * GROUP) + head
    mask = (r < GROUP)[None, :] & (d < D)[:, None]
    if part_acc is None:
        acc /= tl.where(l == 0, 1, l)[None, :]
        if out_scales is None:
            tl.store(out + row[None, :] * D + d[:, None], acc, mask=mask)
        else:
            store_heads(tl.trans(acc), out, out_scales, out_sums, t.to(tl.int64) * (G * GROUP) + g * GROUP, GROUP, D)
    else:
        row = row * splits + split
        tl.store(part_m + row, m, mask=r < GROUP)
        tl.store(part_l + row, l, mask=r < GROUP)
        tl.store(part_acc + row[None, :] * D + d[:, None], acc, mask=mask)


@triton.jit
def store_heads(x, values, scales, sums, first, heads, D: tl.constexpr):
    """Heads of D values to rows first .. of Q8 parts, D in each: x float32 [>= heads, >= D]; D is a multiple of 32."""
    ROWS: tl.constexpr = x.shape[0]
    BLOCKS: tl.constexpr = x.shape[1] // 32
    i = tl.arange(0, ROWS * BLOCKS)
    row, block = i // BLOCKS, i % BLOCKS
    there = (row < heads) & (block < D // 32)
    x = tl.reshape(x, (ROWS * BLOCKS, 32))
    store_q8(x, values + first * D, scales + first * (D // 32), sums + first * (D // 16), row * (D // 32) + block, there)


@triton.jit
def with_part(m, l, acc, part, total, values):
    """The sums m [n], l [n] and acc [n, columns] with one more of each; the formula at the top of the file."""
    largest = tl.maximum(m, part)
    weight, shrink = tl.exp2(part - largest), tl.exp2(m - largest)
    return largest, l * shrink + total * weight, acc * shrink[:, None] + values * weight[:, None]


@triton.jit(do_not_specialize=["splits"])
def join_splits(
    part_acc, part_m, part_l, out, out_scales, out_sums, splits, D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Program (r, i): BD columns of a token and head, which is row r of out [T * H, D]; the formula at the top of the file.
    With scales and sums: in 8 bits."""
    wait(EARLY)
    row, first_column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BD
    d = first_column + tl.arange(0, BD)
    m = tl.full((BS,), NEVER, tl.float32)
    l = tl.zeros((BS,), tl.float32)
    acc = tl.zeros((BS, BD), tl.float32)
    # As in the splits themselves, every BS-th one first by itself: one round trip to memory is enough for BS.
    for first in range(0, splits, BS):
        i = first + tl.arange(0, BS)
        at = row * splits + i
        part = tl.load(part_m + at, mask=i < splits, other=NEVER)
        total = tl.load(part_l + at, mask=i < splits, other=0)
        values = tl.load(part_acc + at[:, None] * D + d[None, :], mask=(i < splits)[:, None] & (d < D)[None, :], other=0)
        m, l, acc = with_part(m, l, acc, part, total, values)
    weight = tl.exp2(m - tl.max(m, 0))
    l, acc = tl.sum(l * weight, 0), tl.sum(acc * weight[:, None], 0)
    acc /= tl.where(l == 0, 1, l)
    if out_scales is None:
        tl.store(out + row * D + d, acc, mask=d < D)
    else:
        block, x = first_column // 32 + tl.arange(0, BD // 32), tl.reshape(acc, (BD // 32, 32))
        store_q8(x, out + row * D, out_scales + row * (D // 32), out_sums + row * (D // 16), block, block < D // 32)


@triton.jit(do_not_specialize=["splits"])
def halves_of_splits(
    part_acc, part_m, part_l, out, largest, H, splits, columns, D: tl.constexpr, BB: tl.constexpr, MIX: tl.constexpr,
    PAIRED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program t: token t's row of H * D values, whole, as BB blocks of 32; the formula at the top of the file, a split at a time."""
    wait(EARLY)
    t, block = tl.program_id(0).to(tl.int64), tl.arange(0, BB)
    there = block < H * D // 32
    i = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    first = (t * H + block * 32 // D) * splits
    m = tl.full((BB,), NEVER, tl.float32)
    l = tl.zeros((BB,), tl.float32)
    acc = tl.zeros((BB, 32), tl.float32)
    for split in range(splits):
        at = first + split
        part = tl.load(part_m + at, mask=there, other=NEVER)
        total = tl.load(part_l + at, mask=there, other=0)
        values = tl.load(part_acc + at[:, None] * D + i % D, mask=there[:, None], other=0)
        m, l, acc = with_part(m, l, acc, part, total, values)
    acc /= tl.where(l == 0, 1, l)[:, None]
    store_halves(acc, out + t * columns, largest + t, columns, MIX, PAIRED)


class Splits(NamedTuple):
    """What is to be joined: float32 [T, H, splits, D], [T, H, splits] and again; the formula at the top of the file."""

    acc: torch.Tensor
    m: torch.Tensor
    l: torch.Tensor


def launch_splits(
    kernel, programs: int, BN: int, inputs: tuple, out: "torch.Tensor | Q8", sizes: tuple, shape: dict[str, Any], **options
) -> Splits | None:
    """Launch `kernel` over (T, programs, splits). Where there is more than one split, out is not written yet.

    `inputs`, `sizes` and `shape` are what attention() makes of its arguments.
    """
    P, G, *_ = sizes
    T, H, D = len(inputs[0]), G * shape["GROUP"], shape["D"]
    # What fills the device, but a block of keys each (256 keys, H200: 3.5 us in eight parts, joined; 8.2 in one).
    splits = PROGRAMS[target.current().family] // (T * programs)
    splits = max(1, min(splits, cdiv(P * shape["PAGE"], BN), MAX_SPLITS))
    if splits == 1:
        outs = out if isinstance(out, Q8) else (out, None, None)
        launch(kernel, (T, programs, 1), *inputs, *outs, None, None, None, *sizes, **shape, BN=BN, **options)
        return None
    shapes = {"attention_acc": (T, H, splits, D), "attention_m": (T, H, splits), "attention_l": (T, H, splits)}
    parts = Splits(*(scratch(tag, size, torch.float32, inputs[0]) for tag, size in shapes.items()))
    launch(kernel, (T, programs, splits), *inputs, parts[0], None, None, *parts, *sizes, **shape, BN=BN, **options)
    return parts


def join(parts: Splits | None, out: "torch.Tensor | Q8") -> None:
    """The parts to out, if there are any."""
    if parts is None:
        return
    T, H, splits, D = parts.acc.shape
    BS, BD = min(MOST_PARTS, next_power_of_2(splits)), min(next_power_of_2(D), JOIN_COLUMNS)
    warps = max(1, BS * BD // JOIN_VALUES)
    outs = out if isinstance(out, Q8) else (out, None, None)
    launch(join_splits, (T * H, cdiv(D, BD)), *parts, *outs, splits, num_warps=warps, fuses=False, D=D, BD=BD, BS=BS)


def join_to_halves(parts: Splits, order: Order) -> Halves:
    """The parts to 8 bits, as the matrix units take them: what halves.of_q8 makes of those."""
    T, H, splits, D = parts.acc.shape
    made = halves.empty(T, H * D, order, parts.acc)
    columns = made.values.shape[1]
    launch(
        halves_of_splits, (T,), *parts, *made, H, splits, columns, num_warps=halves.ROW_WARPS, fuses=False, D=D,
        BB=next_power_of_2(columns // 32), **order._asdict(),
    )  # fmt: skip
    return made


class Turn(NamedTuple):
    """What rope_store() does to the queries, and to the keys and values that are not in the cache yet."""

    table: torch.Tensor
    q_norm: "torch.Tensor | None"
    k_norm: "torch.Tensor | None"
    eps: float
    halves: bool


def decode(
    inputs: tuple, out: "torch.Tensor | Q8", sizes: tuple, shape: dict[str, Any], turn: Turn | None = None
) -> Splits | None:
    """attention() of few tokens on the matrix units, up to where parts are joined: caches in halves or Q8. With a turn,
    rope_store() of one token too."""
    _, G, *_ = sizes
    tile = tile_of(DECODE, inputs[4].itemsize, shape["BD"])
    tile = tuning.tile(attend_split, tile, cache_format(inputs[4]), (shape["D"], shape["GROUP"], G), len(inputs[0]))
    if turn is None:
        inputs, sizes, shape = (*inputs, None, None, None), (*sizes, 0.0), {**shape, "HALF": 0, "HALVES": False}
    else:
        half = turn.table.shape[1] // 2
        inputs, sizes = (*inputs, turn.table, turn.q_norm, turn.k_norm), (*sizes, turn.eps)
        shape = {**shape, "HALF": half, "HALVES": turn.halves}
    return launch_splits(
        attend_split, G, tile.BN, inputs, out, sizes, shape, ROWS=max(LEAST, next_power_of_2(shape["GROUP"])),
        num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
