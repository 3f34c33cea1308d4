"""The draw: for a random number the very id that the exact cumulated distribution gives."""

import math
from collections import Counter

import numpy as np
import pytest

from rocforge.cpu import sample as cpu
from tests.ops.rooms import make_room
from tests.reference import sample_distribution

# In the Triton room a boundary that is found by sums over the row is off by some ulps of float32. Of a
# weight exp(x): x is rounded twice, 2 * 2^-24 * |x|, |x| < 20 where there is mass; of a sum of a row:
# V / block and log2(block) additions of 2^-24, below 40. About 80 * 2^-24 of the mass, and as much for the
# total that the random number is a share of.
SLACK = 160 * 2.0**-24


def descending(logits):
    return np.lexsort((np.arange(len(logits)), -np.where(np.isnan(logits), -np.inf, logits)))


def expected_ids(logits, uniform, **parameters):
    """By the whole distribution, sorted whole."""
    chance = sample_distribution(logits, **parameters)
    order = descending(logits)
    order = order[chance[order] > 0]
    return order[np.minimum(np.searchsorted(np.cumsum(chance[order]), uniform, side="right"), len(order) - 1)]


def drawn_ids(room, logits, uniform, temperature, top_k, top_p, min_p):
    n = len(uniform)
    out = np.full(n, -7, np.int32)
    rows = np.tile(logits, (n, 1))
    room.sample(rows, *(np.full(n, p) for p in (temperature, top_k, top_p, min_p)), uniform, out)
    return out


def off(logits, uniform, ids, **parameters):
    """How far, as a share of the mass, each number is from the range of numbers that mean its id."""
    chance = sample_distribution(logits, **parameters)
    assert (chance[ids] > 0).all(), ids[chance[ids] == 0]
    upper = np.empty(len(logits))
    upper[descending(logits)] = np.cumsum(chance[descending(logits)])
    return np.maximum(np.maximum(upper[ids] - chance[ids] - uniform, uniform - upper[ids]), 0)


def check_draws(room, logits, uniform, **parameters):
    """Each id as the exact distribution has it, but for what the room's sums may move a boundary."""
    got, want = drawn_ids(room, logits, uniform, **parameters), expected_ids(logits, uniform, **parameters)
    if room.name == "cpu":
        # Sums in another order differ in the last bits: the last number below 1 may go either way.
        is_certain = uniform < 1 - 2**-53
        np.testing.assert_array_equal(got[is_certain], want[is_certain])
    np.testing.assert_array_less(off(logits, uniform, got, **parameters), SLACK)


def many_uniforms(room, rng, n):
    return np.concatenate([rng.random(1 if room.is_slow else n), [0.0, 1 - 2**-53][room.is_slow :]])


@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 10_000])
@pytest.mark.parametrize("top_p", [1.0, 0.95, 0.3])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
@pytest.mark.parametrize("ties", [False, True])
def test_each_draw_is_exact(room, top_k, top_p, min_p, ties):
    if room.is_slow and top_k in (1, 10_000):
        pytest.skip("a third of a second a row: those that go another way in the kernels are enough")
    rng = np.random.default_rng(top_k)
    sizes = [(300, 3, 0.8)] if room.is_slow else [(3, 1, 0.5), (300, 3, 0.8), (5000, 1, 1.3), (5000, 6, 1.0)]
    for n, width, temperature in sizes:
        logits = (rng.standard_normal(n) * width).astype(np.float32)
        logits = np.round(logits) if ties else logits
        parameters = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        check_draws(room, logits, many_uniforms(room, rng, 30), **parameters)


@pytest.mark.parametrize("top_k", [15, 16, 17, 63, 64, 65])
def test_as_many_as_a_tile_sorts(room, top_k):
    """And one less, and one more: of the interpreter's tile and the GPUs'."""
    rng = np.random.default_rng(top_k)
    logits = (rng.standard_normal(200) / 4).astype(np.float32)
    check_draws(room, logits, many_uniforms(room, rng, 30), temperature=2.0, top_k=top_k, top_p=1.0, min_p=0.0)


def test_rows_of_many_tiles(room):
    """Several chunks, the last one ragged; a draw from the far end of a flat row; equal logits, of which the lower ids come first."""
    rng = np.random.default_rng(7)
    for logits in (rng.standard_normal(1100), np.zeros(1100), np.repeat([1.0, 0.5, 0.0], 367)):
        logits = logits.astype(np.float32)
        for top_k, top_p, min_p in ((0, 1.0, 0.0), (700, 0.901, 0.0), (0, 1.0, 0.3)):
            check_draws(room, logits, np.array([0.0312, 0.7771]), temperature=1.5, top_k=top_k, top_p=top_p, min_p=min_p)


def test_a_row_of_a_real_tile(monkeypatch):
    """What GPUs launch, in the interpreter: more than one chunk of 8192 logits."""
    room = make_room("triton")
    from rocforge.kernels import sample

    monkeypatch.setitem(sample.TILES, "interpreter", sample.TILES["nvidia"])
    rng = np.random.default_rng(8)
    logits = (rng.standard_normal(8292) * 2).astype(np.float32)
    for top_k, top_p in ((40, 0.95), (0, 0.95)):
        check_draws(room, logits, np.array([0.6]), temperature=1.0, top_k=top_k, top_p=top_p, min_p=0.01)


