"""The vector exponential that attention and SwiGLU share."""

import numpy as np

from rocforge.cpu.isa import exp16, load, store
from rocforge.cpu.threads import kernel, launch, words

load16, store16 = load(16, "f32"), store(16, "f32")


@kernel
def exp_all(args, tid, team):
    x, out, n = words(args, 3)
    for i in range(0, n, 16):
        store16(out + 4 * i, exp16(load16(x + 4 * i)))


def exp(x):
    x = np.asarray(x, np.float32)
    padded = np.zeros(-(-len(x) // 16) * 16, np.float32)
    padded[: len(x)] = x
    out = np.empty_like(padded)
    launch(exp_all, padded, out, len(padded))
    return out[: len(x)]


def test_two_ulps_over_the_whole_range():
    x = np.concatenate([np.linspace(-87, 88, 200_001), np.random.default_rng(0).standard_normal(100_000)]).astype(np.float32)
    # Eight fused steps, the last ones of size one: the series' remainder is 5e-9, far below an ulp.
    np.testing.assert_allclose(exp(x), np.exp(x.astype(np.float64)), rtol=2**-22)


def test_what_is_no_number_stays_so():
    assert np.isnan(exp([np.nan, 0.0])).tolist() == [True, False]


def test_the_ends():
    assert exp([0.0])[0] == 1
    assert np.all(exp([-87.1, -1e4, -1e30, -np.inf]) == 0)
    np.testing.assert_allclose(exp([88.5, 1e30]), np.exp(88.0), rtol=2**-21)
