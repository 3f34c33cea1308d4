"""Paged attention against float64: pages anywhere, sequences of any length in one step."""

import numpy as np
import pytest

from rocforge.gguf.formats import Q8Cache
from rocforge.plan.ir import PAGE
from rocforge.probe import book
from tests import reference
from tests.ops.arrays import q8
from tests.ops.rooms import BLOCKINGS, Blocked, make_room

U = 2.0**-24  # half a unit in the last place of a float32 near 1
H11 = 2.0**-11  # of a float16
NOWHERE = 1 << 28  # the page of what no sequence has reached: reading there would fault

KINDS = pytest.mark.parametrize("kind", ["f32", "f16", "q8"])
# How often a kind's keys or values, or what they are multiplied by, are rounded to float16.
ROUNDED = {"f32": 0, "f16": 1, "q8": 2}


def in_pages(x, page_table, n_pages, kind):
    """[sequence][length, G, D] in pages, as a cache of that kind. What no sequence has written is no number:
    a result that depends on it would show."""
    (G, D), dtype = x[0].shape[1:], np.float16 if kind == "f16" else np.float32
    cache = np.full((n_pages, G, PAGE, D), np.nan, dtype)
    for s, rows in enumerate(x):
        at = np.arange(len(rows))
        cache[page_table[s, at // PAGE], :, at % PAGE] = rows
    if kind != "q8":
        return cache
    values, scales, _ = reference.quantize(np.nan_to_num(cache).reshape(-1, D))
    scales = np.where(np.isnan(cache[..., ::32]), np.nan, scales.reshape(*cache.shape[:3], D // 32))
    return Q8Cache(values.reshape(cache.shape), scales.astype(np.float16))


def floats(cache):
    """A cache of any kind in float64."""
    if not isinstance(cache, Q8Cache):
        return cache.astype(np.float64)
    return cache.values * np.repeat(cache.scales.astype(np.float64), 32, axis=-1)


def step(H, G, D, lengths, new, kind, seed=0, spare=0):
    """A step of the last `new` tokens of sequences of these lengths, over a cache of scattered pages.

    `spare` pages a sequence are more than the longest needs.
    """
    rng = np.random.default_rng(seed)
    pages = [-(-n // PAGE) for n in lengths]
    order = rng.permutation(sum(pages) + 3)
    page_table = np.full((len(lengths), max(pages) + spare), NOWHERE, np.int32)
    for s, n in enumerate(pages):
        page_table[s, :n] = order[sum(pages[:s]) :][:n]
    k, v = (
        in_pages([rng.standard_normal((n, G, D)) for n in lengths], page_table, len(order), kind) for _ in range(2)
    )
    positions = np.concatenate([np.arange(n - min(new, n), n) for n in lengths]).astype(np.int32)
    sequences = np.concatenate([np.full(min(new, n), s) for s, n in enumerate(lengths)]).astype(np.int32)
    qkv = rng.standard_normal((len(positions), (H + 2 * G) * D)).astype(np.float32)
    return qkv, positions, sequences, page_table, k, v


def attrs(H, G, D, window=0, scale=None):
    return {"heads": H, "kv_heads": G, "head_dim": D, "scale": scale or D**-0.5, "window": window}


def expected(arrays, attributes):
    qkv, positions, sequences, page_table, k, v = arrays
    return reference.attention(qkv.astype(np.float64), positions, sequences, page_table, floats(k), floats(v), **attributes)


def run(room, arrays, attributes):
    out = np.full((len(arrays[0]), attributes["heads"] * attributes["head_dim"]), np.nan, np.float32)
    room.attention(*arrays, out, **attributes)
    return out


# Float32 throughout, and what the caches hold is exact in it. A score is a sum of D products of size one
# over sqrt(D): off by some ulps of its size, below 8; its exponential by that much relatively, and each
# page rescales once. Weights sum to one over values below 5: 16 half-ulps of 5 leave a factor of four to
# what is seen.
FLOAT_BOUND = 16 * 5 * U


def bound(room, arrays, attributes, kind):
    """float64 [T, H * D]: the most that an element of out may be off.

    Caches of halves and Q8 on a GPU, whose products are of float16: a query's element is rounded once (H11), and so
    is that of a Q8 key, so score j is off by d[j], H11 (twice that) of the sum of absolute products. Normalised
    weights w and w e^d differ so that out is off by the sum of w[j] d[j] |v[j] - out|, and by 5 % of it where d is
    below 0.03. The weights are then rounded to float16, and Q8 values are: H11 each of w |v|, or 2^-25 where
    the weight is below float16's normal range. Sums of n terms lose 2 U each where matrix units truncate.
    """
    if room.name == "cpu" or kind == "f32":
        return FLOAT_BOUND
    return FLOAT_BOUND + of_products(arrays, attributes, ROUNDED[kind])


def of_products(arrays, attributes, rounded):
    qkv, positions, sequences, page_table, k, v = arrays
    k, v, window, D = floats(k), floats(v), attributes["window"], attributes["head_dim"]
    out = np.empty((len(qkv), attributes["heads"], D))
    for t, p in enumerate(positions):
        seen = np.arange(max(0, p - window + 1) if window else 0, p + 1)
        pages = page_table[sequences[t], seen // PAGE]
        for h in range(attributes["heads"]):
            at = pages, h // (attributes["heads"] // attributes["kv_heads"]), seen % PAGE
            q = qkv[t, h * D : (h + 1) * D].astype(np.float64)
            score, values = attributes["scale"] * (k[at] @ q), v[at]
            d = attributes["scale"] * (np.abs(k[at]) @ np.abs(q)) * (rounded * H11 + 2 * U * D)
            assert d.max() < 0.03
            w = np.exp(score - score.max()) / np.exp(score - score.max()).sum()
            sizes = np.abs(values)
            out[t, h] = 1.05 * (w * d) @ np.abs(values - w @ values) + w @ sizes * (rounded * H11 + 2 * U * len(seen))
            out[t, h] += 2.0**-25 * sizes.sum(0) * bool(rounded)
    return out.reshape(len(qkv), -1)


def check(room, arrays, attributes, kind):
    error = np.abs(run(room, arrays, attributes) - expected(arrays, attributes))
    ratio = error / bound(room, arrays, attributes, kind)
    assert (ratio <= 1).all(), ratio.max()


def in_8_bits(room, arrays, attributes):
    """What the op writes into a Q8."""
    out = q8(len(arrays[0]), attributes["heads"] * attributes["head_dim"])
    room.attention(*arrays, out, **attributes)
    return out


CASES = [
    # H, G, D, lengths, new, window
    (4, 2, 64, [1], 1, 0),
    (4, 2, 64, [100, 33, 32, 31], 1, 0),
    (8, 1, 32, [70, 5], 40, 0),
    (2, 2, 128, [97], 97, 0),
    (3, 3, 80, [50, 64], 9, 0),
    (2, 1, 96, [50, 64], 9, 0),
    (4, 2, 20, [40], 40, 0),
    (2, 1, 8, [37], 37, 0),
    (4, 2, 64, [150, 20], 30, 17),
    (4, 2, 32, [90], 90, 32),
    (2, 2, 16, [40], 40, 1),
    (14, 2, 64, [70, 1], 33, 0),  # groups of 7, as Qwen2's
    (16, 1, 32, [66, 3, 40], 1, 50),
    (1, 1, 64, [200], 150, 0),  # more tokens than share a page
    (3, 1, 33, [45], 20, 0),
    (2, 1, 256, [40, 70], 5, 0),
    (2, 1, 32, [5, 1, 40, 2, 3, 33], 4, 0),  # several sequences in a tile of tokens
]


@KINDS
@pytest.mark.parametrize(("H", "G", "D", "lengths", "new", "window"), CASES)
def test_against_float64(room, H, G, D, lengths, new, window, kind):
    if kind == "q8" and D % 32:
        pytest.skip("Q8 has blocks of 32 along the head")
    if room.is_slow and (kind == "f32" or D % 8):
        new = min(new, 4)  # each token is a program of its own
    check(room, step(H, G, D, lengths, new, kind), attrs(H, G, D, window), kind)


@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize(("H", "G", "D", "lengths", "new", "window"), [CASES[i] for i in (1, 4, 5, 8, 11, 16)])
def test_without_matrix_units(H, G, D, lengths, new, window, kind):
    """What gfx906 and RDNA2 run, in the interpreter: float32 throughout, whatever the cache."""
    if kind == "q8" and D % 32:
        pytest.skip("Q8 has blocks of 32 along the head")
    room = make_room("triton")
    from rocforge.kernels.target import AMD, use

    arrays, attributes = step(H, G, D, lengths, min(new, 4), kind), attrs(H, G, D, window)
    with use(AMD["gfx906"]):
        error = np.abs(run(room, arrays, attributes) - expected(arrays, attributes))
    assert error.max() <= FLOAT_BOUND


@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize(("D", "lengths", "new", "spare"), [(64, [300], 1, 40), (256, [40], 1, 0), (128, [70, 3, 20], 33, 0)])
@pytest.mark.parametrize("arch", ["gfx942", "gfx1100", "gfx1201"])
def test_as_other_targets_tile_it(arch, D, lengths, new, spare, kind):
    """In the interpreter: blocks of 16 to 128 keys, more splits than are joined in a step."""
    room = make_room("triton")
    from rocforge.kernels.target import AMD, use

    with use(AMD[arch]):
        check(room, step(3, 1, D, lengths, new, kind, spare=spare), attrs(3, 1, D), kind)


@KINDS
@pytest.mark.parametrize("window", [0, 40])
def test_room_for_more_pages_changes_nothing_but_the_order(room, kind, window):
    """On a GPU, the room that a sequence has decides how many programs share its keys, some of them none."""
    for spare in (1, 40):
        check(room, step(4, 2, 32, [130, 33, 7], 1, kind, spare=spare), attrs(4, 2, 32, window), kind)


@KINDS
@pytest.mark.parametrize(("H", "G", "D", "lengths", "new", "window"), [(4, 2, 64, [100, 33], 1, 0), (3, 3, 96, [50, 64], 9, 0), (2, 1, 32, [40] * 6, 1, 17)])
def test_in_8_bits_is_the_float_result_quantised(room, H, G, D, lengths, new, window, kind):
    arrays, attributes = step(H, G, D, lengths, new, kind, spare=2), attrs(H, G, D, window)
    wanted = q8(len(arrays[0]), H * D)
    room.quantize(run(room, arrays, attributes), wanted)
    for got, want in zip(in_8_bits(room, arrays, attributes), wanted, strict=True):
        np.testing.assert_array_equal(got, want)


NUMPY_WARNS = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")  # of no numbers, in the interpreter


@NUMPY_WARNS
@KINDS
@pytest.mark.parametrize(("lengths", "new"), [([40, 70], 1), ([40, 70], 9)])
def test_padding_has_no_effect(room, lengths, new, kind):
    """Tokens at position -1, of any sequence and with any query, behind the others."""
    qkv, positions, sequences, *cache = step(4, 2, 32, lengths, new, kind, spare=2)
    more = 3
    qkv = np.concatenate([qkv, np.full((more, qkv.shape[1]), np.nan, np.float32)])
    positions = np.concatenate([positions, np.full(more, -1, np.int32)])
    sequences = np.concatenate([sequences, np.array([1, NOWHERE, 0], np.int32)])
    attributes = attrs(4, 2, 32)
    out = run(room, (qkv, positions, sequences, *cache), attributes)
    real = (qkv[:-more], positions[:-more], sequences[:-more], *cache)
    assert (np.abs(out[:-more] - expected(real, attributes)) <= bound(room, real, attributes, kind)).all()


@NUMPY_WARNS
@KINDS
def test_sequences_do_not_touch_each_other(room, kind):
    """Whatever is in one's cache, even in the same tile of tokens: no number, or infinity."""
    qkv, positions, sequences, page_table, k, v = step(2, 1, 32, [20, 40, 7], 3, kind)
    before = run(room, (qkv, positions, sequences, page_table, k, v), attrs(2, 1, 32))
    for cache in (k, v):
        (cache.scales if kind == "q8" else cache)[page_table[1, :2]] = np.inf
    qkv[sequences == 1] = np.nan
    after = run(room, (qkv, positions, sequences, page_table, k, v), attrs(2, 1, 32))
    np.testing.assert_array_equal(after[sequences != 1], before[sequences != 1])
    assert np.isnan(after[sequences == 1]).all()


def test_large_scores_do_not_overflow(room):
    qkv, *rest = step(2, 1, 32, [80], 10, "f32")
    arrays, attributes = (qkv * 200, *rest), attrs(2, 1, 32, scale=1.0)
    # Scores near 3,000 are off by 3,000 * 2^-23, and weights by that relatively.
    np.testing.assert_allclose(run(room, arrays, attributes), expected(arrays, attributes), atol=5 * 3000 * 2**-22)


@KINDS
@pytest.mark.parametrize("new", [1, 9])
def test_queries_of_any_size(room, kind, new):
    """float16 ends at 65504 and begins at 6e-8; queries do not. Powers of two change no bit."""
    qkv, *rest = step(2, 1, 32, [50], new, kind)
    plain = run(room, (qkv, *rest), attrs(2, 1, 32, scale=0.25))
    for power in (-40, 40):
        scaled = run(room, (np.ldexp(qkv, power), *rest), attrs(2, 1, 32, scale=np.ldexp(0.25, -power)))
        np.testing.assert_array_equal(scaled, plain)


@KINDS
def test_queries_of_nothing_but_zeros(room, kind):
    qkv, *rest = step(2, 1, 32, [50], 5, kind)
    check(room, (0 * qkv, *rest), attrs(2, 1, 32), kind)


@NUMPY_WARNS
@KINDS
def test_what_is_no_number_is_not_hidden(room, kind):
    qkv, *rest = step(1, 1, 32, [40], 8, kind)
    qkv[5, 0] = np.nan
    out = run(room, (qkv, *rest), attrs(1, 1, 32, scale=0.25))
    assert np.flatnonzero(np.isnan(out).any(axis=1)).tolist() == [5]


@KINDS
@pytest.mark.parametrize(("new", "window"), [(1, 0), (12, 0), (12, 30)])
def test_parity_with_numba(room, kind, new, window):
    if room.name == "cpu":
        pytest.skip("it is Numba")
    arrays, attributes = step(6, 2, 64, [77, 12], new, kind), attrs(6, 2, 64, window)
    error = np.abs(run(room, arrays, attributes) - run(make_room("cpu"), arrays, attributes))
    ratio = error / (FLOAT_BOUND + bound(room, arrays, attributes, kind))  # each is off by its own
    assert (ratio <= 1).all(), ratio.max()


# ---- bits, on the CPU


@KINDS
@pytest.mark.parametrize("threads", [2, 3, 5, 9])
def test_bits_do_not_depend_on_how_heads_are_shared_out(threads, kind):
    """One token: there are fewer kv-heads than threads, so a group's heads are divided."""
    from rocforge.cpu.threads import Team, use

    arrays, attributes = step(7, 1, 64, [75], 1, kind), attrs(7, 1, 64)
    team, cpu = Team(threads), make_room("cpu")
    with use(team):
        shared = run(cpu, arrays, attributes)
    team.close()
    np.testing.assert_array_equal(shared, run(cpu, arrays, attributes))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("window", [0, 40])
def test_bits_depend_on_nothing_else_in_the_step(threads, window):
    from rocforge.cpu.threads import Team, use

    qkv, positions, sequences, *cache = step(5, 1, 48, [90, 61], 50, "f16")
    attributes, team, cpu = attrs(5, 1, 48, window, scale=0.2), Team(threads), make_room("cpu")
    with use(team):
        together = run(cpu, (qkv, positions, sequences, *cache), attributes)
    team.close()
    for t in range(len(qkv)):
        one = slice(t, t + 1)
        alone = run(cpu, (qkv[one], positions[one], sequences[one], *cache), attributes)
        np.testing.assert_array_equal(together[one], alone)


@KINDS
def test_bits_do_not_depend_on_how_it_is_blocked(kind):
    arrays, attributes, cpu = step(6, 2, 64, [90, 61], 50, kind), attrs(6, 2, 64, 70), make_room("cpu")
    whole = run(cpu, arrays, attributes)
    for sizes in BLOCKINGS:
        with book.use(Blocked(sizes)), book.watch() as found:
            np.testing.assert_array_equal(run(cpu, arrays, attributes), whole)
        assert [(choice.key.format, choice.origin) for choice in found] == [({"q8": "q8_0"}.get(kind, kind), book.TRIED)]


# ---- on the GPU

REAL = [
    # H, G, D, lengths, new, window, spare
    (32, 8, 128, [16000], 1, 0, 40),  # Llama 3 8B
    (32, 8, 64, [5000, 3, 1700], 1, 0, 0),  # Llama 3.2 1B
    (14, 2, 64, [4000, 900], 1, 0, 300),
    (32, 32, 80, [2000] * 16, 1, 0, 0),
    (32, 8, 128, [5000], 1, 4096, 0),
    (8, 4, 256, [3000, 40], 1, 0, 0),
    (16, 1, 128, [700] * 5, 1, 0, 0),
    (32, 8, 128, [1024], 1024, 0, 0),
    (32, 8, 64, [3000, 9, 700], 500, 0, 0),
    (28, 4, 128, [2000], 130, 0, 0),
    (32, 32, 96, [300, 200], 200, 100, 0),
    (8, 4, 256, [700], 300, 0, 0),
    (16, 1, 128, [100, 3, 50], 77, 0, 5),
]


@pytest.mark.gpu
@KINDS
@pytest.mark.parametrize(("H", "G", "D", "lengths", "new", "window", "spare"), REAL)
def test_real_sizes_and_races(H, G, D, lengths, new, window, spare, kind):
    """Within the bound; and 50 launches on the same input give the same bits."""
    if kind == "q8" and D % 32:
        pytest.skip(f"heads of {D} are no whole blocks of 32")
    import torch

    from rocforge.kernels.attention import attention

    make_room("gpu")
    arrays, attributes = step(H, G, D, lengths, new, kind, spare=spare), attrs(H, G, D, window)
    on_device = lambda a: Q8Cache(*map(on_device, a)) if isinstance(a, tuple) else torch.from_numpy(a).cuda()
    held = [on_device(a) for a in arrays]
    out = torch.full((50, len(arrays[0]), H * D), torch.nan, device="cuda")
    for one in out:
        attention(*held, one, **attributes)
    assert (out == out[0]).all()
    # The oracle is slow: some tokens, the last among them.
    some = np.unique(np.r_[np.arange(0, len(arrays[0]), 61), len(arrays[0]) - 1])
    arrays = tuple(a[some] for a in arrays[:3]) + arrays[3:]
    error = np.abs(out[0].cpu().numpy()[some] - expected(arrays, attributes))
    # Float32's own error grows with the number of keys, here beyond what FLOAT_BOUND was seen to hold for.
    ratio = error / (FLOAT_BOUND + of_products(arrays, attributes, ROUNDED[kind]))
    assert (ratio <= 1).all(), ratio.max()
