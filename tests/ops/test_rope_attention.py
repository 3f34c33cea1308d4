"""RoPE, the write to the cache and attention by one call, against float64: one token by one kernel, several by two.

One token is by two as well where launches begin early: on NVIDIA GPUs from Hopper on. Triton's interpreter is no such.
"""

import numpy as np
import pytest

from rocforge.gguf.formats import Q8Cache
from rocforge.plan.ir import PAGE
from tests import reference
from tests.ops.arrays import q8
from tests.ops.test_attention import FLOAT_BOUND, H11, ROUNDED, U, attrs, floats, of_products, step

EPS = 1e-6

CASES = [
    # H, G, D, rotated, layout, norms, length, new, window, kind
    (4, 2, 64, 64, "half", True, 70, 1, 0, "f16"),
    (8, 2, 32, 32, "interleaved", False, 33, 1, 0, "f16"),
    (2, 1, 64, 32, "interleaved", True, 1, 1, 0, "f16"),
    (2, 2, 80, 80, "half", False, 65, 1, 20, "f16"),
    (4, 1, 128, 128, "half", True, 64, 1, 0, "q8"),
    (2, 1, 96, 48, "interleaved", False, 50, 1, 17, "q8"),
    (2, 1, 64, 64, "half", False, 40, 1, 0, "f32"),
    (3, 1, 20, 8, "half", True, 40, 1, 0, "f16"),
    (4, 2, 64, 64, "half", True, 70, 9, 0, "f16"),
]


def parts(H, G, D, rotated, layout, norms, length, new, window, kind):
    """(arguments of the op but for out, its attributes): caches are without the rows of the `new` tokens."""
    qkv, positions, sequences, page_table, k, v = step(H, G, D, [5, length], new, kind, seed=H + D)
    own = sequences == 1
    qkv, positions, sequences = qkv[own], positions[own], sequences[own]
    for cache in (k, v):
        at = page_table[1, positions // PAGE], slice(None), positions % PAGE
        if kind == "q8":
            cache.scales[at], cache.values[at] = np.nan, 77
        else:
            cache[at] = np.nan
    rng = np.random.default_rng(0)
    table = reference.rope_table(positions, 1e4 ** (-np.arange(0, rotated, 2) / rotated), 1.0)
    norm = [(1 + rng.standard_normal(D) / 4).astype(np.float32) if norms else None for _ in range(2)]
    return (qkv, table, positions, sequences, page_table, *norm, k, v), {**attrs(H, G, D, window), "layout": layout, "eps": EPS}


def copied(value):
    if isinstance(value, Q8Cache):
        return Q8Cache(*(part.copy() for part in value))
    return value.copy() if isinstance(value, np.ndarray) else value


def run(room, given, attributes, in_8_bits=False):
    """(out, the caches)"""
    qkv, table, positions, sequences, page_table, q_norm, k_norm, *caches = map(copied, given)
    columns = attributes["heads"] * attributes["head_dim"]
    out = q8(len(qkv), columns) if in_8_bits else np.full((len(qkv), columns), np.nan, np.float32)
    both = {"qkv": qkv, "positions": positions, "sequences": sequences, "page_table": page_table}
    both |= dict(zip(("k_cache", "v_cache"), caches)) | {name: attributes[name] for name in ("heads", "kv_heads", "head_dim")}
    turn = {"table": table.astype(np.float32), "q_norm": q_norm, "k_norm": k_norm, **{name: attributes[name] for name in ("layout", "eps")}}
    scaled = {"out": out, **{name: attributes[name] for name in ("scale", "window")}}
    names = room.launch_all([("rope_store", {**both, **turn}), ("attention", {**both, **scaled})])
    if room.is_slow:  # Triton's interpreter
        is_plain = isinstance(caches[0], np.ndarray) and caches[0].dtype == np.float32
        assert ("rope_store_heads" in names) == (len(qkv) > 1 or is_plain or attributes["head_dim"] % 8 > 0)
    return out, caches


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_against_float64(room, case):
    given, attributes = parts(*case)
    qkv, table, positions, sequences, page_table, q_norm, k_norm, k, v = given
    out, stored = run(room, given, attributes)

    turned = qkv.astype(np.float64)
    exact = [floats(cache) for cache in (k, v)]
    heads = {name: attributes[name] for name in ("heads", "kv_heads", "head_dim", "layout", "eps")}
    reference.rope_store(turned, table, positions, sequences, page_table, q_norm, k_norm, *exact, **heads)
    # Rotated and normed in float32, as in test_rope.py; then rounded to the cache's type.
    kind, D = case[-1], attributes["head_dim"]
    atol = 16 * U * np.abs(turned).max() * (1 if q_norm is None else D / 8)
    for cache, want, before in zip(stored, exact, (k, v), strict=True):
        got, is_new = floats(cache), np.isnan(floats(before)) & ~np.isnan(want)
        amax = np.repeat(np.abs(want.reshape(*want.shape[:3], -1, 32)).max(-1), 32, -1) if kind == "q8" else 0
        half_ulp = {"f32": U, "f16": H11, "q8": 0}[kind]
        # In 8 bits half a step, and what the scale's rounding to a half moves all 127 of them.
        allowed = atol + half_ulp * np.abs(want) + amax * (0.5 / 127 + H11)
        assert (np.abs(got - want) <= allowed)[is_new].all()
        assert is_new.sum() == len(qkv) * attributes["kv_heads"] * D
        assert np.array_equal(got[~is_new], floats(before)[~is_new], equal_nan=True)

    # By what is stored. Queries and keys are off by 8 U of their size at the most, as is said above.
    arrays = turned, positions, sequences, page_table, *stored
    scaled = {name: value for name, value in attributes.items() if name not in ("layout", "eps")}
    expected = reference.attention(turned, positions, sequences, page_table, *map(floats, stored), **scaled)
    rounded = 0 if room.name == "cpu" else ROUNDED[kind]
    bound = FLOAT_BOUND + of_products(arrays, scaled, rounded + 8 * U / H11)
    ratio = np.abs(out - expected) / bound
    assert (ratio <= 1).all(), ratio.max()


def test_in_8_bits_it_is_the_same_but_for_rounding(room):
    given, attributes = parts(*CASES[0])
    plain, _ = run(room, given, attributes)
    rounded, _ = run(room, given, attributes, in_8_bits=True)
    values, scales, sums = reference.quantize(plain)
    # The same float32 values, by the same rules; a value that lies at a half may go either way.
    assert np.abs(rounded.values.astype(int) - values).max() <= 1
    np.testing.assert_allclose(rounded.scales, scales.reshape(rounded.scales.shape), rtol=4 * U)
    assert np.array_equal(rounded.sums, rounded.values.reshape(len(plain), -1, 16).sum(-1))
