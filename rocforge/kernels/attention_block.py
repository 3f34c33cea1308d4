"""A block of keys or values, found in its pages, and the queries to multiply it by. Walks no sequence.

Rows are queries: a token's heads of one kv-head. Softmax is online (Milakov and Gimelshein, arXiv
1805.02867) in powers of two; a row's state is the largest score `m` so far, the sum `l` of
2^(score - m), and `acc`, the values in these weights.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import target
from rocforge.kernels.early import settled
from rocforge.kernels.launch import scratch
from rocforge.kernels.quantize import quantize, quantize_tile

Tile = TypeVar("Tile")
# Tiles by the target's family, or by the first letters of an architecture that differs from its
# family; then by the bytes of an element of the cache; then by the head size that they are good for.
Tiles = Mapping[str, Mapping[int, Mapping[int, Tile]]]

# Below any score; finite, so that the difference of two is a number.
NEVER = tl.constexpr(-1e30)
LOG2_E = tl.constexpr(1.4426950408889634)


def tile_of(tiles: Tiles, itemsize: int, BD: int) -> Tile:
    """The one of the current target for such a cache and a head of BD elements."""
    at = target.current()
    by_size = (tiles.get(at.arch[:5]) or tiles[at.family])[itemsize]
    return by_size[min(size for size in by_size if size >= BD)]


def cache_format(values: torch.Tensor) -> str:
    """f16, f32 or q8_0: what tiles of attention are kept under."""
    return {torch.float16: "f16", torch.float32: "f32", torch.int8: "q8_0"}[values.dtype]


@contextlib.contextmanager
def float_out(out: "torch.Tensor | Q8", like: torch.Tensor) -> Iterator[torch.Tensor]:
    """Where a kernel that writes float32 writes to; at the end it is quantised if `out` is in 8 bits."""
    if isinstance(out, Q8):
        floats = scratch("attended", tuple(out.values.shape), torch.float32, like)
        yield floats
        quantize(floats, out)
    else:
        yield out


@triton.jit
def queries_of(x, scale, KIND: tl.constexpr):
    """(queries of type KIND, factor) for float32 x [ROWS, BD]: score = factor * (q . k).

    A row is divided by its largest element: then float16 holds it, whatever its size.
    """
    largest = tl.max(tl.abs(x), 1)
    largest = tl.where(largest > 0, largest, 1)
    return (x / largest[:, None]).to(KIND), largest * (scale * LOG2_E)


@triton.jit
def load_pages(table, first, last, BN: tl.constexpr, PAGE: tl.constexpr, EARLY: tl.constexpr = False):
    """The pages of keys first .. first + BN - 1, a tuple; `table` is the sequence's row of the page table.

    A page behind the one of key `last` is that one again. They are asked for a block ahead: nothing
    can be fetched before they are known.
    """
    pages = (settled(table + tl.minimum(first, last) // PAGE, None, EARLY),)
    for i in tl.static_range(1, BN // PAGE):
        pages = pages + (settled(table + tl.minimum(first + i * PAGE, last) // PAGE, None, EARLY),)
    return pages


@triton.jit
def rows_of(pages, g, G, first, last, BN: tl.constexpr, PAGE: tl.constexpr):
    """[BN]: where keys first .. first + BN - 1, of these pages, are among all rows of the cache.

    `first` is a multiple of BN; a key beyond `last` is `last` again: it is there, so what is read is
    a number.
    """
    key = tl.minimum(first + tl.arange(0, BN), last)
    page = pages[0] + tl.zeros((BN,), tl.int32)
    for i in tl.static_range(1, BN // PAGE):
        page = tl.where(key >= first + i * PAGE, pages[i], page)
    return (page * G + g) * PAGE + key % PAGE


@triton.jit
def load_rows(values, scales, rows, D: tl.constexpr, BD: tl.constexpr, AXIS: tl.constexpr, KIND: tl.constexpr):
    """These rows of a cache along AXIS, [BN, BD] or [BD, BN], as type KIND, 0 beyond D; of Q8 if there are scales."""
    BN: tl.constexpr = rows.shape[0]
    rows, d = tl.expand_dims(rows.to(tl.int64), AXIS), tl.expand_dims(tl.arange(0, BD), 1 - AXIS)
    at = values + rows * D + d
    if D == BD:
        x = tl.load(at).to(KIND)
    else:
        x = tl.load(at, mask=d < D, other=0).to(KIND)
    if scales is None:
        return x
    else:
        block = tl.expand_dims(tl.arange(0, BD // 32), 1 - AXIS)
        at = scales + rows * (D // 32) + block
        if D == BD:
            scale = tl.load(at).to(KIND)
        else:
            scale = tl.load(at, mask=block < D // 32, other=0).to(KIND)
        if AXIS == 1:
            scale = tl.reshape(tl.broadcast_to(scale[:, :, None], (BN, BD // 32, 32)), (BN, BD))
        else:
            scale = tl.reshape(tl.broadcast_to(scale[:, None, :], (BD // 32, 32, BN)), (BD, BN))
        return x * scale


@triton.jit
def store_row(x, values, scales, row, D: tl.constexpr, KIND: tl.constexpr):
    """x float32 [1, BD] to a row of a cache; and as load_rows will give it, of type KIND."""
    BD: tl.constexpr = x.shape[1]
    d = tl.arange(0, BD)[None, :]
    to = values + row * D + d
    if scales is None:
        kept = x.to(values.dtype.element_ty)
        tl.store(to, kept, mask=d < D)
        return kept.to(KIND)
    else:
        q, scale = quantize_tile(tl.reshape(x, (BD // 32, 32)))
        block, scale = tl.arange(0, BD // 32), scale.to(tl.float16)
        tl.store(scales + row * (D // 32) + block, scale, mask=block < D // 32)
        tl.store(to, tl.reshape(q, (1, BD)).to(tl.int8), mask=d < D)
        return tl.reshape(q.to(KIND) * scale.to(KIND)[:, None], (1, BD))


@triton.jit
def is_seen(keys, positions, WINDOW: tl.constexpr):
    """Whether a key is among positions p - WINDOW + 1 .. p of a query's p; 0 .. p if WINDOW is 0."""
    if WINDOW > 0:
        # One comparison for both ends: what is ahead of the query is far behind it without a sign.
        return (positions - keys).to(tl.uint32, bitcast=True) < WINDOW
    else:
        return keys <= positions


@triton.jit
def share_of(position, i, n, WINDOW: tl.constexpr, BN: tl.constexpr):
    """(first, end): the i-th of n shares of the blocks of BN keys that a token sees; none if position is -1."""
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(position - WINDOW + 1, 0) // BN
    blocks = (position + BN) // BN - begin
    return begin + blocks * i // n, begin + blocks * (i + 1) // n
