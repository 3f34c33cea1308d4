"""SwiGLU against float64, over all that silu may meet."""

import numpy as np
import pytest

from rocforge.cpu.activation import swiglu
from tests import reference
from tests.ops.arrays import q8


def made(T, F, seed=0):
    return (np.random.default_rng(seed).standard_normal((T, 2 * F)) * 4).astype(np.float32)


@pytest.mark.parametrize(("T", "F"), [(1, 32), (3, 7), (2, 96), (5, 100), (4, 512)])
def test_against_float64(room, T, F):
    gate_up, out = made(T, F), np.empty((T, F), np.float32)
    room.swiglu(gate_up, out)
    # On the CPU e^x is off by 2^-22 at the most (test_exp), division, sum and product add half an ulp each. On
    # a GPU it is 2^(x log2 e), whose argument below 32 is off by half an ulp of it, 2^-20 of the value, and
    # the quick division by two ulps.
    rtol = 2**-21 if room.name == "cpu" else 2**-19
    np.testing.assert_allclose(out, reference.swiglu(gate_up.astype(np.float64)), rtol=rtol)


def test_far_out():
    x = np.array([0, -0.0, 1e-30, -1e-30, 20, -20, 80, -80, 87, -87, -100, 100, 1e4, -1e4, 3e38, -3e38], np.float32)
    gate_up = np.concatenate([x, np.ones(16, np.float32)])[None].astype(np.float32)
    out = np.empty((1, 16), np.float32)
    swiglu(gate_up, out)
    with np.errstate(over="ignore"):
        expected = reference.silu(x.astype(np.float64))
    # Below -87, 1 + e^-x is taken at e^88: the true value is under 1e-35 there and below, times x.
    far = x < -87
    np.testing.assert_allclose(out[0][~far], expected[~far], rtol=2**-21, atol=1e-45)
    assert np.all(np.abs(out[0][far]) <= np.abs(x[far]) * 1e-37)


@pytest.mark.parametrize(("T", "F"), [(1, 32), (3, 96), (9, 512)])
def test_quantised_is_the_same_as_quantised_after(room, T, F):
    gate_up, plain, fused, apart = made(T, F), np.empty((T, F), np.float32), q8(T, F), q8(T, F)
    room.swiglu(gate_up, plain)
    room.quantize(plain, apart)
    room.swiglu(gate_up, fused)
    for a, b in zip(fused, apart, strict=True):
        np.testing.assert_array_equal(a, b)


def test_bits_depend_on_the_row_alone():
    gate_up = made(9, 100)
    together, alone = np.empty((9, 100), np.float32), np.empty((9, 100), np.float32)
    swiglu(gate_up, together)
    for t in range(9):
        swiglu(gate_up[t : t + 1], alone[t : t + 1])
    np.testing.assert_array_equal(together, alone)
