"""Instructions that Triton's interpreter has none of, as the PTX ISA defines them, and what is built on them: against
values made one by one. The kernels' own functions run, in the interpreter, on these instructions in numpy."""

import importlib

import numpy as np
import pytest

pytest.importorskip("triton", reason="triton is absent: pip install triton")
import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402

from rocforge.gguf.formats import IQ4_NL, Q8_0  # noqa: E402
from rocforge.kernels import asm, layout  # noqa: E402
from rocforge.kernels.decode import DECODE, LEVELS_0, LEVELS_1, LEVELS_2, LEVELS_3  # noqa: E402
from rocforge.kernels.dots import dots_of, dots_of_values  # noqa: E402
from rocforge.kernels.layout import PLANES  # noqa: E402
from tests.ops.rooms import make_room  # noqa: E402

LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
TABLE = [w.value for w in (LEVELS_0, LEVELS_1, LEVELS_2, LEVELS_3)]
ISAS = ("ptx", "rdna")


# ---- the instructions, over int64 arrays of words


def byte(word, i, signed=False):
    found = word >> 8 * i & 255
    return np.where(found > 127, found - 256, found) if signed else found


def as_int32(word):
    word = word & 0xFFFFFFFF
    return np.where(word >> 31, word - (1 << 32), word)


def prmt(a, b, selector):
    """prmt.b32: nibble i of the selector chooses byte i of the result from b3..b0 a3..a0; its top bit, that byte's sign instead."""
    out = 0
    for i in range(4):
        nibble = selector >> 4 * i & 15
        chosen = np.where(nibble & 4, b, a) >> 8 * (nibble & 3) & 255
        out = out | np.where(nibble & 8, np.where(chosen & 128, 255, 0), chosen) << 8 * i
    return as_int32(out)


def dp4a(a, b, c, signed):
    """dp4a.s32.s32, or .u32.s32: c + the four products of bytes, modulo 2^32."""
    return as_int32(c + sum(byte(a, i, signed) * byte(b, i, True) for i in range(4)))


def dp2a(a, b, c, high):
    """dp2a.lo or .hi: c + the halves of a, signed, by two bytes of b."""
    halves = [np.where((h := a >> s & 0xFFFF) >> 15, h - 65536, h) for s in (0, 16)]
    return as_int32(c + sum(half * byte(b, i + 2 * high, True) for i, half in enumerate(halves)))


def words(rng, *shape):
    return rng.integers(-(2**31), 2**31, shape)


# ---- what asm.py makes of them


def test_a_byte_with_its_sign():
    """byte_of: an index of 8 + i fills a byte with byte i's sign."""
    word = words(np.random.default_rng(0), 1000)
    for i, selector in enumerate((0x8880, 0x9991, 0xAAA2)):
        np.testing.assert_array_equal(prmt(word, np.int64(0), np.int64(selector)), byte(word, i, True))


def test_two_sums_by_their_scales():
    """dot2, of all that SHORT sums may be: 16 products of 2 bits (Q2_K) and -128; of 3 less 4 (Q3_K) and -127."""
    rng = np.random.default_rng(1)
    most = max(16 * 3 * 128, 16 * 4 * 127)
    assert most < 1 << 15
    a0, a1 = (np.concatenate([[-most, most, -1, 0], rng.integers(-most, most + 1, 500)]) for _ in range(2))
    scales = words(rng, 504)
    for second in (False, True):
        packed = prmt(a0, a1, np.int64(0x5410))
        expected = a0 * byte(scales, 2 * second, True) + a1 * byte(scales, 2 * second + 1, True)
        np.testing.assert_array_equal(dp2a(packed, scales, 0, second), expected)


def dot_levels(w, x_low, x_high, c, t0, t1, t2, t3):
    """asm.dot_levels, instruction by instruction."""
    x0, x1 = prmt(x_low, x_high, np.int64(0x5140)), prmt(x_low, x_high, np.int64(0x7362))
    t2, t3 = as_int32(t2 + 0x01010101), as_int32(t3 + 0x01010101)
    j = w ^ 0x88888888
    total = c
    for x, shift in ((x0, 0), (x1, 16)):
        total = dp4a(prmt(t0, t1, (w & 0xFFFFFFFF) >> shift), x, total, True)
        total = dp4a(prmt(t2, t3, (j & 0xFFFFFFFF) >> shift), x, total, True)
    return total


