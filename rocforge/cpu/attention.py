"""Attention over a paged KV cache, with online softmax. A score is never stored beyond its page."""

import numpy as np
from llvmlite import ir
from numba import types

from rocforge.cpu.isa import (
    ELEMENT,
    clear_outside,
    exp16,
    f32x16,
    first_lane,
    fma,
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
from rocforge.cpu.threads import inline, kernel, launch, real, words
from rocforge.gguf.formats import Q8_BLOCK, Q8Cache

BYTES16 = ir.VectorType(ELEMENT["i8"], 16)
# address of 16 signed bytes -> them as float32
load16b = instruction(
    f32x16, (types.intp,), lambda b, a: b.sitofp(b.load(pointer(b, a, BYTES16), align=1), f32x16.llvm)
)
load16, load16h, store16 = load(16, "f32"), load_f16(16), store(16, "f32")
zero16, splat16, fma16, fold16 = zero(16, "f32"), splat(16, "f32"), fma(16), sum_f32(16)
f32 = np.float32

# Rows of a page; a page's scores are two vectors.
PAGE = 32
# Query rows (tokens times heads of one kv-head) that share a page once it is converted.
ROWS = 64
# Below any score: its exponential is 0.
NEVER = f32(-1e30)


# ---- a product of matrices


@inline
def add_product_1(a, b, step, n, c):
    sums = load16(c)
    for i in range(n):
        sums = fma16(splat16(load_f32(a + 4 * i)), load16(b + step * i), sums)
    store16(c, sums)


@inline
def add_product_4(a, a_step, b, step, n, c, c_step):
    a1, a2, a3 = a + a_step, a + 2 * a_step, a + 3 * a_step
    c1, c2, c3 = c + c_step, c + 2 * c_step, c + 3 * c_step
    sums0, sums1, sums2, sums3 = load16(c), load16(c1), load16(c2), load16(c3)
    for i in range(n):
        row = load16(b + step * i)
        sums0 = fma16(splat16(load_f32(a + 4 * i)), row, sums0)
        sums1 = fma16(splat16(load_f32(a1 + 4 * i)), row, sums1)
        sums2 = fma16(splat16(load_f32(a2 + 4 * i)), row, sums2)
        sums3 = fma16(splat16(load_f32(a3 + 4 * i)), row, sums3)
    store16(c, sums0)
    store16(c1, sums1)
    store16(c2, sums2)
    store16(c3, sums3)


@inline
def add_product(a, a_step, b, step, n, c, c_step, rows):
    """c[0:rows, 0:16] += a[0:rows, 0:n] b[0:n, 0:16], each element a sum in ascending order of n.

    Rows are `a_step`, `step` and `c_step` bytes apart. Four rows of a at a time: their sums stay in
    registers, and each row of b is read once for all four.
    """
    whole = rows // 4 * 4
    for r in range(0, whole, 4):
        add_product_4(a + a_step * r, a_step, b, step, n, c + c_step * r, c_step)
    for r in range(whole, rows):
        add_product_1(a + a_step * r, b, step, n, c + c_step * r)


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
    """A query row's scores become exponentials; its sums so far are brought to the new maximum.

    `state` holds the maximum and the sum of exponentials. Outside of first..last they become 0.
    """
    low, high = load16(scores), load16(scores + 64)
    if first > 0 or last < PAGE - 1:
        low, high = clear_outside(low, first, last, NEVER), clear_outside(high, first - 16, last - 16, NEVER)
    old = load_f32(state)
    new = max(old, largest_lane(larger(low, high)))
    low, high = exp16(low - new), exp16(high - new)
    store16(scores, low)
    store16(scores + 64, high)
    total = load_f32(state + 4)
    if new > old:
        shrink = first_lane(exp16(splat16(old - new)))
        total *= shrink
        scale_values(acc, shrink, acc, padded)
    store_f32(state, new)
    store_f32(state + 4, total + fold16(low + high))


@inline
def attend_page(q, keys, values, first, last, D, padded, scores, states, acc, rows):
    """`rows` query rows that all see the rows first..last of one page."""
    for i in range(0, rows * PAGE, 16):
        store16(scores + 4 * i, zero16())
    for half in range(2):
        keys_half = keys + 64 * ((D + 3) // 4 * 4) * half
        add_product(q, 4 * D, keys_half, 64, D, scores + 64 * half, 4 * PAGE, rows)
    for r in range(rows):
        fold_in_scores(scores + 4 * PAGE * r, first, last, states + 8 * r, acc + 4 * padded * r, padded)
    # Where D is not a multiple of 16 the last columns are of the next row, and nobody asks for their sums.
    for d in range(0, D, 16):
        v = values + 4 * (D * first + d)
        add_product(scores + 4 * first, 4 * PAGE, v, 4 * D, last - first + 1, acc + 4 * d, 4 * padded, rows)


# ---- the walk over tokens and pages


@inline
def rows_seen(position, window, page):
    """(first, last) row of the page that the token at `position` sees; first > last if none."""
    begin = position - window + 1 if window else 0
    return max(begin - page * PAGE, 0), min(position - page * PAGE, PAGE - 1)


@inline
def seen_alike(position, stop, window, page):
    """How many of the positions position..stop-1 see the same rows of the page."""
    first, last = rows_seen(position, window, page)
    n = 1
    while position + n < stop:
        other_first, other_last = rows_seen(position + n, window, page)
        if other_first != first or other_last != last:
            break
        n += 1
    return n


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


@kernel
def attend(args, tid, team):
    (qkv, positions, sequences, page_table, k_cache, k_scales, v_cache, v_scales, out,
     T, P, H, G, D, width, stride, window, scale) = words(args, 18)  # fmt: skip
    group, page_values, padded = H // G, PAGE * D, (D + 15) // 16 * 16
    # Where there are fewer kv-heads and tokens than threads, threads share the heads of a group.
    parts = min(group, (team + T * G - 1) // (T * G))
    tokens_at_most = max(1, ROWS // group)
    rows_at_most = tokens_at_most * group
    room = PAGE * (D + 4)  # of a page: K^T with D rounded up to 4, and V with what is read behind its last row
    memory = heap(4 * (2 * room + rows_at_most * (D + padded + PAGE + 2)) + 64)
    keys = (memory + 63) // 64 * 64
    values = keys + 4 * room  # K on its way to K^T, then V
    acc = values + 4 * room
    scores = acc + 4 * rows_at_most * padded
    q = scores + 4 * rows_at_most * PAGE
    states = q + 4 * rows_at_most * D
    t, item = 0, 0
    while t < T:
        tokens = run_of(t, min(t + tokens_at_most, T), positions, sequences)
        start, pages = load_i32(positions + 4 * t), page_table + 4 * P * load_i32(sequences + 4 * t)
        last_page = (start + tokens - 1) // PAGE
        for part in range(G * parts):
            # Dealt out in turn: later tokens see more, so each thread gets its share of them.
            item += 1
            if item % team != tid:
                continue
            g, head = part // parts, group * (part % parts) // parts
            heads = group * (part % parts + 1) // parts - head
            head += g * group
            for r in range(tokens * heads):
                query = qkv + 4 * (stride * (t + r // heads) + D * (head + r % heads))
                scale_values(query, real(scale), q + 4 * D * r, D)
                for d in range(0, padded, 16):
                    store16(acc + 4 * (padded * r + d), zero16())
                store_f32(states + 8 * r, NEVER)
                store_f32(states + 8 * r + 4, f32(0))
            first_page = max(start - window + 1, 0) // PAGE if window else 0
            for page in range(first_page, last_page + 1):
                at = page_values * (load_i32(pages + 4 * page) * G + g)
                ahead = width * (page_values * (load_i32(pages + 4 * min(page + 1, last_page)) * G + g) - at)
                block = at // Q8_BLOCK * 2
                convert_page(k_cache + width * at, k_scales + block, page_values, width, values, ahead)
                transpose_keys(values, D, keys)
                convert_page(v_cache + width * at, v_scales + block, page_values, width, values, ahead)
                # Tokens that see the same rows of the page go together: all of them, where it is behind them.
                i = 0
                while i < tokens:
                    first, last = rows_seen(start + i, window, page)
                    n, r = seen_alike(start + i, start + tokens, window, page), i * heads
                    if first <= last:
                        attend_page(
                            q + 4 * D * r, keys, values, first, last, D, padded, scores, states + 8 * r,
                            acc + 4 * padded * r, n * heads,
                        )  # fmt: skip
                    i += n
            for r in range(tokens * heads):
                to = out + 4 * D * (H * (t + r // heads) + head + r % heads)
                scale_values(acc + 4 * padded * r, f32(1) / load_f32(states + 8 * r + 4), to, D)
        t += tokens
    heap_free(memory)


def attention(
    qkv: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    k_cache: "np.ndarray | Q8Cache",
    v_cache: "np.ndarray | Q8Cache",
    out: np.ndarray,
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
    [T, H*D]. A token with p < 0 is padding: its row of out may become anything, and no other's.
    Pages ascend and each is folded in by the online softmax (Milakov and Gimelshein, arXiv
    1805.02867), each element of a product is a sum in one order: so the bits for a token depend on
    nothing else in the step.
    """
    k, v = (cache if isinstance(cache, Q8Cache) else Q8Cache(cache, None) for cache in (k_cache, v_cache))
    assert k.values.shape == v.values.shape and k.values.dtype == v.values.dtype, (k.values.shape, v.values.shape)
    assert k.values.shape[1:] == (kv_heads, PAGE, head_dim), (k.values.shape, kv_heads, head_dim)
    if k.scales is not None:
        blocks = (*k.values.shape[:3], head_dim // Q8_BLOCK)
        assert head_dim % Q8_BLOCK == 0 and k.scales.shape == v.scales.shape == blocks, (k.scales.shape, blocks)
    assert out.flags.c_contiguous, out.strides
    sizes = (len(qkv), page_table.shape[1], heads, kv_heads, head_dim, k.values.itemsize, qkv.strides[0] // 4)
    launch(attend, qkv, positions, sequences, page_table, *k, *v, out, *sizes, window, scale)
