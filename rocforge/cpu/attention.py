"""Attention over a paged KV cache, with online softmax. A score is never stored beyond its page."""

import numpy as np

from rocforge.cpu.isa import (
    binary,
    exp16,
    first_lane,
    fma,
    heap,
    heap_free,
    largest_lane,
    load,
    load_f16,
    load_f32,
    load_half,
    load_i32,
    splat,
    stack,
    store,
    store_f32,
    sum_f32,
    zero,
)
from rocforge.cpu.threads import inline, kernel, launch, real, words

load16, load16h, store16 = load(16, "f32"), load_f16(16), store(16, "f32")
zero16, splat16, fma16, fold16 = zero(16, "f32"), splat(16, "f32"), fma(16), sum_f32(16)
mul16, sub16 = binary(16, "f32", "fmul"), binary(16, "f32", "fsub")
f32 = np.float32

MAX_PAGE = 64
_scores = stack(4 * MAX_PAGE)
# Below any score: its exponential is 0.
NEVER = f32(-1e30)


@inline
def dot(q, k, D, load_16, load_one, width):
    """16 interleaved partial sums, folded, then the rest in order."""
    partial, whole = zero16(), D // 16 * 16
    for d in range(0, whole, 16):
        partial = fma16(load16(q + 4 * d), load_16(k + width * d), partial)
    total = fold16(partial)
    for d in range(whole, D):
        total += load_f32(q + 4 * d) * load_one(k + width * d)
    return total


@inline
def attend_page(q, k, v, first, last, page, D, scale, scores, state, acc, load_16, load_one, width):
    """One head, rows first..last of one page: new maximum, rescale what there is, add p V.

    `state` holds the running maximum and the running sum of exponentials.
    """
    for j in range(page):
        inside = first <= j <= last
        store_f32(scores + 4 * j, scale * dot(q, k + width * D * j, D, load_16, load_one, width) if inside else NEVER)
    old = load_f32(state)
    new = old
    for j in range(0, page, 16):
        new = max(new, largest_lane(load16(scores + 4 * j)))
    shrink = exp16(splat16(old - new))
    total = load_f32(state + 4) * first_lane(shrink)
    for j in range(0, page, 16):
        p = exp16(sub16(load16(scores + 4 * j), splat16(new)))
        store16(scores + 4 * j, p)
        total += fold16(p)
    store_f32(state, new)
    store_f32(state + 4, total)
    whole = D // 16 * 16
    for d in range(0, whole, 16):
        sum16 = mul16(load16(acc + 4 * d), shrink)
        for j in range(first, last + 1):
            sum16 = fma16(splat16(load_f32(scores + 4 * j)), load_16(v + width * (D * j + d)), sum16)
        store16(acc + 4 * d, sum16)
    for d in range(whole, D):
        one = load_f32(acc + 4 * d) * first_lane(shrink)
        for j in range(first, last + 1):
            one += load_f32(scores + 4 * j) * load_one(v + width * (D * j + d))
        store_f32(acc + 4 * d, one)


@inline
def attend(args, tid, team, load_16, load_one, width):
    (qkv, positions, sequences, page_table, k_cache, v_cache, out,
     T, P, H, G, D, page, stride, window, scale) = words(args, 16)  # fmt: skip
    group = H // G
    scores = _scores()
    acc = heap(4 * group * (D + 2))
    states = acc + 4 * group * D
    # A token and a kv-head at a time, dealt out in turn: later tokens see more, so each thread gets its share of them.
    for i in range(tid, T * G, team):
        t, g = i // G, i % G
        position = load_i32(positions + 4 * t)
        pages = page_table + 4 * P * load_i32(sequences + 4 * t)
        begin = max(0, position - window + 1) if window else 0
        for h in range(group):
            store_f32(states + 8 * h, NEVER)
            store_f32(states + 8 * h + 4, f32(0))
            for d in range(D):
                store_f32(acc + 4 * (D * h + d), f32(0))
        for p in range(begin // page, position // page + 1):
            at = width * D * page * (load_i32(pages + 4 * p) * G + g)
            first, last = max(begin - p * page, 0), min(position - p * page, page - 1)
            for h in range(group):
                q = qkv + 4 * (stride * t + D * (g * group + h))
                state, sums = states + 8 * h, acc + 4 * D * h
                attend_page(
                    q, k_cache + at, v_cache + at, first, last, page, D, real(scale), scores, state, sums,
                    load_16, load_one, width,
                )  # fmt: skip
        for h in range(group):
            for d in range(D):
                value = load_f32(acc + 4 * (D * h + d)) / load_f32(states + 8 * h + 4)
                store_f32(out + 4 * (D * (H * t + g * group + h) + d), value)
    heap_free(acc)


ATTEND = {
    np.dtype(np.float32): kernel(lambda args, tid, team: attend(args, tid, team, load16, load_f32, 4)),
    np.dtype(np.float16): kernel(lambda args, tid, team: attend(args, tid, team, load16h, load_half, 2)),
}


def attention(
    qkv: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    k_cache: np.ndarray,
    v_cache: np.ndarray,
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
    columns of qkv; k_cache, v_cache [pages, G, PAGE, D] in float32 or float16; out float32 [T, H*D].
    Pages ascend and each is folded in by the online softmax (Milakov and Gimelshein, arXiv
    1805.02867), so the bits for a token depend on nothing else in the step.
    """
    page = k_cache.shape[2]
    assert page <= MAX_PAGE and page % 16 == 0 and out.flags.c_contiguous, (page, out.strides)
    sizes = (len(qkv), page_table.shape[1], heads, kv_heads, head_dim, page, qkv.strides[0] // 4)
    launch(
        ATTEND[k_cache.dtype], qkv, positions, sequences, page_table, k_cache, v_cache, out, *sizes, window, scale
    )