def test_levels_are_looked_up():
    """Every nibble in every place, by one-hot activations; and random words."""
    table = np.concatenate([byte(np.array(t), np.arange(4), True) for t in TABLE])
    np.testing.assert_array_equal(table, LEVELS)
    rng = np.random.default_rng(2)
    for place in range(8):
        w = as_int32(np.arange(16) << 4 * place | words(rng, 16) & ~(15 << 4 * place) & 0xFFFFFFFF)
        x = [np.int64(1 << 8 * (place // 2)) if place % 2 == half else np.int64(0) for half in (0, 1)]
        np.testing.assert_array_equal(dot_levels(w, *x, 0, *TABLE), LEVELS)
    w, x_low, x_high, c = words(rng, 4, 5000)
    c //= 2
    expected = c + sum(
        LEVELS[byte(w, i) & 15] * byte(x_low, i, True) + LEVELS[byte(w, i) >> 4] * byte(x_high, i, True) for i in range(4)
    )
    np.testing.assert_array_equal(dot_levels(w, x_low, x_high, c, *TABLE), expected)


def test_ones_lie_where_the_masks_look():
    """layout's plane of ones: bit 2g + b of byte 4a + j is column 16g + 8a + 4b + j of the unit, which is byte j of its word 2a + b."""
    for column in range(64):
        bits = torch.zeros((1, 64), dtype=torch.uint8)
        bits[0, column] = 1
        plane = layout._ones(bits).reshape(8).numpy()
        g, a, b, j = column // 16, column // 8 % 2, column // 4 % 2, column % 4
        assert plane[4 * a + j] == 1 << 2 * g + b and plane.astype(int).sum() == 1 << 2 * g + b


# ---- dots.py, in the interpreter


@triton.jit
def run_dots(
    p0, p1, p2, p3, x_at, out, N_WORDS: tl.constexpr, LONG: tl.constexpr, BN: tl.constexpr, BU: tl.constexpr,
    dots: tl.constexpr, values: tl.constexpr, ISA: tl.constexpr,
):  # fmt: skip
    """What a format's words [BN, BU, 4] by the words x [4, BU, 4] are, and the last plane [BN, BU] if LONG: out [4, BN, BU]."""
    each = (tl.arange(0, BN)[:, None] * BU + tl.arange(0, BU)[None, :])
    four = each[:, :, None] * 4 + tl.arange(0, 4)[None, None, :]
    lanes = (tl.arange(0, BU)[:, None] * 4 + tl.arange(0, 4)[None, :])[None, :, :]
    words = ()
    if N_WORDS > 0:
        words += (tl.load(p0 + four),)
    if N_WORDS > 1:
        words += (tl.load(p1 + four),)
    if N_WORDS > 2:
        words += (tl.load(p2 + four),)
    if N_WORDS > 3:
        words += (tl.load(p3 + four),)
    if LONG:
        words += (tl.load(p3 + each),)
    x0, x1, x2, x3 = tl.load(x_at + lanes), tl.load(x_at + BU * 4 + lanes), tl.load(x_at + BU * 8 + lanes), tl.load(x_at + BU * 12 + lanes)
    i0, i1, i2, i3 = dots(words, x0, x1, x2, x3, 0, values, ISA)
    tl.store(out + each, i0)
    tl.store(out + BN * BU + each, i1)
    tl.store(out + 2 * BN * BU + each, i2)
    tl.store(out + 3 * BN * BU + each, i3)


@triton.jit
def dot4_unsigned_in_words(a, b, c, ISA: tl.constexpr):
    """dp4a.u32.s32 in what the interpreter has (test_the_stand_ins)."""
    total = c
    for i in tl.static_range(4):
        total += ((a >> (8 * i)) & 255) * ((b << (24 - 8 * i)) >> (24))
    return total


@triton.jit
def level(n, t0, t1, t2, t3):
    word = tl.where(n < 4, t0, tl.where(n < 8, t1, tl.where(n < 12, t2, t3)))
    return ((word >> (n % 4 * 8)) << 24) >> 24


@triton.jit
def dot_levels_in_words(words, x_low, x_high, c, t0, t1, t2, t3):
    total = c
    for i in tl.static_range(4):
        b = (words >> (8 * i)) & 255
        total += level(b & 15, t0, t1, t2, t3) * ((x_low << (24 - 8 * i)) >> 24)
        total += level(b >> 4, t0, t1, t2, t3) * ((x_high << (24 - 8 * i)) >> 24)
    return total


@triton.jit
def run_stand_ins(a, b, c, d, out, n: tl.constexpr, t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr, t3: tl.constexpr):
    i = tl.arange(0, n)
    zero = tl.zeros((n,), tl.int32)
    tl.store(out + i, dot4_unsigned_in_words(tl.load(a + i), tl.load(b + i), tl.load(c + i), "ptx"))
    found = dot_levels_in_words(tl.load(a + i), tl.load(b + i), tl.load(d + i), tl.load(c + i), zero + t0, zero + t1, zero + t2, zero + t3)
    tl.store(out + n + i, found)


def int32(x):
    return torch.from_numpy(np.ascontiguousarray(x).astype(np.int32))


def test_the_stand_ins():
    """They are the instructions."""
    make_room("triton")
    rng, n = np.random.default_rng(3), 256
    a, b, c, d = words(rng, 4, n)
    c //= 2
    out = torch.zeros(2 * n, dtype=torch.int32)
    run_stand_ins[(1,)](*map(int32, (a, b, c, d)), out, n, *TABLE)
    np.testing.assert_array_equal(out[:n].numpy(), dp4a(a, b, c, False))
    np.testing.assert_array_equal(out[n:].numpy(), dot_levels(a, b, d, c, *TABLE))


@pytest.fixture
def instructions(monkeypatch):
    """dots.py's instructions are the stand-ins."""
    make_room("triton")
    dots = importlib.import_module("rocforge.kernels.dots")
    monkeypatch.setattr(dots, "dot4_unsigned", dot4_unsigned_in_words)
    monkeypatch.setattr(dots, "dot_levels", dot_levels_in_words)
    monkeypatch.setattr(dots, "dot4", PORTABLE)


@triton.jit
def PORTABLE(a, b, c, ISA: tl.constexpr):
    return asm.dot4(a, b, c, "portable")


def sums_of(format, planes, x, dots, isa):
    four = [p for p in planes if p.ndim == 3]
    long = [p for p in planes if p.ndim == 2]
    given = [torch.from_numpy(p) for p in four]
    given += [given[0]] * (3 - len(given)) if len(given) < 4 else []
    given += [torch.from_numpy(long[0]) if long else given[0]] if len(given) < 4 else []
    BN, BU, _ = four[0].shape
    out = torch.full((4, BN, BU), 77, dtype=torch.int32)
    run_dots[(1,)](*given, torch.from_numpy(x), out, len(four), bool(long), BN, BU, dots, DECODE[format].values, isa)
    return out.numpy()


def extreme(rng, *shape):
    """Random words, among them those of nothing but ones or zeros."""
    found = words(rng, *shape)
    found.reshape(-1)[::7] = -1
    found.reshape(-1)[3::11] = 0
    return found.astype(np.int32)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("format", PLANES, ids=str)
def test_bits_multiplied_in_place_are_the_values(instructions, format, isa):
    """For any words: where groups have scales of their own each sum, else those of the two groups of a half."""
    rng, (BN, BU) = np.random.default_rng(4), (4, 8)
    planes = PLANES[format]
    given = [extreme(rng, BN, BU, 4) for p in (planes.quants, planes.high) if p and p.width == 4 for _ in range(p.n_parts)]
    given += [rng.integers(-(2**63), 2**63, (BN, BU), dtype=np.int64)] if planes.high is layout.ONES else []
    x = extreme(rng, 4, BU, 4)
    x[0] = as_int32(np.int64(0x80808080))  # -128 is what no activation is, and what the most bits are multiplied by
    expected = sums_of(format, given, x, dots_of_values, "portable")
    got = sums_of(format, given, x, dots_of(format, isa), isa if dots_of(format, isa) is not dots_of_values else "portable")
    if DECODE[format].SCALED and not DECODE[format].HALVES:
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_array_equal(got[0] + got[1], expected[0] + expected[1])
        np.testing.assert_array_equal(got[2] + got[3], expected[2] + expected[3])


def test_which_formats_multiply_bits_in_place():
    assert {f for f in PLANES if dots_of(f, "ptx") is dots_of_values} == {Q8_0}
    assert dots_of(IQ4_NL, "rdna") is dots_of(IQ4_NL, "gcn") is dots_of_values
