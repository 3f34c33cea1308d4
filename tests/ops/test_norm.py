"""RMSNorm against float64, and its fused quantisation against the two ops one after the other."""

import numpy as np
import pytest

from rocforge.cpu.norm import rms_norm
from rocforge.cpu.threads import Team, use
from tests import reference
from tests.ops.arrays import q8

EPS = 1e-5


def made(T, N, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((T, N)) * rng.choice([1e-3, 1, 30], (T, 1))).astype(np.float32)
    return x, rng.standard_normal(N).astype(np.float32)


@pytest.mark.parametrize(("T", "N"), [(1, 64), (3, 1), (2, 15), (5, 100), (7, 256), (2, 2048)])
def test_against_float64(room, T, N):
    x, weight = made(T, N)
    out = np.empty_like(x)
    room.rms_norm(x, weight, out, eps=EPS)
    expected = reference.rms_norm(x.astype(np.float64), weight.astype(np.float64), EPS)
    # 16 partial sums of N/16 terms, all positive, each addition off by half an ulp at the most; the
    # root halves that; then division and two products: N/32 + 4 half-ulps bound it.
    np.testing.assert_allclose(out, expected, rtol=(N / 32 + 4) * 2**-24)


@pytest.mark.parametrize(("T", "N"), [(1, 32), (3, 96), (9, 512)])
def test_quantised_is_the_same_as_quantised_after(room, T, N):
    x, weight = made(T, N)
    plain, fused, apart = np.empty_like(x), q8(T, N), q8(T, N)
    room.rms_norm(x, weight, plain, eps=EPS)
    room.quantize(plain, apart)
    room.rms_norm(x, weight, fused, eps=EPS)
    if room.name == "cpu":
        for a, b in zip(fused, apart, strict=True):
            np.testing.assert_array_equal(a, b)
    else:
        # Two kernels sum the squares in two orders: all values move together by some ulps, and one that
        # was within that of a half may be rounded to its neighbour.
        np.testing.assert_allclose(fused.scales, apart.scales, rtol=(N / 32 + 4) * 2**-24)
        steps = np.abs(fused.values.astype(int) - apart.values)
        assert steps.max() <= 1 and steps.mean() < 0.01
        np.testing.assert_array_equal(fused.sums, fused.values.reshape(T, -1, 16).sum(2))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bits_depend_on_the_row_alone(threads):
    x, weight = made(11, 300)
    together, alone = np.empty_like(x), np.empty_like(x)
    team = Team(threads)
    with use(team):
        rms_norm(x, weight, together, eps=EPS)
    team.close()
    for t in range(len(x)):
        rms_norm(x[t : t + 1], weight, alone[t : t + 1], eps=EPS)
    np.testing.assert_array_equal(together, alone)
