"""Paged attention against float64: pages anywhere, sequences of any length in one step."""

import numpy as np
import pytest

from rocforge.cpu.attention import attention
from rocforge.cpu.threads import Team, use
from rocforge.plan.ir import PAGE
from tests import reference


def step(H, G, D, lengths, new, dtype, seed=0):
    """A step of the last `new` tokens of sequences of these lengths, over a cache of scattered pages."""
    rng = np.random.default_rng(seed)
    per = -(-max(lengths) // PAGE)
    order = rng.permutation(per * len(lengths) + 3)
    page_table = order[: per * len(lengths)].reshape(len(lengths), per).astype(np.int32)
    # What no sequence has written is no number: a result that depends on it would show.
    k, v = (np.full((len(order), G, PAGE, D), np.nan, dtype) for _ in range(2))
    for s, length in enumerate(lengths):
        for p in range(length):
            k[page_table[s, p // PAGE], :, p % PAGE] = rng.standard_normal((G, D))
            v[page_table[s, p // PAGE], :, p % PAGE] = rng.standard_normal((G, D))
    positions = np.concatenate([np.arange(n - min(new, n), n) for n in lengths]).astype(np.int32)
    sequences = np.concatenate([np.full(min(new, n), s) for s, n in enumerate(lengths)]).astype(np.int32)
    qkv = rng.standard_normal((len(positions), (H + 2 * G) * D)).astype(np.float32)
    return qkv, positions, sequences, page_table, k, v


CASES = [
    # H, G, D, lengths, new, window
    (4, 2, 64, [1], 1, 0),
    (4, 2, 64, [100, 33, 32, 31], 1, 0),
    (8, 1, 32, [70, 5], 40, 0),
    (2, 2, 128, [97], 97, 0),
    (3, 3, 80, [50, 64], 9, 0),
    (4, 2, 20, [40], 40, 0),
    (2, 1, 8, [37], 37, 0),
    (4, 2, 64, [150, 20], 30, 17),
    (4, 2, 32, [90], 90, 32),
    (2, 2, 16, [40], 40, 1),
    (14, 2, 64, [70, 1], 33, 0),  # groups of 7, as Qwen2's
    (1, 1, 64, [200], 150, 0),  # more tokens than share a page
    (3, 1, 33, [45], 20, 0),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("H", "G", "D", "lengths", "new", "window"), CASES)
def test_against_float64(H, G, D, lengths, new, window, dtype):
    arrays = step(H, G, D, lengths, new, dtype)
    attrs = {"heads": H, "kv_heads": G, "head_dim": D, "scale": D**-0.5, "window": window}
    out = np.empty((len(arrays[0]), H * D), np.float32)
    attention(*arrays, out, **attrs)
    expected = reference.attention(arrays[0].astype(np.float64), *arrays[1:], **attrs)
    # A score is a sum of D products of size one over sqrt(D): off by some ulps of its size, below 8;
    # its exponential by that much relatively, and each page rescales once. Weights sum to one over
    # values below 5: 64 half-ulps of 5 leave a factor of three to what is seen.
    np.testing.assert_allclose(out, expected, atol=64 * 5 * 2**-24)


def test_large_scores_do_not_overflow():
    qkv, *rest = step(2, 1, 32, [80], 80, np.float32)
    qkv = qkv * 200
    attrs = {"heads": 2, "kv_heads": 1, "head_dim": 32, "scale": 1.0, "window": 0}
    out = np.empty((80, 64), np.float32)
    attention(qkv, *rest, out, **attrs)
    expected = reference.attention(qkv.astype(np.float64), *rest, **attrs)
    # Scores near 3,000 are off by 3,000 * 2^-23, and weights by that relatively.
    np.testing.assert_allclose(out, expected, atol=5 * 3000 * 2**-22)


def test_what_is_no_number_is_not_hidden():
    qkv, *rest = step(1, 1, 16, [40], 40, np.float32)
    qkv[35, 0] = np.nan
    out = np.empty((40, 16), np.float32)
    attention(qkv, *rest, out, heads=1, kv_heads=1, head_dim=16, scale=0.25, window=0)
    assert np.flatnonzero(np.isnan(out).any(axis=1)).tolist() == [35]


@pytest.mark.parametrize("threads", [2, 3, 5, 9])
def test_bits_do_not_depend_on_how_heads_are_shared_out(threads):
    """One token: there are fewer kv-heads than threads, so a group's heads are divided."""
    arrays = step(7, 1, 64, [75], 1, np.float16)
    attrs = {"heads": 7, "kv_heads": 1, "head_dim": 64, "scale": 0.125, "window": 0}
    shared, alone = np.empty((1, 7 * 64), np.float32), np.empty((1, 7 * 64), np.float32)
    team = Team(threads)
    with use(team):
        attention(*arrays, shared, **attrs)
    team.close()
    attention(*arrays, alone, **attrs)
    np.testing.assert_array_equal(shared, alone)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 40])
def test_bits_depend_on_nothing_else_in_the_step(threads, window):
    qkv, positions, sequences, *cache = step(5, 1, 48, [90, 61], 50, np.float16)
    attrs = {"heads": 5, "kv_heads": 1, "head_dim": 48, "scale": 0.2, "window": window}
    together, alone = (np.empty((len(qkv), 5 * 48), np.float32) for _ in range(2))
    team = Team(threads)
    with use(team):
        attention(qkv, positions, sequences, *cache, together, **attrs)
    team.close()
    for t in range(len(qkv)):
        one = slice(t, t + 1)
        attention(qkv[one], positions[one], sequences[one], *cache, alone[one], **attrs)
    np.testing.assert_array_equal(together, alone)
