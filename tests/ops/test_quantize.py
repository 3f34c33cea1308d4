"""quantize: against the formula in numpy float32, to the last bit."""

import numpy as np
import pytest

from rocforge.cpu import threads
from rocforge.gguf.formats import Q8


def empty_q8(T, K):
    # Filled with what no right answer holds, so that an element left out is seen.
    return Q8(np.full((T, K), -128, np.int8), np.full((T, K // 32), -1, np.float32), np.full((T, K // 16), 9999, np.int16))


def quantized(room, x, team=1):
    out = empty_q8(*x.shape)
    team = threads.Team(team)
    try:
        with threads.use(team):
            room.quantize(x, out)
    finally:
        team.close()
    return out


def formula(x):
    T, K = x.shape
    blocks = x.reshape(T, K // 32, 32)
    amax = np.abs(blocks).max(axis=2)
    amax[amax < 2.0**-120] = 0
    with np.errstate(divide="ignore"):
        inverse = np.where(amax > 0, np.float32(127) / amax, np.float32(0)).astype(np.float32)
    values = np.rint(blocks * inverse[:, :, None]).astype(np.int8).reshape(T, K)
    return Q8(values, amax / np.float32(127), values.reshape(T, K // 16, 16).sum(axis=2, dtype=np.int16))


def check(room, x, team=1):
    out, expected = quantized(room, x, team), formula(np.ascontiguousarray(x))
    for got, want in zip(out, expected, strict=True):
        np.testing.assert_array_equal(got, want)
    return out


@pytest.mark.parametrize("team", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 32), (1, 256), (3, 96), (70, 64)])
def test_formula(room, shape, team):
    rng = np.random.default_rng(0)
    check(room, (rng.standard_normal(shape) * 10.0 ** rng.uniform(-6, 6, shape)).astype(np.float32), team)


def test_rows_apart(room):
    x = np.random.default_rng(1).standard_normal((5, 160)).astype(np.float32)
    check(room, x[:, 64:128])


def test_halves_go_to_even(room):
    x = np.zeros((1, 32), np.float32)
    x[0, :8] = [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127]
    assert quantized(room, x).values[0, :8].tolist() == [127, 0, 2, 2, 0, -2, -2, -127]


def test_zero_and_tiny_blocks_have_scale_zero(room):
    x = np.zeros((1, 128), np.float32)
    x[0, 32:64] = 2.0**-121  # 127 / amax would overflow
    x[0, 64:96] = 2.0**-120
    x[0, 96] = -1e-45
    out = check(room, x)
    assert out.scales[0].tolist() == [0, 0, np.float32(2.0**-120) / np.float32(127), 0]
    assert out.values[0, 64:96].tolist() == [127] * 32 and not out.values[0, 96:].any()


def test_largest_values_stay_in_range(room):
    x = np.full((1, 64), np.finfo(np.float32).max, np.float32)
    x[0, 1::2] *= -1
    out = check(room, x)
    assert out.values[0, :2].tolist() == [127, -127] and np.isfinite(out.scales).all()


def test_error_is_half_a_step(room):
    x = np.random.default_rng(2).standard_normal((16, 512)).astype(np.float32)
    out = quantized(room, x)
    back = out.values.astype(np.float64) * np.repeat(out.scales.astype(np.float64), 32, axis=1)
    # Half a step, and the roundings of 127 / amax, of the product and of the scale: each 2^-24 of at most 127.
    bound = np.repeat(out.scales.astype(np.float64), 32, axis=1) * (0.5 + 3 * 127 * 2.0**-24)
    assert (np.abs(back - x) <= bound).all()
