"""linear: exact integers, float32 sums within their bound, and the same bits however it is called."""

import contextlib
from fractions import Fraction

import numpy as np
import pytest

from rocforge.cpu import decode, threads
from rocforge.cpu.layout import matrix
from rocforge.cpu.matmul import linear, sums_bfloats
from rocforge.cpu.quantize import quantize
from rocforge.gguf.formats import BF16, F16, F32, Q4_K, Q6_K, Q8, Q8_0, SUPPORTED
from rocforge.probe import book
from tests.ops.blocks import (
    BLOCK_FORMATS,
    FLOAT_FORMATS,
    HALVES,
    activations,
    extreme_blocks,
    magnitudes,
    q8_of,
    random_blocks,
    random_q8,
    weights,
    with_halves,
)
from tests.ops.rooms import BLOCKINGS, Blocked

U = 2.0**-24  # half a unit in the last place of a float32 near 1


@pytest.fixture(scope="module")
def teams():
    made = {n: threads.Team(n) for n in (1, 2, 3, 5)}
    yield made
    for team in made.values():
        team.close()


def inputs(format, T, K, rng):
    return rng.standard_normal((T, K)).astype(np.float32) if format.is_float else random_q8(T, K, rng)


def tokens_of(x, part):
    return x[part] if isinstance(x, np.ndarray) else Q8(*(np.ascontiguousarray(a[part]) for a in x))


def multiply(x, data, format, team=None):
    T, K = (x if isinstance(x, np.ndarray) else x.values).shape
    out = np.full((T, len(data)), np.nan, np.float32)
    with threads.use(team) if team else contextlib.nullcontext():
        linear(x, (matrix(data, format, len(data), K),), None, None, out)
    return out


def uses_bfloats(format, T):
    return sums_bfloats(T) and not format.is_float


