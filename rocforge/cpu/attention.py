"""Attention over a paged KV cache, with online softmax. A score is never stored beyond its page."""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types

from rocforge.cpu import tuning
from rocforge.cpu.isa import (
    ELEMENT,
    any_above,
    clear_outside,
    exp16,
    f32x16,
    first_lane,
    heap,
    heap_free,
    instruction,
    largest_lane,
    larger,
    load,
    load_f16,
    load_f32,
    load_half,
    load_i32,
    pointer,
    prefetch,
    splat,
    store,
    store_f32,
    sum_f32,
    zero,
)
from rocforge.cpu.lanes import store_columns
from rocforge.cpu.product import add_product
from rocforge.cpu.quantize import quantize_block
from rocforge.cpu.threads import counter, inline, kernel, launch, real, take, words
from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8Cache

BYTES16 = ir.VectorType(ELEMENT["i8"], 16)
# address of 16 signed bytes -> them as float32
load16b = instruction(
    f32x16, (types.intp,), lambda b, a: b.sitofp(b.load(pointer(b, a, BYTES16), align=1), f32x16.llvm)
)
load16, load16h, store16 = load(16, "f32"), load_f16(16), store(16, "f32")
zero16, splat16, fold16 = zero(16, "f32"), splat(16, "f32"), sum_f32(16)
f32 = np.float32

# Rows of a page; a page's scores are two vectors.
PAGE = 32
# Below any score, and what a score is that a query does not see: its exponential is 0 even beside NEVER.
NEVER, HIDDEN = f32(-1e30), f32(-np.inf)
# A query row's state, bytes: 16 sums, the largest score.
LARGEST, STATE = 64, 128


class Blocking(NamedTuple):
    """What suits one machine and not another: query `ROWS` (tokens times heads of one kv-head) that share a page once it
    is converted, at the most; they are fewer where a thread would not get as many `SHARES` of the work."""

    ROWS: int
    SHARES: int


DEFAULT = Blocking(128, 4)


