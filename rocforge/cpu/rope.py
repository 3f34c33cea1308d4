"""Rotary position embedding, with what surrounds it: the norm of each head and the write to the cache."""

import math

import numpy as np

from rocforge.cpu.isa import (
    binary,
    f32x16,
    instruction,
    largest_of,
    load,
    load_f32,
    load_i32,
    load_scalar,
    rounded,
    shuffle,
    store,
    store_bytes,
    store_f16,
    store_f32,
    store_half,
)
from rocforge.cpu.norm import inverse_rms, scale_row
from rocforge.cpu.quantize import scale_of
from rocforge.cpu.threads import inline, kernel, launch, real, share, words
from rocforge.gguf.formats import Q8Cache

load_f64, load16, store16, store16_f16 = load_scalar("f64"), load(16, "f32"), store(16, "f32"), store_f16(16)
mul16, add16, sub16 = (binary(16, "f32", name) for name in ("fmul", "fadd", "fsub"))


def _lanes(lanes):
    """-> intrinsic(a, b) -> these lanes of the two, b's counted from 16 on."""
    return instruction(f32x16, (f32x16, f32x16), lambda b, x, y: shuffle(b, x, y, lanes))


evens, odds = _lanes(range(0, 32, 2)), _lanes(range(1, 32, 2))
# (a, b) -> a[0] b[0] a[1] b[1] ..., from lane 0 or 8 on
lower_pairs, upper_pairs = (_lanes([first + i // 2 + 16 * (i % 2) for i in range(16)]) for first in (0, 8))
f32 = np.float32
LAYOUTS = {"interleaved": 0, "half": 1}


@kernel
def rope_table_f32(args, tid, team):
    positions, inv_freq, out, T, half, scale = words(args, 6)
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        for i in range(half):
            angle = load_i32(positions + 4 * t) * load_f64(inv_freq + 8 * i)
            at = out + 4 * (2 * half * t + i)
            store_f32(at, f32(math.cos(angle) * real(scale)))
            store_f32(at + 4 * half, f32(math.sin(angle) * real(scale)))


def rope_table(positions: np.ndarray, inv_freq: np.ndarray, out: np.ndarray, *, scale: float) -> None:
    """out[t] = scale * (cos | sin)(positions[t] * inv_freq), angles in float64.

    positions int32 [T], inv_freq float64 [D/2], out float32 [T, D]: D/2 cosines, then D/2 sines.
    """
    assert inv_freq.dtype == np.float64 and out.shape == (len(positions), 2 * len(inv_freq)), (inv_freq.dtype, out.shape)
    launch(rope_table_f32, positions, inv_freq, out, len(positions), len(inv_freq), scale)


@inline
def rotate(x, table, half, layout):
    """The first 2 * half values at x, in place: pairs (2i, 2i+1) if layout is 0, (i, i+half) if 1."""
    whole = half // 16 * 16
    for i in range(0, whole, 16):
        cos, sin = load16(table + 4 * i), load16(table + 4 * (half + i))
        if layout:
            a, b = x + 4 * i, x + 4 * (i + half)
            first, second = load16(a), load16(b)
            store16(a, sub16(mul16(first, cos), mul16(second, sin)))
            store16(b, add16(mul16(second, cos), mul16(first, sin)))
        else:
            a, b = load16(x + 8 * i), load16(x + 8 * i + 64)
            first, second = evens(a, b), odds(a, b)
            a, b = sub16(mul16(first, cos), mul16(second, sin)), add16(mul16(second, cos), mul16(first, sin))
            store16(x + 8 * i, lower_pairs(a, b))
            store16(x + 8 * i + 64, upper_pairs(a, b))
    step, apart = (4, 4 * half) if layout else (8, 4)
    for i in range(whole, half):
        a, b = x + step * i, x + step * i + apart
        cos, sin = load_f32(table + 4 * i), load_f32(table + 4 * (half + i))
        first, second = load_f32(a), load_f32(b)
        store_f32(a, first * cos - second * sin)
        store_f32(b, second * cos + first * sin)


# How a head's D values at x become row number `row` of a cache at `values`, with `scales` where it has such.


@inline
def store_row_f32(x, values, scales, row, D):
    for d in range(D):
        store_f32(values + 4 * (D * row + d), load_f32(x + 4 * d))


@inline
def store_row_f16(x, values, scales, row, D):
    whole = D // 16 * 16
    for d in range(0, whole, 16):
        store16_f16(values + 2 * (D * row + d), load16(x + 4 * d))
    for d in range(whole, D):
        store_half(values + 2 * (D * row + d), load_f32(x + 4 * d))


@inline
def store_row_q8_0(x, values, scales, row, D):
    """Blocks of 32 as quantize.py makes them, the scale as a half."""
    for block in range(D // 32):
        first, second = load16(x + 128 * block), load16(x + 128 * block + 64)
        scale, inverse = scale_of(largest_of(first, second))
        to = values + D * row + 32 * block
        store_bytes(to, rounded(first, inverse))
        store_bytes(to + 16, rounded(second, inverse))
        store_half(scales + 2 * (D // 32 * row + block), scale)


@inline
def rope_store_heads(args, tid, team, store_row):
    (qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, k_scales, v_cache, v_scales,
     T, P, H, G, D, half, page, layout, eps) = words(args, 20)  # fmt: skip
    heads = H + 2 * G
    start, stop = share(T * heads, tid, team)
    for i in range(start, stop):
        t, head = i // heads, i % heads
        x = qkv + 4 * D * i
        norm = q_norm if head < H else k_norm
        if head < H + G:
            if norm:
                scale_row(x, norm, inverse_rms(x, D, real(eps)), x, D)
            rotate(x, table + 8 * half * t, half, layout)
        if head >= H:
            position = load_i32(positions + 4 * t)
            where = load_i32(page_table + 4 * (P * load_i32(sequences + 4 * t) + position // page))
            row = (where * G + (head - H) % G) * page + position % page
            if head < H + G:
                store_row(x, k_cache, k_scales, row, D)
            else:
                store_row(x, v_cache, v_scales, row, D)


STORE = {
    np.dtype(np.float32): kernel(lambda args, tid, team: rope_store_heads(args, tid, team, store_row_f32)),
    np.dtype(np.float16): kernel(lambda args, tid, team: rope_store_heads(args, tid, team, store_row_f16)),
    np.dtype(np.int8): kernel(lambda args, tid, team: rope_store_heads(args, tid, team, store_row_q8_0)),
}


def rope_store(
    qkv: np.ndarray,
    table: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    q_norm: "np.ndarray | None",
    k_norm: "np.ndarray | None",
    k_cache: "np.ndarray | Q8Cache",
    v_cache: "np.ndarray | Q8Cache",
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    layout: str,
    eps: float,
) -> None:
    """Norm and rotate q and k, write k and v to the cache (RoPE: Su et al., arXiv 2104.09864).

    qkv float32 [T, (H+2G) D], q heads, then k, then v; q is left rotated in it. table [T, rope
    dimensions] as rope_table makes it: the head's values beyond it pass unchanged. q_norm, k_norm
    float32 [D] or None: RMSNorm of each head. k_cache, v_cache [pages, G, PAGE, D] in float32 or
    float16, or a Q8Cache (D a multiple of 32): token t goes to page page_table[sequences[t], positions[t] //
    PAGE], row positions[t] % PAGE.
    """
    T, half = len(qkv), table.shape[1] // 2
    assert qkv.flags.c_contiguous and qkv.shape[1] == (heads + 2 * kv_heads) * head_dim, (qkv.shape, heads)
    caches = (*k_cache, *v_cache) if isinstance(k_cache, Q8Cache) else (k_cache, None, v_cache, None)
    sizes = (T, page_table.shape[1], heads, kv_heads, head_dim, half, caches[0].shape[2])
    launch(
        STORE[caches[0].dtype], qkv, table, positions, sequences, page_table, q_norm, k_norm, *caches,
        *sizes, LAYOUTS[layout], eps,
    )  # fmt: skip
