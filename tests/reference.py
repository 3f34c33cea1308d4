"""The float64 oracle: each op as its contract in plan/ir.py says it, with the same keywords. Slow and plain.

Shares no code with the kernels. What an op updates in place is updated in the arrays given.
"""

import numpy as np


def embed(tokens, table):
    return table[tokens]


def quantize(x):
    """-> (values, scales, sums) of x [T, K] as formats.Q8 has them, computed in float32 as the contract says."""
    blocks = np.asarray(x, np.float32).reshape(len(x), -1, 32)
    largest = np.abs(blocks).max(-1)
    largest[largest < 2.0**-120] = 0
    with np.errstate(divide="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0)).astype(np.float32)
    values = np.rint(blocks * inverse[..., None]).astype(np.int8)
    sums = values.reshape(len(x), -1, 16).sum(-1, dtype=np.int16)
    return values.reshape(x.shape), largest / np.float32(127), sums


def dequantize(values, scales):
    """float64 [T, K] of 8-bit activations."""
    return values * np.repeat(scales.astype(np.float64), 32, axis=1)


def linear(x, weights, bias=None, residual=None):
    """x [T, K] float64, weights a list of [N, K]."""
    out = x @ np.concatenate(weights).T
    out = out if bias is None else out + bias
    return out if residual is None else out + residual


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def rope_table(positions, inv_freq, scale):
    angle = np.outer(positions, inv_freq)
    return scale * np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def rotate(head, table, layout):
    """One head [D], rotated by one row of the table."""
    out, half = head.copy(), len(table) // 2
    for i in range(half):
        a, b = (2 * i, 2 * i + 1) if layout == "interleaved" else (i, i + half)
        pair = complex(head[a], head[b]) * complex(table[i], table[half + i])
        out[a], out[b] = pair.real, pair.imag
    return out


def rope_store(
    qkv, table, positions, sequences, page_table, q_norm, k_norm, k_cache, v_cache, heads, kv_heads, head_dim, layout, eps
):
    for t, row in enumerate(qkv.reshape(len(qkv), heads + 2 * kv_heads, head_dim)):
        page, at = divmod(int(positions[t]), k_cache.shape[2])
        page = page_table[sequences[t], page]
        for h in range(heads + kv_heads):
            norm = q_norm if h < heads else k_norm
            head = row[h] if norm is None else rms_norm(row[h], norm, eps)
            row[h] = rotate(head, table[t], layout)
        k_cache[page, :, at] = row[heads : heads + kv_heads]
        v_cache[page, :, at] = row[heads + kv_heads :]


def attention(
    qkv, positions, sequences, page_table, k_cache, v_cache, heads, kv_heads, head_dim, scale, window
):
    out = np.empty((len(qkv), heads, head_dim))
    page = k_cache.shape[2]
    for t in range(len(qkv)):
        p = int(positions[t])
        seen = np.arange(max(0, p - window + 1) if window else 0, p + 1)
        pages = page_table[sequences[t], seen // page]
        for h in range(heads):
            g = h // (heads // kv_heads)
            q = qkv[t, h * head_dim : (h + 1) * head_dim]
            score = scale * (k_cache[pages, g, seen % page].astype(np.float64) @ q)
            weight = np.exp(score - score.max())
            out[t, h] = weight / weight.sum() @ v_cache[pages, g, seen % page].astype(np.float64)
    return out.reshape(len(qkv), -1)


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(gate_up):
    gate, up = np.split(gate_up, 2, axis=1)
    return silu(gate) * up


def gather(x, rows):
    return x[rows]


def sample_distribution(logits, temperature, top_k=0, top_p=1.0, min_p=0.0):
    """float64 [V]: the chance of each id; temperature 0 is all on the first largest.

    llama.cpp's default order: top-k, top-p over the softmax of what is left, min-p, then temperature.
    """
    logits = np.where(np.isnan(logits), -np.inf, np.asarray(logits, np.float64))
    order = np.lexsort((np.arange(len(logits)), -logits))
    out = np.zeros(len(logits))
    if temperature == 0:
        out[order[0]] = 1
        return out
    kept = order[:top_k] if top_k else order
    mass = np.exp(logits[kept] - logits[kept[0]])
    mass /= mass.sum()
    if top_p < 1:
        n = int(np.searchsorted(np.cumsum(mass), top_p)) + 1
        kept, mass = kept[:n], mass[:n]
    kept = kept[mass >= min_p * mass[0]]
    tempered = np.exp((logits[kept] - logits[kept[0]]) / temperature)
    out[kept] = tempered / tempered.sum()
    return out