@inline
def tokens_at_once(rows, shares, group, T, G, team):
    return max(1, min(rows // group, T * G // (shares * team)))


# ---- a page, as float32


@inline
def convert_page(page, scales, n, width, out, ahead):
    """n values of `width` bytes, those of one byte by the scales of their blocks; fetches from memory what is
    `ahead` bytes further on."""
    if width == 1:
        for i in range(0, n, Q8_BLOCK):
            prefetch(page + i + ahead)
            scale = load_half(scales + i // Q8_BLOCK * 2)
            store16(out + 4 * i, load16b(page + i) * scale)
            store16(out + 4 * i + 64, load16b(page + i + 16) * scale)
    elif width == 2:
        for i in range(0, n, 32):
            prefetch(page + 2 * i + ahead)
            store16(out + 4 * i, load16h(page + 2 * i))
            store16(out + 4 * i + 64, load16h(page + 2 * i + 32))
    else:
        for i in range(0, n, 16):
            prefetch(page + 4 * i + ahead)
            store16(out + 4 * i, load16(page + 4 * i))


@inline
def transpose_keys(rows, D, out):
    """out[half][d][row of the half]; there is room for D rounded up to 4."""
    padded = (D + 3) // 4 * 4
    for d in range(0, padded, 4):
        store_columns(rows + 4 * d, 4 * D, out + 64 * d)
        store_columns(rows + 64 * D + 4 * d, 4 * D, out + 64 * (padded + d))


# ---- softmax, a page at a time


@inline
def scale_values(x, factor, out, n):
    """out = x * factor; out may be x."""
    whole = n // 16 * 16
    for i in range(0, whole, 16):
        store16(out + 4 * i, load16(x + 4 * i) * factor)
    for i in range(whole, n):
        store_f32(out + 4 * i, load_f32(x + 4 * i) * factor)


@inline
def fold_in_scores(scores, first, last, state, acc, padded):
    """A query row's scores become exponentials, 0 outside of first..last; its sums grow by them.

    `state` holds the sums of exponentials, lane by lane, and the largest score so far. Where that grows,
    what there is so far shrinks.
    """
    low, high = load16(scores), load16(scores + 64)
    if first > 0 or last < PAGE - 1:
        low, high = clear_outside(low, first, last, HIDDEN), clear_outside(high, first - 16, last - 16, HIDDEN)
    largest, both = load_f32(state + LARGEST), larger(low, high)
    if any_above(both, largest):
        before = largest
        largest = largest_lane(both)
        shrink = first_lane(exp16(splat16(before - largest)))
        store16(state, load16(state) * shrink)
        scale_values(acc, shrink, acc, padded)
        store_f32(state + LARGEST, largest)
    low, high = exp16(low - largest), exp16(high - largest)
    store16(scores, low)
    store16(scores + 64, high)
    store16(state, load16(state) + (low + high))


@inline
def rows_seen(position, window, page):
    """(first, last) row of the page that the token at `position` sees; first > last if none."""
    begin = position - window + 1 if window else 0
    return max(begin - page * PAGE, 0), min(position - page * PAGE, PAGE - 1)


@inline
def attend_page(q, keys, values, page, start, tokens, heads, window, D, padded, scores, states, acc):
    """A page for `tokens` tokens from position `start` on, `heads` query rows each; each sees what it may.

    A value that only some of them see is multiplied by 0 for the others.
    """
    rows = tokens * heads
    for i in range(0, rows * PAGE, 16):
        store16(scores + 4 * i, zero16())
    add_product(q, 4 * D, keys, 64, 64 * ((D + 3) // 4 * 4), D, scores, 4 * PAGE, rows, PAGE // 16)
    for i in range(tokens):
        first, last = rows_seen(start + i, window, page)
        for r in range(i * heads, (i + 1) * heads):
            fold_in_scores(scores + 4 * PAGE * r, first, last, states + STATE * r, acc + 4 * padded * r, padded)
    # Where D is not a multiple of 16 the last columns are of the next row, and nobody asks for their sums.
    first, last = rows_seen(start, window, page)[0], rows_seen(start + tokens - 1, window, page)[1]
    weights, seen = scores + 4 * first, values + 4 * D * first
    add_product(weights, 4 * PAGE, seen, 4 * D, 64, last - first + 1, acc, 4 * padded, rows, padded // 16)


# ---- the walk over tokens and pages


@inline
def run_of(t, stop, positions, sequences):
    """How many of the tokens t..stop-1 follow each other in one sequence."""
    n = 1
    while (
        t + n < stop
        and load_i32(sequences + 4 * (t + n)) == load_i32(sequences + 4 * t)
        and load_i32(positions + 4 * (t + n)) == load_i32(positions + 4 * t) + n
    ):
        n += 1
    return n


@inline
def runs_of(T, at_most, positions, sequences):
    """How many runs of up to at_most tokens all T are."""
    n, t = 0, 0
    while t < T:
        t += run_of(t, min(t + at_most, T), positions, sequences)
        n += 1
    return n


@kernel
def attend(args, tid, team):
    (qkv, positions, sequences, page_table, k_cache, k_scales, v_cache, v_scales, out, out_scales, out_sums,
     T, P, H, G, D, width, stride, window, scale, counter, rows, shares) = words(args, 23)  # fmt: skip
    group, page_values, padded = H // G, PAGE * D, (D + 15) // 16 * 16
    # Where there are fewer kv-heads and tokens than threads, threads share the heads of a group.
    parts = min(group, (team + T * G - 1) // (T * G))
    tokens_at_most = tokens_at_once(rows, shares, group, T, G, team)
    rows_at_most = tokens_at_most * group
    room = PAGE * (D + 4)  # of a page: K^T with D rounded up to 4, and V with what is read behind its last row
    memory = heap(4 * (2 * room + rows_at_most * (D + padded + PAGE)) + STATE * rows_at_most + 64)
    keys = (memory + 63) // 64 * 64
    values = keys + 4 * room  # K on its way to K^T, then V
    acc = values + 4 * room
    scores = acc + 4 * rows_at_most * padded
    q = scores + 4 * rows_at_most * PAGE
    states = q + 4 * rows_at_most * D
    pieces = G * parts * runs_of(T, tokens_at_most, positions, sequences)
    t, item, piece = 0, -1, take(counter, pieces, team)
    while t < T:
        tokens = run_of(t, min(t + tokens_at_most, T), positions, sequences)
        start, pages = load_i32(positions + 4 * t), page_table + 4 * P * load_i32(sequences + 4 * t)
        last_page = (start + tokens - 1) // PAGE
        for part in range(G * parts):
            item += 1
            if item != piece:
                continue
            piece = take(counter, pieces, team)
            g, head = part // parts, group * (part % parts) // parts
            heads = group * (part % parts + 1) // parts - head
            head += g * group
            for r in range(tokens * heads):
                query = qkv + 4 * (stride * (t + r // heads) + D * (head + r % heads))
                scale_values(query, real(scale), q + 4 * D * r, D)
                for d in range(0, padded, 16):
                    store16(acc + 4 * (padded * r + d), zero16())
                store16(states + STATE * r, zero16())
                store_f32(states + STATE * r + LARGEST, NEVER)
            first_page = max(start - window + 1, 0) // PAGE if window else 0
            for page in range(first_page, last_page + 1):
                at = page_values * (load_i32(pages + 4 * page) * G + g)
                ahead = width * (page_values * (load_i32(pages + 4 * min(page + 1, last_page)) * G + g) - at)
                block = at // Q8_BLOCK * 2
                convert_page(k_cache + width * at, k_scales + block, page_values, width, values, ahead)
                transpose_keys(values, D, keys)
                convert_page(v_cache + width * at, v_scales + block, page_values, width, values, ahead)
                i = max(0, page * PAGE - start)  # those before do not see it
                r = i * heads
                attend_page(
                    q + 4 * D * r, keys, values, page, start + i, tokens - i, heads, window, D, padded, scores,
                    states + STATE * r, acc + 4 * padded * r,
                )  # fmt: skip
            for r in range(tokens * heads):
                sums, at = acc + 4 * padded * r, D * (H * (t + r // heads) + head + r % heads)
                inverse = f32(1) / fold16(load16(states + STATE * r))
                if out_scales == 0:
                    scale_values(sums, inverse, out + 4 * at, D)
                else:
                    scale_values(sums, inverse, sums, D)
                    for block in range(D // Q8_BLOCK):
                        quantize_block(sums, out + at, out_scales + at // 8, out_sums + at // 8, block)
        t += tokens
    heap_free(memory)


def attention(
    qkv: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    k_cache: "np.ndarray | Q8Cache",
    v_cache: "np.ndarray | Q8Cache",
    out: "np.ndarray | Q8",
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
    [T, H*D], or a Q8 (D a multiple of 32): float32 results, then quantised. A token with p < 0 is padding: its row
    of out may become anything, and no other's. Pages ascend and each is folded in by the online softmax (Milakov and Gimelshein, arXiv
    1805.02867), each element of a product is a sum in one order: so the bits for a token depend on
    nothing else in the step.
    """
    k, v = (cache if isinstance(cache, Q8Cache) else Q8Cache(cache, None) for cache in (k_cache, v_cache))
    assert k.values.shape == v.values.shape and k.values.dtype == v.values.dtype, (k.values.shape, v.values.shape)
    assert k.values.shape[1:] == (kv_heads, PAGE, head_dim), (k.values.shape, kv_heads, head_dim)
    if k.scales is not None:
        blocks = (*k.values.shape[:3], head_dim // Q8_BLOCK)
        assert head_dim % Q8_BLOCK == 0 and k.scales.shape == v.scales.shape == blocks, (k.scales.shape, blocks)
    outs = out if isinstance(out, Q8) else (out, None, None)
    assert all(part is None or part.flags.c_contiguous for part in outs), outs
    assert outs[1] is None or head_dim % Q8_BLOCK == 0, head_dim
    sizes = (len(qkv), page_table.shape[1], heads, kv_heads, head_dim, k.values.itemsize, qkv.strides[0] // 4)
    kept = "q8_0" if k.scales is not None else {2: "f16", 4: "f32"}[k.values.itemsize]
    blocking = tuning.tile(attend.__name__, DEFAULT, kept, (head_dim, heads // kv_heads, kv_heads), len(qkv))
    launch(attend, qkv, positions, sequences, page_table, *k, *v, *outs, *sizes, window, scale, counter(), *blocking)
