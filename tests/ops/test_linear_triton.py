"""linear in the Triton room: within what its arithmetic may lose of float64, and of its Numba twin."""

import numpy as np
import pytest

from rocforge.gguf.formats import BF16, F16, F32, Q4_K, Q6_K, Q8_0, SUPPORTED
from rocforge.probe import book
from tests.ops.blocks import BLOCK_FORMATS, activations, extreme_blocks, magnitudes, q8_of, random_blocks, random_q8, weights
from tests.ops.rooms import Blocked, make_room

U = 2.0**-24  # half a unit in the last place of a float32 near 1
H = 2.0**-11  # of a float16


@pytest.fixture(scope="module", params=["triton", pytest.param("gpu", marks=pytest.mark.gpu)])
def room(request):
    return make_room(request.param)


def inputs(format, T, K, rng):
    return rng.standard_normal((T, K)).astype(np.float32) if format.is_float else random_q8(T, K, rng)


def multiply(room, x, data, format):
    T, K = (x if isinstance(x, np.ndarray) else x.values).shape
    out = np.full((T, len(data)), np.nan, np.float32)
    room.linear(x, (room.matrix(data, format, len(data), K),), None, None, out)
    return out


def bound(room, x, data, format):
    """float64 [T, N]: the most that an element may be off.

    Few tokens, blocks: integers are exact; of a unit's part the products with d, m and x's scale and
    their sums lose U each (6), then K/64 additions of a lane and of the lanes' tree (10 at the most);
    the oracle's own weights are rounded three times. Floats: K additions at the most, in any order.
    Many tokens, blocks: of a weight over its row's unit, the scale loses H in float16, the minimum H, and their sum H, with which the
    product is rounded as one; x's values lose H, whose scale is rounded twice (2 U): 3 H in all. The interpreter rounds the product too:
    H more of it, and of the zero that is in it, a power of two. Below float16's normal range (2^-14) rounding is absolute: 2^-25 of the
    product, the minimum and their sum, times the unit, which is 2^9 times less than twice the row's bound; and 2^-25 of x over its row's
    largest scale. Sums: U for each of K columns, twice as much where matrix units truncate. F16 weights are as
    they are, and x is divided by its row's largest value. BF16 and F32: a bfloat16 is off by 2^-8, the second part of two
    by 2^-16, and so is what the product of the lower parts would add: 3 times 2^-16. The interpreter truncates where the
    compiler rounds: each is off by twice as much, so 4 times that.
    """
    float_x = np.abs(x.astype(np.float64) if format.is_float else activations(x))
    (T, K), size = float_x.shape, float_x @ magnitudes(data, format).T
    if T <= room.most_few_tokens():
        return size * U * (K + 4 if format.is_float else K / 64 + 6 + 10 + 3)
    sums = 2 * K * U + 8 * U
    if format is F16:
        small_x = 2.0**-25 * float_x.max(1, keepdims=True) * magnitudes(data, format).sum(1)[None]
        return size * (H + sums) + small_x
    if format.is_float:
        return size * ((12 if room.is_slow else 3) * 2.0**-16 + 4 * K * U)
    from rocforge.kernels import layout
    from rocforge.kernels.decode import DECODE

    bounds, sums_of_x = layout.matrix(data, format, len(data), K, "cpu").bounds.double().numpy(), float_x.sum(1, keepdims=True)
    small_w = 3 * 2.0**-25 * 2**9 * 2 * bounds * sums_of_x
    if room.is_slow and (zero := 128 if DECODE[format].SIGNED else DECODE[format].OFFSET):
        small_w += H * zero * bounds * sums_of_x
    small_x = 2.0**-25 * x.scales.max(1, keepdims=True) * magnitudes(data, format).sum(1)[None]
    return size * ((4 if room.is_slow else 3) * H + sums) * (1 + 3 * H) + small_w + small_x


def check(room, x, data, format):
    float_x = x.astype(np.float64) if format.is_float else activations(x)
    error = np.abs(multiply(room, x, data, format) - float_x @ weights(data, format).T)
    assert (error <= bound(room, x, data, format)).all(), (error / bound(room, x, data, format)).max()


@pytest.mark.parametrize("T", [1, 2, 7, 33, 67])
@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_against_float64(room, format, T):
    rng = np.random.default_rng(T)
    # Neither rows nor columns fill their tiles; an odd number of blocks of 32 leaves half a unit.
    K = {1: 100, 32: 32 * 5, 256: 256}[format.block]
    check(room, inputs(format, T, K, rng), random_blocks(format, 19, K, rng), format)


@pytest.mark.parametrize("K", [1, 15, 33])
@pytest.mark.parametrize("format", [F32, F16, BF16], ids=str)
def test_columns_that_fill_no_vector(room, format, K):
    rng = np.random.default_rng(K)
    for T in (3, 10):
        check(room, inputs(format, T, K, rng), random_blocks(format, 6, K, rng), format)


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_extreme_blocks(room, format):
    rng = np.random.default_rng(1)
    data = extreme_blocks(format, 256)
    is_half = magnitudes(data, format).max(1) < 65504  # what many tokens are multiplied by has to be
    for T in (2, 5, 11):
        check(room, random_q8(T, 256, rng), data[is_half] if T > room.most_few_tokens() else data, format)
    check(room, q8_of(np.full((1, 256), -127, np.int8), np.ones((1, 8), np.float32)), data, format)
    for T in (1, 9):  # nothing but zeros: no division by the largest scale
        check(room, q8_of(np.zeros((T, 256), np.int8), np.zeros((T, 8), np.float32)), data[:4], format)