def check(x, data, format, team=None):
    """Within what float32 arithmetic may lose.

    Blocks: the integers, scales and minimums are exact. With S = sum |x| (|scaled part| + |minimum|), each
    rounding loses at most U * S: c's (two, by halves) or that of x's scale times a sum; those of a strip's
    fmas, for every eighth strip; three foldings; and the oracle's weights are rounded three times to
    float32. Floats: K/16 fmas of a lane and 4 foldings. One more for what is of second order.

    With AMX: a weight and an activation are each off by 2^-9 of themselves, their product by 2^-8 + 2^-18. Weights
    and activations are rounded to float32 once each before, the oracle's weights three times; a sum adds
    up 16 products of even and of odd columns, joins these, and once every 32 columns adds them.
    """
    float_x = x.astype(np.float64) if format.is_float else activations(x)
    K = float_x.shape[1]
    if format.is_float:
        steps = K / 16 + 4
    else:
        layout = getattr(decode, format.name)
        fmas = 1 + layout.has_mins * (1 + layout.by_halves)
        steps = 2 + fmas * -(-K // 256) + 3 + 3
    relative = (steps + 1) * U
    if uses_bfloats(format, len(float_x)):
        relative = 2.0**-8 + 2.0**-18 + (2 + 3 + 16 + 1 + K // 32 + 1) * U
    bound = relative * (np.abs(float_x) @ magnitudes(data, format).T)
    error = np.abs(multiply(x, data, format, team) - float_x @ weights(data, format).T)
    assert (error <= bound).all(), (error - bound).max()


@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_accuracy(format, teams):
    rng = np.random.default_rng(0)
    for T, N, blocks in ((1, 37, 3), (2, 1, 1), (7, 16, 2), (70, 19, 1)):
        K = blocks * {1: 100, 32: 96, 256: 256}[format.block]
        check(inputs(format, T, K, rng), random_blocks(format, N, K, rng), format, teams[2])


@pytest.mark.parametrize("K", [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize("format", FLOAT_FORMATS, ids=str)
def test_columns_that_fill_no_vector(format, K):
    rng = np.random.default_rng(K)
    check(inputs(format, 3, K, rng), random_blocks(format, 6, K, rng), format)


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_extreme_blocks(format, teams):
    rng = np.random.default_rng(1)
    data = extreme_blocks(format, 256)
    check(random_q8(5, 256, rng), data, format, teams[2])
    check(q8_of(np.full((1, 256), -127, np.int8), np.ones((1, 8), np.float32)), data, format)
    check(q8_of(np.zeros((1, 256), np.int8), np.zeros((1, 8), np.float32)), data, format)


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_integer_parts_are_exact(format):
    """With d = 1 and the scale of one strip 1, all others 0, an output is that strip's integer itself."""
    rng = np.random.default_rng(2)
    K, parts = 256, range(len(HALVES[format.name]))
    values = rng.integers(-127, 128, (9, K), dtype=np.int8)
    values[8] = 127
    rows = np.concatenate([random_blocks(format, 40, K, rng), extreme_blocks(format, K)])
    for which in parts:
        data = rows.copy()
        for other in parts:
            with_halves(data, format, other, 1.0 if other == which else 0.0)
        integers = weights(data, format).astype(np.int64)
        for j in range(K // 32):
            scales = np.zeros((9, K // 32), np.float32)
            scales[:, j] = 1
            strip = slice(32 * j, 32 * j + 32)
            expected = values[:, strip].astype(np.int64) @ integers[:, strip].T
            assert np.abs(expected).max() < 2**24  # float32 holds it
            np.testing.assert_array_equal(multiply(q8_of(values, scales), data, format), expected)


def nearest_float32(x: Fraction) -> Fraction:
    """Of two equally near, the even one. (Straight from a float64 would round twice.)"""
    near = np.float32(float(x))
    around = (np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf)))
    distance = lambda c: (abs(Fraction(float(c)) - x), c.view(np.int32) & 1)
    return Fraction(float(min(around, key=distance)))


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_sum_is_the_documented_one(format):
    """Bit by bit the formula of matmul.py, in fractions."""
    rng = np.random.default_rng(7)
    K, rows = 768, 3
    layout = getattr(decode, format.name)
    width = 16 if layout.by_halves else 32  # columns of one scale
    data, x = random_blocks(format, rows, K, rng), random_q8(1, K, rng)

    def part(which):
        """The halves d or m of each block, and the weights with it 1 and the other 0: integers."""
        at = HALVES[format.name][which]
        fields = np.ascontiguousarray(data.reshape(rows, -1, format.block_bytes)[:, :, at : at + 2])
        unit = data.copy()
        for other in range(2):
            with_halves(unit, format, other, 1.0 if other == which else 0.0)
        return fields.view(np.float16).astype(np.float64).reshape(rows, -1), weights(unit, format).astype(np.int64)

    values = x.values[0].astype(np.int64)
    d, integers = part(0)
    m, multiples = part(1) if layout.has_mins else (None, None)
    products = (integers * values).reshape(rows, K // width, width).sum(axis=2)
    sums_of_x = values.reshape(K // width, width).sum(axis=1)
    out = multiply(x, data, format)
    for n in range(rows):
        sums = [Fraction(0)] * 8
        for j in range(K // 32):
            block, x_scale = 32 * j // format.block, Fraction(float(x.scales[0, j]))
            groups = range(32 * j // width, 32 * (j + 1) // width)
            c = Fraction(0)
            for i in groups:
                c = nearest_float32(Fraction(d[n, block]) * int(products[n, i]) + c)
            p = nearest_float32(x_scale * c + sums[j % 8])
            for i in groups if layout.has_mins else ():
                minimum = Fraction(m[n, block]) * int(multiples[n, width * i])
                p = nearest_float32(minimum * nearest_float32(x_scale * int(sums_of_x[i])) + p)
            sums[j % 8] = p
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [nearest_float32(a + b) for a, b in zip(sums[:half], sums[half:], strict=True)]
        assert out[0, n] == float(sums[0])


@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_same_bits_for_any_batch_and_team(format, teams):
    rng = np.random.default_rng(3)
    K = {1: 77, 32: 288, 256: 512}[format.block]
    for N in (3, 16, 37):
        data, x = random_blocks(format, N, K, rng), inputs(format, 70, K, rng)
        whole = multiply(x, data, format)
        # With AMX few tokens have bits of their own.
        few = np.concatenate([multiply(tokens_of(x, slice(t, t + 1)), data, format) for t in range(70)])
        assert uses_bfloats(format, 70) or (few == whole).all()
        for n in (2, 3, 5):
            np.testing.assert_array_equal(multiply(x, data, format, teams[n]), whole)
        for T in (2, 3, 4, 5, 8, 15, 16, 63, 64, 65):
            expected = (whole if uses_bfloats(format, T) else few)[5 : 5 + T]
            np.testing.assert_array_equal(multiply(tokens_of(x, slice(5, 5 + T)), data, format, teams[2]), expected)
        for first, stop in ((1, 3), (0, 1), (N - 1, N)):  # a row's bits do not depend on its neighbours
            np.testing.assert_array_equal(multiply(x, data[first:stop].copy(), format), whole[:, first:stop])


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_same_bits_however_it_is_blocked(format, teams):
    rng = np.random.default_rng(3)
    for N, K in ((5, 512), (16, 288 if format.block == 32 else 256), (117, 2048)):
        data, x = random_blocks(format, N, K, rng), random_q8(70, K, rng)
        for T in (1, 3, 9, 70):
            some = tokens_of(x, slice(0, T))
            whole = multiply(some, data, format)
            for sizes in BLOCKINGS:
                with book.use(Blocked(sizes)), book.watch() as found:
                    np.testing.assert_array_equal(multiply(some, data, format, teams[3]), whole)
                assert [choice.origin for choice in found] == [book.TRIED]


@pytest.mark.parametrize("formats", [(Q4_K, Q4_K, Q6_K), (Q8_0,), (F32, BF16, F16)], ids=lambda fs: "+".join(map(str, fs)))
def test_bias_residual_and_several_weights(formats, teams):
    rng = np.random.default_rng(4)
    T, K, rows = 6, 256, (33, 5, 16)[: len(formats)]
    N = sum(rows)
    data = [random_blocks(f, n, K, rng) for f, n in zip(formats, rows, strict=True)]
    matrices = tuple(matrix(d, f, n, K) for d, f, n in zip(data, formats, rows, strict=True))
    x = inputs(formats[0], T, K, rng)
    plain = np.concatenate([multiply(x, d, f) for d, f in zip(data, formats, strict=True)], axis=1)
    bias = rng.standard_normal(N).astype(np.float32)
    residual = rng.standard_normal((T, N + 9)).astype(np.float32)[:, 4 : 4 + N]
    for b in (None, bias):
        for added in ("nothing", "residual", "out"):
            wide = np.full((T, N + 2), 7.0, np.float32)
            out = wide[:, 1 : N + 1]
            if added == "out":
                out[:] = residual
            with threads.use(teams[3]):
                r = {"nothing": None, "residual": residual, "out": out}[added]
                linear(x=x, weights=matrices, bias=b, residual=r, out=out)
            expected = plain if b is None else plain + bias
            np.testing.assert_array_equal(out, expected if added == "nothing" else expected + residual)
            assert (wide[:, 0] == 7).all() and (wide[:, -1] == 7).all()


def test_recorded_launch_reads_what_is_there_when_it_runs(teams):
    rng = np.random.default_rng(5)
    data = random_blocks(Q4_K, 20, 256, rng)
    first, second = random_q8(3, 256, rng), random_q8(3, 256, rng)
    x, out = tokens_of(first, slice(0, 3)), np.zeros((3, 20), np.float32)
    with threads.record() as program:
        linear(x, (matrix(data.copy(), Q4_K, 20, 256),), None, None, out)
    for q8 in (first, second):
        for held, new in zip(x, q8, strict=True):
            held[:] = new
        teams[2].run(program)
        np.testing.assert_array_equal(out, multiply(q8, data, Q4_K))


@pytest.mark.parametrize("format", [Q4_K, Q8_0], ids=str)
def test_error_of_8_bit_activations(format):
    """Against activations never rounded: at most half a step of 8 bits times each weight."""
    rng = np.random.default_rng(6)
    x = rng.standard_normal((4, 512)).astype(np.float32)
    data = random_blocks(format, 24, 512, rng)
    q8 = q8_of(np.zeros((4, 512), np.int8), np.zeros((4, 16), np.float32))
    quantize(x, q8)
    steps = np.repeat(q8.scales.astype(np.float64), 32, axis=1)
    error = np.abs(multiply(q8, data, format) - x.astype(np.float64) @ weights(data, format).T)
    # 0.01 of a step more than covers the roundings in float32, which the accuracy test bounds.
    assert (error <= 0.51 * (steps @ magnitudes(data, format).T)).all()
    assert error.max() > 0
