"""Rotary position embedding, with what surrounds it: the norm of each head and the write to the cache."""

import math

import numpy as np

from rocforge.cpu.isa import load_f32, load_i32, load_scalar, store_f32, store_half
from rocforge.cpu.norm import inverse_rms, scale_row
from rocforge.cpu.threads import inline, kernel, launch, real, share, words

load_f64 = load_scalar("f64")
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
    step, apart = (4, 4 * half) if layout else (8, 4)
    for i in range(half):
        a, b = x + step * i, x + step * i + apart
        cos, sin = load_f32(table + 4 * i), load_f32(table + 4 * (half + i))
        first, second = load_f32(a), load_f32(b)
        store_f32(a, first * cos - second * sin)
        store_f32(b, second * cos + first * sin)


@inline
def store_cache_f32(address, i, value):
    store_f32(address + 4 * i, value)


@inline
def store_cache_f16(address, i, value):
    store_half(address + 2 * i, value)


@inline
def rope_store_heads(args, tid, team, store_cache, width):
    (qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, v_cache,
     T, P, H, G, D, half, page, layout, eps) = words(args, 18)  # fmt: skip
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
            cache = k_cache if head < H + G else v_cache
            row = cache + width * D * ((where * G + (head - H) % G) * page + position % page)
            for d in range(D):
                store_cache(row, d, load_f32(x + 4 * d))


STORE = {
    np.dtype(np.float32): kernel(lambda args, tid, team: rope_store_heads(args, tid, team, store_cache_f32, 4)),
    np.dtype(np.float16): kernel(lambda args, tid, team: rope_store_heads(args, tid, team, store_cache_f16, 2)),
}


def rope_store(
    qkv: np.ndarray,
    table: np.ndarray,
    positions: np.ndarray,
    sequences: np.ndarray,
    page_table: np.ndarray,
    q_norm: "np.ndarray | None",
    k_norm: "np.ndarray | None",
    k_cache: np.ndarray,
    v_cache: np.ndarray,
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
    float16: token t goes to page page_table[sequences[t], positions[t] // PAGE], row positions[t] % PAGE.
    """
    T, half = len(qkv), table.shape[1] // 2
    assert qkv.flags.c_contiguous and qkv.shape[1] == (heads + 2 * kv_heads) * head_dim, (qkv.shape, heads)
    sizes = (T, page_table.shape[1], heads, kv_heads, head_dim, half, k_cache.shape[2])
    launch(
        STORE[k_cache.dtype], qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, v_cache,
        *sizes, LAYOUTS[layout], eps,
    )  # fmt: skip
