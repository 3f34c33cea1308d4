"""Rotary position embedding, with what surrounds it: the norm of each head and the write to the cache."""

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8_BLOCK, Q8Cache
from rocforge.kernels.early import settled, wait
from rocforge.kernels.launch import launch
from rocforge.kernels.norm import inverse_rms
from rocforge.kernels.parts import Parts, joined
from rocforge.kernels.quantize import quantize_tile
from rocforge.kernels.sizes import cdiv, next_power_of_2

LAYOUTS = ("interleaved", "half")
# Pairs of a table's row that one program makes; warps of it, and of the program that has a head.
PAIRS, TABLE_WARPS, HEAD_WARPS = 64, 2, 1


@triton.jit
def rope_table_f32(positions, inv_freq, out, half, scale, BP: tl.constexpr, EARLY: tl.constexpr):
    """Program (t, i): pairs i * BP .. of row t."""
    wait(EARLY)
    t, i = tl.program_id(0), tl.program_id(1) * BP + tl.arange(0, BP)
    angle = tl.load(positions + t).to(tl.float64) * tl.load(inv_freq + i, mask=i < half, other=0)
    at = out + t.to(tl.int64) * 2 * half + i
    tl.store(at, (tl.cos(angle) * scale).to(tl.float32), mask=i < half)
    tl.store(at + half, (tl.sin(angle) * scale).to(tl.float32), mask=i < half)


def rope_table(positions: torch.Tensor, inv_freq: torch.Tensor, out: torch.Tensor, *, scale: float) -> None:
    """out[t] = scale * (cos | sin)(positions[t] * inv_freq), angles in float64.

    positions int32 [T], inv_freq float64 [D/2], out float32 [T, D]: D/2 cosines, then D/2 sines.
    """
    T, half = len(positions), len(inv_freq)
    assert inv_freq.dtype == torch.float64 and out.shape == (T, 2 * half), (inv_freq.dtype, out.shape)
    grid = T, cdiv(half, PAIRS)
    launch(rope_table_f32, grid, positions, inv_freq, out, half, float(scale), num_warps=TABLE_WARPS, BP=PAIRS)