def test_greedy_takes_the_first_largest_number(room):
    logits = np.array([[1, 5, 5, np.nan], [np.nan, np.nan, 2, 1], [np.nan] * 4, [-1, -0.0, 0.0, -2]], np.float32)
    out = np.empty(4, np.int32)
    off = np.zeros(4)
    room.sample(logits, off, off.astype(int), off + 1, off, off, out)
    assert out.tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize(("logits", "drawn"), [([0, np.inf, 1, np.inf], 1), ([-np.inf] * 3, 0), ([np.nan] * 3, 0)])
def test_rows_without_a_distribution_give_their_first_largest(room, logits, drawn):
    uniform = np.linspace(0, 0.99, 2 if room.is_slow else 5)
    assert set(drawn_ids(room, np.array(logits, np.float32), uniform, 1.0, 0, 0.9, 0.1)) == {drawn}


@pytest.mark.parametrize("padding", [0, 40])
def test_what_is_no_number_is_never_drawn(room, padding):
    """`padding` of them more, which is more than the interpreter's tile sorts."""
    logits = np.array([0, np.nan, -np.inf, 0] + [np.nan, -np.inf] * (padding // 2), np.float32)
    uniform = np.concatenate([np.linspace(0, 0.999, 4 if room.is_slow else 50), [1 - 2**-53]])
    for top_k in (0, 20):
        assert set(drawn_ids(room, logits, uniform, 1.0, top_k, 1.0, 0.0)) == {0, 3}


def test_both_zeros_are_one_number(room):
    logits = np.array([-0.0, 0.0, -0.0, 0.0, -30], np.float32)
    assert drawn_ids(room, logits, np.array([0.1, 0.3, 0.6, 0.9]), 1.0, 0, 1.0, 0.0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("top_k", [0, 17])
def test_extreme_temperatures_and_logits(room, top_k):
    for logits, temperature in (([1, 2, 1.5], 1e-30), ([3e38, -3e38, 3e38], 1.0), ([-3.4028235e38] * 3, 100.0)):
        logits = np.repeat(np.array(logits, np.float32), 8)  # more than the interpreter's tile sorts
        check_draws(room, logits, np.array([0.01, 0.96]), temperature=temperature, top_k=top_k, top_p=1.0, min_p=0.0)


def mixed_rows(rng, R, V):
    """Rows that each go another way, with their parameters."""
    logits = (rng.standard_normal((R, V)) * rng.choice([0.5, 2, 4], (R, 1))).astype(np.float32)
    return (
        logits, rng.choice([0, 0.7, 1.0, 1.6], R), rng.choice([0, 1, 12, 40, V // 3, V], R),
        rng.choice([1.0, 0.95, 0.4], R), rng.choice([0.0, 0.02, 0.3], R), rng.random(R),
    )  # fmt: skip


def test_both_rooms_draw_the_same():
    """Rows in company, in rows that are wider than they are long."""
    rng = np.random.default_rng(11)
    wide, *parameters = mixed_rows(rng, 12, 320)
    logits = wide[:, :303]
    ids, other = np.zeros(12, np.int32), np.zeros(12, np.int32)
    cpu.sample(logits, *parameters, ids)
    make_room("triton").sample(logits, *parameters, other)
    np.testing.assert_array_equal(ids, other)


def penalty_case(rng, R, V, most):
    seen = [rng.permutation(V)[:n] for n in rng.integers(0, most, R)]
    seen[1 % R] = seen[1 % R][:0]
    starts = np.concatenate([[0], np.cumsum([len(s) for s in seen])])
    ids = np.concatenate(seen).astype(np.int64)
    return (
        rng.standard_normal((R, V)).astype(np.float32), ids, rng.integers(1, 9, len(ids)), starts,
        rng.choice([1.0, 1.1, 0.9], R), rng.choice([0.0, 0.3, -0.2], R), rng.choice([0.0, 0.7], R),
    )  # fmt: skip


def test_penalties_are_the_same_bits_in_all_rooms(room):
    """Each step is float64 and is rounded to float32 once, at the end."""
    logits, *parameters = penalty_case(np.random.default_rng(4), 5, 401, 300)
    ids, counts, starts, repetition, frequency, presence = parameters
    expected = logits.copy()
    for r in range(len(logits)):
        for i in range(starts[r], starts[r + 1]):
            x = float(logits[r, ids[i]])
            x = x / repetition[r] if x > 0 else x * repetition[r]
            expected[r, ids[i]] = x - counts[i] * frequency[r] - presence[r]
    room.penalize(logits, *parameters)
    np.testing.assert_array_equal(logits.view(np.int32), expected.view(np.int32))


def test_parameters_of_the_host_are_sent():
    """As the backend gives them: arrays of numpy's, a list of starts."""
    make_room("triton")
    import torch

    from rocforge.kernels import sample

    rng = np.random.default_rng(12)
    (logits, *parameters), (_, *penalties) = mixed_rows(rng, 3, 40), penalty_case(rng, 3, 40, 9)
    ids, counts, starts, *rest = penalties
    copy, out, drawn = torch.from_numpy(logits.copy()), np.zeros(3, np.int32), torch.zeros(3, dtype=torch.int32)
    cpu.penalize(logits, *penalties)
    cpu.sample(logits, *parameters, out)
    sample.penalize(copy, ids, counts, starts.tolist(), *rest)
    sample.sample(copy, *parameters, drawn)
    np.testing.assert_array_equal(copy.numpy(), logits)
    np.testing.assert_array_equal(drawn.numpy(), out)


def test_launches_are_recorded_without_reading_anything():
    make_room("triton")
    import torch

    from rocforge.kernels import launch, sample
    from rocforge.kernels.target import AMD, use

    column = torch.empty(4, dtype=torch.float64, device="meta")
    for arch in ("gfx906", "gfx942", "gfx1100"):
        with use(AMD[arch]), launch.record() as program:
            logits, out = torch.empty(4, 128256, device="meta"), torch.empty(4, dtype=torch.int32, device="meta")
            sample.sample(logits, column, column, column, column, column, out)
            ids = torch.empty(9, dtype=torch.int64, device="meta")
            sample.penalize(logits, ids, ids, torch.empty(5, dtype=torch.int64, device="meta"), column, column, column)
        assert [l.kernel.__name__ for l in program.launches] == ["scan", "narrow", "draw", "penalize_row"]


# ---- on a GPU: rows of real size


@pytest.fixture(scope="module")
def gpu():
    return make_room("gpu")


SETTINGS = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.5, "top_k": 200, "top_p": 0.9, "min_p": 0.0},
    {"temperature": 0.7, "top_k": 0, "top_p": 0.6, "min_p": 0.0},
    {"temperature": 2.0, "top_k": 0, "top_p": 1.0, "min_p": 0.01},
]


@pytest.mark.gpu
@pytest.mark.parametrize("parameters", SETTINGS)
def test_draws_follow_the_distribution_on_the_gpu(gpu, parameters):
    """Chi-square over 20,000 draws of 500 logits, the random numbers fixed."""
    n = 20_000
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal(500) * 1.5).astype(np.float32)
    expected = sample_distribution(logits, **parameters) * n
    drawn = Counter(drawn_ids(gpu, logits, rng.random(n), **parameters).tolist())
    assert all(expected[token] > 0 for token in drawn)
    # Bins that expect fewer than five are put together, as the test wants it.
    common = expected >= 5
    bins = [(drawn[i], expected[i]) for i in np.flatnonzero(common)]
    rare = expected[~common].sum()
    if rare >= 5:
        bins.append((sum(drawn[i] for i in np.flatnonzero(~common)), rare))
    statistic, freedom = sum((o - e) ** 2 / e for o, e in bins), len(bins) - 1
    # Wilson and Hilferty's cube root: about standard normal; beyond 4 a right sampler would be one in 30,000.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 4, (statistic, freedom)


@pytest.mark.gpu
@pytest.mark.parametrize("V", [32_003, 128_256, 262_144])
def test_rows_of_real_vocabularies_on_the_gpu(gpu, V):
    logits, *parameters = mixed_rows(np.random.default_rng(V), 128, V)
    ids, other = np.zeros(128, np.int32), np.zeros(128, np.int32)
    cpu.sample(logits, *parameters, ids)
    gpu.sample(logits, *parameters, other)
    # In a flat row one id has little more than SLACK of the mass, and its neighbour may be drawn.
    assert (ids != other).mean() <= 0.05
    temperature, top_k, top_p, min_p, uniform = parameters
    for r in np.flatnonzero(ids != other):
        chosen = {"temperature": temperature[r], "top_k": top_k[r], "top_p": top_p[r], "min_p": min_p[r]}
        # The prefix of mass top_p may be one longer or shorter, by an id of less than SLACK in such a row.
        assert off(logits[r], uniform[r], other[r : r + 1], **chosen) <= 2 * SLACK


@pytest.mark.gpu
def test_fifty_launches_give_the_same_ids_on_the_gpu(gpu):
    import torch

    from rocforge.kernels import sample

    arrays = [torch.from_numpy(a).cuda() for a in mixed_rows(np.random.default_rng(1), 64, 128_256)]
    outs = torch.full((50, 64), -7, dtype=torch.int32, device="cuda")
    for out in outs:
        sample.sample(*arrays, out)
    assert (outs == outs[0]).all() and (outs >= 0).all()


@pytest.mark.gpu
def test_fifty_penalties_give_the_same_bits_on_the_gpu(gpu):
    logits, *parameters = penalty_case(np.random.default_rng(2), 64, 128_256, 4000)
    expected = logits.copy()
    cpu.penalize(expected, *parameters)
    for _ in range(50):
        got = logits.copy()
        gpu.penalize(got, *parameters)
        np.testing.assert_array_equal(got.view(np.int32), expected.view(np.int32))
