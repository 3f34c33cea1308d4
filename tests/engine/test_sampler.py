"""What is drawn: the distribution that the parameters say, and penalties as a plain count gives them."""

import math
from collections import Counter

import numpy as np
import pytest

from rocforge.cpu.backend import Backend
from rocforge.engine.request import Sampling
from rocforge.engine.sampler import Sampler
from tests.engine.toy import toy_request
from tests.reference import sample_distribution

CPU = Backend(1)
LOGITS = np.random.default_rng(3).standard_normal(40).astype(np.float32)

SETTINGS = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 5, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.7, "top_k": 0, "top_p": 0.6, "min_p": 0.0},
    {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.2},
]


@pytest.mark.parametrize("parameters", SETTINGS)
def test_draws_follow_the_exact_distribution(parameters):
    """Chi-square over 20,000 draws, one request each, seeds 0 up."""
    n = 20_000
    expected = sample_distribution(LOGITS, **parameters)
    requests = []
    for seed in range(n):
        request = toy_request([1], Sampling(**parameters))
        request.seed = seed
        requests.append(request)
    drawn = Counter(Sampler(CPU).sample(np.tile(LOGITS, (n, 1)), requests))
    assert all(expected[token] > 0 for token in drawn)
    # Bins that expect fewer than five are put together, as the test wants it.
    common = expected * n >= 5
    bins = [(drawn[i], expected[i] * n) for i in np.flatnonzero(common)]
    rare = expected[~common].sum() * n
    if rare >= 5:
        bins.append((sum(drawn[i] for i in np.flatnonzero(~common)), rare))
    statistic = sum((o - e) ** 2 / e for o, e in bins)
    freedom = len(bins) - 1
    # Wilson and Hilferty's cube root: about standard normal. The seeds are fixed, so this holds or
    # fails for good; beyond 4 a right sampler would be one in 30,000.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 4, (statistic, freedom)


def test_greedy_takes_the_first_largest():
    logits = np.zeros((1, 10), np.float32)
    logits[0, [4, 7]] = 3
    assert Sampler(CPU).sample(logits, [toy_request([1], Sampling(temperature=0))]) == [4]


def test_each_request_has_its_own_parameters():
    greedy, wild = toy_request([1], Sampling(temperature=0)), toy_request([1], Sampling(temperature=100, top_k=0, min_p=0, top_p=1))
    drawn = []
    for seed in range(50):
        wild.seed = seed
        drawn.append(Sampler(CPU).sample(np.tile(LOGITS, (2, 1)), [greedy, wild]))
    assert {d[0] for d in drawn} == {int(LOGITS.argmax())}
    assert len({d[1] for d in drawn}) > 20


@pytest.mark.parametrize("window", [0, 3, 64])
@pytest.mark.parametrize(("repetition", "frequency", "presence"), [(1.3, 0, 0), (1, 0.4, 0), (1, 0, 0.7), (1.2, 0.1, -0.2)])
def test_penalties_by_a_plain_count(window, repetition, frequency, presence):
    tokens = [5, 5, 9, 1, 5, 9, 30, 2]
    sampling = Sampling(
        temperature=0, repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence,
        penalty_window=window,
    )  # fmt: skip
    expected = LOGITS.astype(np.float64)
    for token, count in Counter(tokens[len(tokens) - window :] if window < len(tokens) else tokens).items():
        value = expected[token]
        value = value / repetition if value > 0 else value * repetition
        expected[token] = value - count * frequency - presence
    logits = np.tile(LOGITS, (2, 1))
    untouched = toy_request(tokens, Sampling(temperature=0))
    Sampler(CPU).sample(logits, [toy_request(tokens, sampling), untouched])
    np.testing.assert_allclose(logits[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(logits[1], LOGITS)