@pytest.mark.parametrize("format", [Q4_K, Q6_K, Q8_0], ids=str)
def test_activations_of_any_size(room, format):
    """float16 ends at 65504 and begins at 6e-8; activations do not."""
    rng = np.random.default_rng(2)
    x = random_q8(12, 256, rng)
    x.scales[:] *= np.repeat(10.0 ** np.arange(-18, 18, 3), 8).reshape(12, 8)
    check(room, x, random_blocks(format, 20, 256, rng), format)


@pytest.mark.parametrize("T", [3, 20])
@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_parity_with_numba(room, format, T):
    rng = np.random.default_rng(3)
    K = 256
    x, data = inputs(format, T, K, rng), random_blocks(format, 21, K, rng)
    error = np.abs(multiply(room, x, data, format) - multiply(make_room("cpu"), x, data, format))
    assert (error <= 2 * bound(room, x, data, format)).all()  # each is off by one at the most


@pytest.mark.parametrize("T", [6, 12])
@pytest.mark.parametrize("formats", [(Q4_K, Q4_K, Q6_K), (F32, BF16, F16)], ids=lambda fs: "+".join(map(str, fs)))
def test_bias_residual_and_several_weights(room, formats, T):
    rng = np.random.default_rng(4)
    K, rows = 256, (33, 5, 16)
    N = sum(rows)
    data = [random_blocks(f, n, K, rng) for f, n in zip(formats, rows, strict=True)]
    matrices = tuple(room.matrix(d, f, n, K) for d, f, n in zip(data, formats, rows, strict=True))
    x = inputs(formats[0], T, K, rng)
    plain = np.concatenate([multiply(room, x, d, f) for d, f in zip(data, formats, strict=True)], axis=1)
    bias = rng.standard_normal(N).astype(np.float32)
    residual = rng.standard_normal((T, N + 9)).astype(np.float32)[:, 4 : 4 + N]
    for b, r in ((None, None), (bias, None), (None, residual), (bias, residual)):
        wide = np.full((T, N + 2), 7.0, np.float32)
        room.linear(x=x, weights=matrices, bias=b, residual=r, out=wide[:, 1 : N + 1])
        expected = plain if b is None else plain + b
        # The last product of a row and its first sum may be rounded as one (U of the product), and what then is no longer
        # the same is rounded after each sum, here and there (2 U of it).
        with_residual = expected if r is None else expected + r
        off = U * (np.abs(plain) + 2 * np.abs(expected) + 2 * np.abs(with_residual))
        assert (np.abs(wide[:, 1 : N + 1] - with_residual) <= off).all()
        assert (wide[:, 0] == 7).all() and (wide[:, -1] == 7).all()


@pytest.mark.parametrize("format", [Q4_K, Q6_K, Q8_0], ids=str)
def test_programs_that_share_columns(room, format):
    """Three of seven steps, unevenly; the same result but for the order of its sums."""
    rng = np.random.default_rng(6)
    x, data = random_q8(35, 256 * 7, rng), random_blocks(format, 37, 256 * 7, rng)
    tile = {"BT": 16, "BN": 16, "BU": 4, "num_warps": 1, "num_stages": 1, "programs": 10**6}
    with book.use(Blocked(tile)):
        check(room, x, data, format)


# Of tokens up to 512 each number that has a tile of its own somewhere.
SIZES = [
    (1, 4096, 4096), (1, 1000, 14336), (4, 2048, 2048), (8, 896, 896), (16, 1000, 14336), (32, 1000, 4096), (64, 4096, 4096),
    (128, 1000, 4096), (300, 1000, 896), (512, 1000, 4096),
]  # fmt: skip


@pytest.fixture(scope="module")
def compiled():
    """What these sizes launch, compiled side by side: one after the other takes minutes."""
    import torch

    from rocforge.gguf.formats import Q8
    from rocforge.kernels import launch, layout
    from rocforge.kernels.matmul import linear

    make_room("gpu")
    empty = lambda *shape, dtype=torch.float32: torch.empty(shape, dtype=dtype, device="cuda")
    q8 = lambda T, K: Q8(empty(T, K, dtype=torch.int8), empty(T, K // 32), empty(T, K // 16, dtype=torch.int16))
    launches = {}
    for format in SUPPORTED:
        for T, N, K in (size for size in SIZES if size[2] % format.block == 0):
            with launch.record() as program:
                w = layout.empty(format, N, K, torch.device("cuda"))
                linear(empty(T, K) if format.is_float else q8(T, K), (w,), None, None, empty(T, N))
            launches |= {made.key: made for made in program.launches}
    launch.compile_all(map(launch.Kernel, launches.values()))


@pytest.mark.gpu
@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(("T", "N", "K"), SIZES)
@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_real_sizes_and_races(format, T, N, K):
    """Within the bound; and 50 launches on the same input give the same bits."""
    if K % format.block:
        pytest.skip(f"rows of {K} are no whole blocks of {format}")
    import torch

    from rocforge.gguf.formats import Q8
    from rocforge.kernels.matmul import linear

    room, rng = make_room("gpu"), np.random.default_rng(5)
    x, data = inputs(format, T, K, rng), random_blocks(format, N, K, rng)
    check(room, x, data, format)
    on_device = lambda a: torch.from_numpy(a).cuda()
    held = on_device(x) if format.is_float else Q8(*map(on_device, x))
    w, out = (room.matrix(data, format, N, K),), torch.full((50, T, N), torch.nan, device="cuda")
    for one in out:
        linear(held, w, None, None, one)
    assert (out == out[0]).all()