@triton.jit
def store_blocks(x, values, scales, D: tl.constexpr, BB: tl.constexpr):
    """The head at x, of D values, to the Q8_0 row at `values` and `scales`, of BB >= D / 32 blocks."""
    block = tl.arange(0, BB)
    d = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    q, scale = quantize_tile(tl.load(x + d, mask=d < D, other=0))
    tl.store(values + d, q.to(tl.int8), mask=d < D)
    tl.store(scales + block, scale.to(tl.float16), mask=block < D // 32)


@triton.jit
def store_pairs(to, a, b, rest, first, second, r, half, D: tl.constexpr):
    """A head as a lane has it, pairs and what is not rotated, to the D values at `to`, rounded to their type."""
    kind: tl.constexpr = to.dtype.element_ty
    tl.store(to + first, a.to(kind), mask=tl.arange(0, a.shape[0]) < half)
    tl.store(to + second, b.to(kind), mask=tl.arange(0, a.shape[0]) < half)
    tl.store(to + r, rest.to(kind), mask=r < D)


@triton.jit
def qkv_of(qkv, parts, largest, bias, t, column, mask, T, N, n_parts):
    """Values of row t of qkv [T, N], or of what parts.add would make of the parts."""
    if parts is None:
        return tl.load(qkv + t * N + column, mask=mask, other=0)
    else:
        x = joined(parts, largest, t, column, mask, T, N, n_parts)
        if bias is not None:
            x += tl.load(bias + column, mask=mask, other=0)
        return x


@triton.jit(do_not_specialize=["P", "T", "n_parts"])
def rope_store_heads(
    qkv, parts, largest, bias, table, positions, sequences, page_table, q_norm, k_norm, k_values, k_scales, v_values, v_scales,
    T, n_parts, P, H, G, half, eps, HALVES: tl.constexpr, D: tl.constexpr, PAGE: tl.constexpr, BP: tl.constexpr,
    BR: tl.constexpr, BB: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (t, h): head h of token t: of q's H, then k's G, then v's. `parts` of Parts, if qkv is still to be made of them.

    A lane has whole pairs and writes what it has read, so none waits for another; only what a cache in
    8 bits reads again of the head, in blocks of 32, lies behind a barrier.
    """
    t, head, N = tl.program_id(0).to(tl.int64), tl.program_id(1), (H + 2 * G) * D
    x = qkv + t * N + head * D
    i, r = tl.arange(0, BP), 2 * half + tl.arange(0, BR)
    row = table + t * 2 * half + i
    cos, sin = settled(row, i < half, EARLY), settled(row + half, i < half, EARLY)
    position = settled(positions + t, None, EARLY)
    is_stored = (head >= H) & (position >= 0)
    page = 0
    if is_stored:
        sequence = settled(sequences + t, None, EARLY)
        page = settled(page_table + sequence * P + position // PAGE, None, EARLY)
    wait(EARLY)
    if HALVES:
        first, second = i, i + half
    else:
        first, second = 2 * i, 2 * i + 1
    a = qkv_of(qkv, parts, largest, bias, t, head * D + first, i < half, T, N, n_parts)
    b = qkv_of(qkv, parts, largest, bias, t, head * D + second, i < half, T, N, n_parts)
    rest = qkv_of(qkv, parts, largest, bias, t, head * D + r, r < D, T, N, n_parts)
    if head < H + G:
        if q_norm is not None:
            is_q = head < H
            inverse = inverse_rms(tl.sum(a * a, 0) + tl.sum(b * b, 0) + tl.sum(rest * rest, 0), D, eps)
            a *= inverse * norm_weight(q_norm, k_norm, is_q, first, i < half)
            b *= inverse * norm_weight(q_norm, k_norm, is_q, second, i < half)
            rest *= inverse * norm_weight(q_norm, k_norm, is_q, r, r < D)
        rotated = a * cos - b * sin
        b = b * cos + a * sin
        a = rotated
        store_pairs(x, a, b, rest, first, second, r, half, D)
    elif parts is not None and k_scales is not None:
        store_pairs(x, a, b, rest, first, second, r, half, D)
    if is_stored:
        at = (page.to(tl.int64) * G + (head - H) % G) * PAGE + position % PAGE
        if k_scales is not None:
            tl.debug_barrier()
            if head < H + G:
                store_blocks(x, k_values + at * D, k_scales + at * (D // 32), D, BB)
            else:
                store_blocks(x, v_values + at * D, v_scales + at * (D // 32), D, BB)
        elif head < H + G:
            store_pairs(k_values + at * D, a, b, rest, first, second, r, half, D)
        else:
            store_pairs(v_values + at * D, a, b, rest, first, second, r, half, D)


@triton.jit
def norm_weight(q_norm, k_norm, is_q, at, mask):
    """The weights of q's norm or of k's."""
    return tl.where(is_q, tl.load(q_norm + at, mask=mask, other=0), tl.load(k_norm + at, mask=mask, other=0))


@triton.jit
def angles_of(row, d, HALF: tl.constexpr, HALVES: tl.constexpr, EARLY: tl.constexpr):
    """(the other of its pair, cos, sin) of each value d [BD] of a head, by the row of the table: as in

        rotated[d] = cos * x[d] + sin * x[other]

    Values beyond the table's stay as they are.
    """
    is_turned = d < 2 * HALF
    if HALVES:
        is_first, pair, other = d < HALF, d % HALF, tl.where(d < HALF, d + HALF, d - HALF)
    else:
        is_first, pair, other = d % 2 == 0, d // 2, d ^ 1
    cos = tl.where(is_turned, settled(row + pair, is_turned, EARLY), 1.0)
    sin = settled(row + HALF + pair, is_turned, EARLY)
    return tl.where(is_turned, other, d), cos, tl.where(is_first, -sin, sin)


@triton.jit
def turned(at, d, mask, angles, norm, eps, D: tl.constexpr):
    """Rows of D values, those d [BD] of the heads that begin at `at` [R, 1], normed if there is a norm, and rotated: [R, BD]."""
    other, cos, sin = angles
    x = tl.load(at + d[None, :], mask=mask, other=0)
    y = tl.load(at + other[None, :], mask=mask, other=0)
    if norm is not None:
        inverse = inverse_rms(tl.sum(x * x, 1), D, eps)[:, None]
        x *= inverse * tl.load(norm + d, mask=d < D, other=0)[None, :]
        y *= inverse * tl.load(norm + other, mask=d < D, other=0)[None, :]
    return x * cos[None, :] + y * sin[None, :]


def rope_store(
    qkv: torch.Tensor,
    table: torch.Tensor,
    positions: torch.Tensor,
    sequences: torch.Tensor,
    page_table: torch.Tensor,
    q_norm: "torch.Tensor | None",
    k_norm: "torch.Tensor | None",
    k_cache: "torch.Tensor | Q8Cache",
    v_cache: "torch.Tensor | Q8Cache",
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
    float32 [D] or both None: RMSNorm of each head. k_cache, v_cache [pages, G, PAGE, D] in float32 or
    float16, or a Q8Cache: token t goes to page page_table[sequences[t], positions[t] // PAGE], row
    positions[t] % PAGE; one whose position is below 0 is not stored.
    """
    heads_of = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
    store(None, None, qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, v_cache, **heads_of, layout=layout, eps=eps)


def store(
    parts: Parts | None, bias: "torch.Tensor | None", qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, v_cache,
    *, heads: int, kv_heads: int, head_dim: int, layout: str, eps: float,
) -> None:  # fmt: skip
    """rope_store(); with `parts` of a qkv that is still to be made: it is the product whose parts they are + bias float32
    [(H+2G) D] or None. Of its v no more is written than the cache's."""
    T, half, D = len(qkv), table.shape[1] // 2, head_dim
    assert qkv.is_contiguous() and qkv.shape[1] == (heads + 2 * kv_heads) * D, (qkv.shape, heads)
    assert (q_norm is None) == (k_norm is None), "a norm for q and none for k, or the other way round"
    caches = (*k_cache, *v_cache) if isinstance(k_cache, Q8Cache) else (k_cache, None, v_cache, None)
    launch(
        rope_store_heads, (T, heads + 2 * kv_heads), qkv, *(parts or (None, None)), bias, table, positions, sequences, page_table,
        q_norm, k_norm, *caches, T, len(parts.sums) if parts else 0, page_table.shape[1], heads, kv_heads, half, float(eps),
        num_warps=HEAD_WARPS, HALVES=LAYOUTS.index(layout) == 1, D=D, PAGE=caches[0].shape[2], BP=next_power_of_2(half),
        BR=next_power_of_2(max(1, D - 2 * half)), BB=next_power_of_2(max(1, D // Q8_BLOCK)),
    )  # fmt: skip
