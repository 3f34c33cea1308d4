"""RoPE, head norm and the write to the cache, against float64."""

import numpy as np
import pytest

from rocforge.gguf.formats import Q8Cache
from rocforge.plan.ir import PAGE
from tests import reference


def test_the_table_is_right_far_out(room):
    inv_freq = 1e4 ** (-np.arange(0, 64, 2) / 64)
    positions = np.array([0, 1, 7, 511, 4095, 131_071, 1_000_000], np.int32)
    out = np.empty((7, 64), np.float32)
    room.rope_table(positions, inv_freq, out, scale=1.25)
    # float64 angles on both sides: what is left is the rounding to float32 (half an ulp of 1.25, and
    # of the scale, which is exact here) and the last bit of either library's cosine.
    np.testing.assert_allclose(out, reference.rope_table(positions, inv_freq, 1.25), atol=2**-23)


CASES = [
    # H, G, D, rotated, layout, norms, cache
    (4, 2, 32, 32, "interleaved", False, np.float32),
    (4, 4, 64, 64, "half", True, np.float32),
    (6, 2, 20, 8, "half", True, np.float16),
    (3, 1, 16, 12, "interleaved", False, np.float16),
]


@pytest.mark.parametrize(("H", "G", "D", "rotated", "layout", "norms", "dtype"), CASES)
def test_against_float64(room, H, G, D, rotated, layout, norms, dtype):
    rng = np.random.default_rng(H)
    T, eps = 9, 1e-6
    qkv = rng.standard_normal((T, (H + 2 * G) * D)).astype(np.float32)
    positions = np.array([0, 1, 2, 31, 32, 33, 95, 64, 5], np.int32)
    sequences = np.array([0, 0, 0, 1, 1, 1, 1, 0, 1], np.int32)
    page_table = np.array([[3, 7, 1], [5, 0, 2]], np.int32)
    table = reference.rope_table(positions, 1e4 ** (-np.arange(0, rotated, 2) / rotated), 1.0)
    q_norm, k_norm = ((1 + rng.standard_normal(D) / 4).astype(np.float32) for _ in range(2)) if norms else (None, None)
    caches = [np.full((8, G, PAGE, D), 9, dtype) for _ in range(2)]
    heads = {"heads": H, "kv_heads": G, "head_dim": D, "layout": layout, "eps": eps}

    expected_qkv = qkv.astype(np.float64)
    expected = [np.full((8, G, PAGE, D), 9.0) for _ in range(2)]
    reference.rope_store(expected_qkv, table, positions, sequences, page_table, q_norm, k_norm, *expected, **heads)
    room.rope_store(qkv, table.astype(np.float32), positions, sequences, page_table, q_norm, k_norm, *caches, **heads)

    # A rotation is two products and a sum of values around 3, and the table is rounded: 4 half-ulps
    # of their size; the norm adds as many again.
    atol = 16 * 2**-24 * np.abs(expected_qkv).max()
    np.testing.assert_allclose(qkv[:, : H * D], expected_qkv[:, : H * D], atol=atol)
    for cache, want in zip(caches, expected, strict=True):
        half_ulp = 2**-11 if dtype == np.float16 else 2**-24
        np.testing.assert_allclose(cache.astype(np.float64), want, rtol=half_ulp, atol=atol)
        untouched = want == 9.0
        assert np.all(cache[untouched] == 9)


def test_halves_are_rounded_to_nearest_even(room):
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65_519.0, 65_520.0, 2**-25, 2**-25 * 1.01, -0.0, 1e-8], np.float32)
    qkv = np.concatenate([np.zeros(16, np.float32), values])[None].astype(np.float32)
    table = np.array([[1, 1, 1, 1, 0, 0, 0, 0]], np.float32)
    zero, cache = np.zeros(1, np.int32), np.zeros((2, 1, 1, PAGE, 8), np.float16)
    heads = {"heads": 1, "kv_heads": 1, "head_dim": 8, "layout": "half", "eps": 0.0}
    room.rope_store(qkv, table, zero, zero, np.zeros((1, 1), np.int32), None, None, cache[0], cache[1], **heads)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(cache[1, 0, 0, 0], values.astype(np.float16))


@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_cache_in_8_bits(room, layout):
    """GGUF's Q8_0 of what the other cache holds: to half a step, and the bits that the formula gives."""
    rng = np.random.default_rng(5)
    T, H, G, D = 5, 2, 2, 64
    qkv = rng.standard_normal((T, (H + 2 * G) * D)).astype(np.float32)
    positions, sequences = np.array([0, 31, 32, 40, 3], np.int32), np.array([0, 0, 0, 1, 1], np.int32)
    page_table = np.array([[3, 1], [2, 0]], np.int32)
    table = reference.rope_table(positions, 1e4 ** (-np.arange(0, D, 2) / D), 1.0).astype(np.float32)
    heads = {"heads": H, "kv_heads": G, "head_dim": D, "layout": layout, "eps": 1e-6}
    plain = [np.zeros((4, G, PAGE, D), np.float32) for _ in range(2)]
    room.rope_store(qkv.copy(), table, positions, sequences, page_table, None, None, *plain, **heads)
    empty = lambda: Q8Cache(np.full((4, G, PAGE, D), -128, np.int8), np.full((4, G, PAGE, D // 32), 9, np.float16))
    caches = [empty(), empty()]
    room.rope_store(qkv.copy(), table, positions, sequences, page_table, None, None, *caches, **heads)
    for cache, x in zip(caches, plain, strict=True):
        stored = np.zeros((4, G, PAGE), bool)
        stored[page_table[sequences, positions // PAGE], :, positions % PAGE] = True
        blocks = x[stored].reshape(-1, 32)
        values, scales, _ = reference.quantize(blocks)
        np.testing.assert_array_equal(cache.values[stored].reshape(-1, 32), values)
        np.testing.assert_array_equal(cache.scales[stored].reshape(-1), scales[:, 0].astype(np.float16))
        assert (cache.values[~stored] == -128).all() and (cache.scales[~stored] == 9).all()


def test_padding_is_not_stored(room):
    """A token at position -1 fills a step up: the caches stay as they are."""
    if room.name == "cpu":
        pytest.skip("the CPU runs steps of any size: it pads nothing")
    qkv, zero = np.ones((2, 3 * 32), np.float32), np.zeros(2, np.int32)
    caches = [np.full((1, 1, PAGE, 32), 7, np.float16) for _ in range(2)]
    heads = {"heads": 1, "kv_heads": 1, "head_dim": 32, "layout": "half", "eps": 0.0}
    table = np.ones((2, 32), np.float32)
    room.rope_store(qkv, table, np.array([2, -1], np.int32), zero, np.zeros((1, 1), np.int32), None, None, *caches, **heads)
    for cache in caches:
        assert (cache[0, 0, 2] != 7).any() and (np.delete(cache[0, 0], 2, 0) == 7).all()
