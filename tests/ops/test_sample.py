"""The draw: for a random number the very id that the exact cumulated distribution gives."""

import numpy as np
import pytest

from rocforge.cpu.sample import sample
from tests.reference import sample_distribution


def expected_ids(logits, uniform, **parameters):
    """By the whole distribution, sorted whole."""
    chance = sample_distribution(logits, **parameters)
    order = np.lexsort((np.arange(len(logits)), -np.where(np.isnan(logits), -np.inf, logits)))
    order = order[chance[order] > 0]
    return order[np.minimum(np.searchsorted(np.cumsum(chance[order]), uniform, side="right"), len(order) - 1)]


def drawn_ids(logits, uniform, temperature, top_k, top_p, min_p):
    n = len(uniform)
    out = np.empty(n, np.int32)
    rows = np.tile(logits, (n, 1))
    sample(rows, *(np.full(n, p) for p in (temperature, top_k, top_p, min_p)), uniform, out)
    return out


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 10_000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
@pytest.mark.parametrize("ties", [False, True])
def test_each_draw_is_exact(top_k, top_p, min_p, ties):
    rng = np.random.default_rng(top_k)
    for n, width, temperature in [(3, 1, 0.5), (300, 3, 0.8), (5000, 1, 1.3), (5000, 6, 1.0)]:
        logits = (rng.standard_normal(n) * width).astype(np.float32)
        logits = np.round(logits) if ties else logits
        parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        uniform = np.concatenate([rng.random(30), [0.0, 1 - 2**-53]])
        # Sums in another order differ in the last bits: a number that falls into that gap may go either way.
        got, want = drawn_ids(logits, uniform, **parameters), expected_ids(logits, uniform, **parameters)
        np.testing.assert_array_equal(got[:-1], want[:-1])


def test_greedy_takes_the_first_largest_number():
    logits = np.array([[1, 5, 5, np.nan], [np.nan, np.nan, 2, 1], [np.nan] * 4], np.float32)
    out = np.empty(3, np.int32)
    off = np.zeros(3)
    sample(logits, off, off.astype(int), off + 1, off, off, out)
    assert out.tolist() == [1, 2, 0]


@pytest.mark.parametrize(("logits", "drawn"), [([0, np.inf, 1, np.inf], 1), ([-np.inf] * 3, 0), ([np.nan] * 3, 0)])
def test_rows_without_a_distribution_give_their_first_largest(logits, drawn):
    assert set(drawn_ids(np.array(logits, np.float32), np.linspace(0, 0.99, 5), 1.0, 0, 0.9, 0.1)) == {drawn}


def test_what_is_no_number_is_never_drawn():
    logits = np.array([0, np.nan, -np.inf, 0], np.float32)
    assert set(drawn_ids(logits, np.linspace(0, 0.999, 50), 1.0, 0, 1.0, 0.0)) == {0, 3}
