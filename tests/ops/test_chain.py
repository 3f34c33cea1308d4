"""A step's ops by one call, against float64: those that one launch does together, and those that it must not.

The oracle computes each op from what the one before has written, so no bound holds another's error; but where a launch
leaves nothing to be seen of an op, from what the oracle computed of that.
"""

import numpy as np
import pytest

from rocforge.gguf.formats import F16, IQ4_NL, IQ4_XS, Q2_K, Q3_K, Q4_0, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0
from rocforge.plan.ir import PAGE
from rocforge.probe import book
from tests import reference
from tests.ops.arrays import q8
from tests.ops.blocks import activations, magnitudes, random_blocks, random_q8, weights
from tests.ops.rooms import Blocked, make_room
from tests.ops.test_attention import H11, U, attrs, floats, step
from tests.ops.test_attention import bound as attention_bound

CHAINED = ["gemv_norm", "gemv_rope"]


class Step:
    """linear, rms_norm, linear, rope_store, attention of `T` tokens of one sequence, whose last is at `position`.

    `first` is the first product's format, of K columns and N rows; `formats` are those of q, k, v, or of all as one.
    """

    def __init__(
        self, room, first=Q4_K, K=512, N=256, formats=(Q4_K, Q4_K, Q6_K), H=4, G=2, D=16, layout="interleaved", kind="f16", *,
        T=1, biases=False, residual=True, norms=False, rotated=None, position=39,
    ):  # fmt: skip
        rng = np.random.default_rng(K + N + D)
        self.room, self.T, self.K, self.N, self.H, self.G, self.D, self.kind = room, T, K, N, H, G, D, kind
        normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
        self.x = normal(T, K) if first.is_float else random_q8(T, K, rng)
        self.A, self.first = random_blocks(first, N, K, rng), first
        rows = (H * D, G * D, G * D) if len(formats) == 3 else ((H + 2 * G) * D,)
        self.B, self.formats = [random_blocks(f, n, N, rng) for f, n in zip(formats, rows, strict=True)], formats
        exact = self.float_x @ weights(self.A, first).T
        size = np.sqrt(np.mean(exact**2))
        self.bias = (size * normal(N)).astype(np.float32) if biases else None
        self.residual = (size * normal(T, N)).astype(np.float32) if residual else None
        # Such that eps counts, and that queries, keys and values are near 1.
        self.eps = float(size**2)
        rms = np.sqrt(np.mean(np.concatenate([weights(b, f) for b, f in zip(self.B, formats)]) ** 2) * N)
        self.weight = ((1 + normal(N) / 4) / rms).astype(np.float32)
        self.qkv_bias = normal(sum(rows)) / 4 if biases else None
        _, self.positions, self.sequences, self.page_table, *caches = step(H, G, D, [5, position + 1], T, kind, seed=D)
        own = self.sequences == 1
        self.positions, self.sequences = self.positions[own], self.sequences[own]
        rotated = rotated or D
        angles = reference.rope_table(self.positions, 1e4 ** (-np.arange(0, rotated, 2) / rotated), 1.0)
        self.table, self.layout = angles.astype(np.float32), layout
        self.q_norm, self.k_norm = (normal(D), normal(D)) if norms else (None, None)
        for cache in caches:  # the rows of the tokens: what is not stored is found
            for part in cache if kind == "q8" else (cache,):
                part[self.page_table[1, self.positions // PAGE], :, self.positions % PAGE] = 77
        self.k_cache, self.v_cache = caches
        self.h, self.normed, self.qkv, self.out = self.empty(N), q8(T, N), self.empty(sum(rows)), self.empty(H * D)

    @property
    def float_x(self):
        return self.x.astype(np.float64) if self.first.is_float else activations(self.x)

    def empty(self, columns):
        return np.full((self.T, columns), np.nan, np.float32)

    def ops(self, n=5):
        """The first n of them."""
        matrices = lambda parts: tuple(self.room.matrix(data, f, len(data), columns) for data, f, columns in parts)
        where = {"positions": self.positions, "sequences": self.sequences, "page_table": self.page_table}
        where |= {"qkv": self.qkv, "k_cache": self.k_cache, "v_cache": self.v_cache}
        scaled = attrs(self.H, self.G, self.D)
        heads = {name: scaled[name] for name in ("heads", "kv_heads", "head_dim")}
        first, second = matrices([(self.A, self.first, self.K)]), matrices([(b, f, self.N) for b, f in zip(self.B, self.formats)])
        norms = {"q_norm": self.q_norm, "k_norm": self.k_norm}
        return [
            ("linear", {"x": self.x, "weights": first, "bias": self.bias, "residual": self.residual, "out": self.h}),
            ("rms_norm", {"x": self.h, "weight": self.weight, "out": self.normed, "eps": self.eps}),
            ("linear", {"x": self.normed, "weights": second, "bias": self.qkv_bias, "residual": None, "out": self.qkv}),
            ("rope_store", {**where, **heads, **norms, "table": self.table, "layout": self.layout, "eps": 1e-6}),
            ("attention", {**where, **scaled, "out": self.out}),
        ][:n]

    def run(self, n=5):
        """The names of the kernels, where there are some."""
        self.before = [floats(cache) for cache in (self.k_cache, self.v_cache)]
        return self.room.launch_all(self.ops(n))


def is_here(room):
    """Whether it launches neighbours together."""
    if room.name == "cpu":
        return False
    from rocforge.kernels import target

    return target.current().backend in ("cuda", "interpreter")


def lost(n, x, parts):
    """float64 [T, rows]: what a product of one token and n columns loses: U of the sum of magnitudes for each of n/64 additions
    of a lane, 6 of a unit's parts, 10 of the lanes' tree; 3 of the oracle's weights (tests/ops/test_linear_triton.py).
    Numba's strips lose 9 and 3 for each 256 columns (test_linear.py), which is less."""
    return np.concatenate([np.abs(x) @ magnitudes(data, f).T for data, f in parts], 1) * U * (n / 64 + 6 + 10 + 3)


def check_product(s):
    """h, and of what is added to it: two sums, U each of what they are."""
    expected = reference.linear(s.float_x, [weights(s.A, s.first)], s.bias, s.residual)
    bound = lost(s.K, s.float_x, [(s.A, s.first)])
    summands = sum(np.abs(b) for b in (s.bias, s.residual) if b is not None) if s.bias is not None or s.residual is not None else 0
    error = np.abs(s.h - expected)
    assert (error <= bound + 2 * U * (np.abs(expected) + summands + bound)).all(), error.max()


def inverse_rms(s):
    h = s.h.astype(np.float64)
    return 1 / np.sqrt(np.mean(h * h, axis=1, keepdims=True) + s.eps)


def check_norm(s, leaves_root):
    """normed, of h as it is. The root is a factor of a block's values and of their scale alike: they are as they would be without.

    A value is rounded by two products, the largest of the block too, then its inverse and the value over it (6 U of at the
    most 127): what then is no more than that from a half may become either neighbour.
    """
    y = s.h.astype(np.float64) * s.weight
    blocks = y.reshape(s.T, -1, 32)
    largest = np.abs(blocks).max(2)
    steps = 127 * blocks / largest[..., None]
    got = s.normed.values.reshape(blocks.shape)
    assert (np.abs(got - steps) <= 0.5 + 6 * 127 * U).all()
    assert np.array_equal(s.normed.sums, s.normed.values.reshape(s.T, -1, 16).sum(2))
    # A product and a division; with the root two products, and what is off of it.
    root, off = (1, 2 * U) if leaves_root else (inverse_rms(s), 3 * U + root_off(s.N))
    scales = root * largest / 127
    assert (np.abs(s.normed.scales - scales) <= 1.001 * off * scales).all()


def root_off(N):
    """Relative: N positive squares are summed by blocks of 32, lanes or strips of some N/1024 of them, and a tree of 32; a square
    is rounded once itself. Half of that is the root's, and of a division and a sum (1 U); its own two roundings, or 2 ulp
    of an approximate one (4 U)."""
    return U * ((1 + 31 + N / 1024 + 31) / 2 + 1 + 4)


def check_second(s, leaves_root, n):
    """qkv; of n = 4 ops, the queries turned, and the caches' new rows."""
    x, parts = activations(s.normed), list(zip(s.B, s.formats, strict=True))
    products = x @ np.concatenate([weights(b, f) for b, f in parts]).T
    bound = lost(s.N, x, parts)
    if leaves_root:  # a root, and its product
        root = inverse_rms(s)
        bound = root * (bound + (root_off(s.N) + U) * (np.abs(products) + bound))
        products = root * products
    expected = products if s.qkv_bias is None else products + s.qkv_bias
    bound = bound + U * (np.abs(expected) + bound)
    if n == 3:
        assert (np.abs(s.qkv - expected) <= bound).all()
        return
    turned, exact = expected.copy(), [before.copy() for before in s.before]
    heads = {"heads": s.H, "kv_heads": s.G, "head_dim": s.D, "layout": s.layout, "eps": 1e-6}
    where = s.positions, s.sequences, s.page_table, None, None
    reference.rope_store(turned, s.table.astype(np.float64), *where, *exact, **heads)
    # Two products of a pair and their sum: 2 U each of what both are, and the errors of both. Values are not turned.
    both = bound + 3 * U * (np.abs(expected) + bound)
    partner = np.stack([reference_partner(row, s) for row in both])
    is_turned = np.arange(both.shape[1]) < (s.H + s.G) * s.D
    bound = np.where(is_turned, both + partner, bound)
    queries = slice(0, s.H * s.D)
    assert (np.abs(s.qkv - turned)[:, queries] <= bound[:, queries]).all()
    pages = s.page_table[1, s.positions // PAGE], slice(None), s.positions % PAGE
    for i, (cache, want, before) in enumerate(zip((s.k_cache, s.v_cache), exact, s.before, strict=True)):
        got, first = floats(cache), (s.H + i * s.G) * s.D
        allowed = bound[:, first : first + s.G * s.D].reshape(s.T, s.G, s.D)
        if s.kind == "f16":  # the nearest half, or below its normal range half of 2^-24
            allowed = allowed + np.maximum(H11 * (np.abs(want[pages]) + allowed), 2.0**-25)
        assert (np.abs(got[pages] - want[pages]) <= allowed).all()
        got[pages] = before[pages]
        assert np.array_equal(got, before, equal_nan=True), "other rows"


def reference_partner(row, s):
    """What is given for each value of q, k and v, for the other of its pair."""
    heads = row.reshape(-1, s.D)
    if s.layout == "half":
        return np.roll(heads, s.D // 2, 1).reshape(-1)
    return heads.reshape(-1, s.D // 2, 2)[:, :, ::-1].reshape(-1)


def check_attention(s):
    """Of what is in qkv and the caches now (tests/ops/test_attention.py)."""
    attributes, arrays = attrs(s.H, s.G, s.D), (s.qkv, s.positions, s.sequences, s.page_table, s.k_cache, s.v_cache)
    expected = reference.attention(s.qkv.astype(np.float64), *arrays[1:4], *map(floats, arrays[4:]), **attributes)
    assert (np.abs(s.out - expected) <= attention_bound(s.room, arrays, attributes, s.kind)).all()


def check(s, n=5):
    names = s.run(n)
    leaves_root = is_here(s.room)
    if leaves_root:
        # Two matrices are turned by one launch.
        readers = ["gemv_blocks"] * len(s.B) if n == 3 else ["gemv_rope"] * -(-len(s.B) // 2)
        found = ["gemv_norm", *readers]
        assert names[: len(found)] == found and "rope_store_heads" not in names and (n == 5 or len(names) == len(found))
    check_product(s)
    check_norm(s, leaves_root)
    check_second(s, leaves_root, n)
    if n == 5:
        check_attention(s)


WHOLE = [
    {},
    {"first": Q6_K, "K": 768, "formats": (Q6_K,), "G": 1, "layout": "half", "kind": "f32", "biases": True},
    {"first": Q2_K, "K": 256, "formats": (Q3_K,), "layout": "half", "residual": False},
    {"first": Q3_K, "formats": (Q2_K, Q2_K, Q3_K), "H": 2, "G": 1, "biases": True, "kind": "f32"},
    {"first": Q5_0, "K": 288, "N": 96, "formats": (Q5_0, Q5_0, Q8_0), "H": 3, "G": 1, "D": 20, "layout": "half", "biases": True},
    {"first": Q8_0, "K": 288, "N": 288, "formats": (Q8_0,), "H": 6, "G": 3, "D": 8, "residual": False},
    {"first": IQ4_XS, "K": 256, "formats": (IQ4_XS,), "H": 2, "G": 1, "layout": "half"},
    {"first": Q5_K, "K": 256, "formats": (Q5_K,), "H": 1, "G": 1, "D": 20, "position": 32},
    {"first": Q4_0, "K": 32, "N": 32, "formats": (Q4_1,), "H": 1, "G": 1, "D": 4, "position": 0},
    {"first": IQ4_NL, "K": 160, "N": 64, "formats": (Q5_1,), "H": 2, "G": 1, "D": 12, "layout": "half", "biases": True, "position": 31},
]
SAID = lambda case: "-".join(map(str, [v if not isinstance(v, tuple) else "+".join(map(str, v)) for v in case.values()])) or "default"


@pytest.mark.parametrize("case", WHOLE, ids=SAID)
def test_against_float64(room, case):
    check(Step(room, **case))


@pytest.mark.parametrize("case", [WHOLE[i] for i in (2, 4)], ids=SAID)
def test_a_reader_that_nothing_turns(room, case):
    """Gate and up of a feed-forward: the root is the plain product's."""
    check(Step(room, **case), 3)


@pytest.mark.parametrize("case", [WHOLE[5]], ids=SAID)
def test_steps_that_rows_do_not_fill(room, case):
    if room.name == "cpu":
        pytest.skip("its products have no such steps")
    with book.use(Blocked({"BN": 2, "BU": 8, "num_warps": 1, "programs": 1})):
        check(Step(room, **case), 4)


@pytest.mark.gpu
@pytest.mark.parametrize("format", [Q4_K, Q5_K, Q6_K, Q3_K, IQ4_XS, Q8_0, Q5_0], ids=str)
@pytest.mark.parametrize("layout", ["interleaved", "half"])
def test_real_sizes(format, layout):
    """An 8B's attention output and what reads it, and its feed-forward's end: within the bounds, and the same bits each time."""
    sizes = {"first": format, "N": 4096, "formats": (format,), "H": 32, "G": 8, "D": 128, "layout": layout}
    for K in (4096, 14336):
        s = Step(make_room("gpu"), K=K, **sizes)
        check(s)
        written = [part.copy() for part in (s.h, *s.normed, s.out)]
        for _ in range(20):
            s.run()
            for a, b in zip(written, (s.h, *s.normed, s.out), strict=True):
                np.testing.assert_array_equal(a, b)


# ---- what is launched one by one

APART = {
    "two tokens": ({"T": 2}, ["gemv_blocks", "rms_norm_q8", "gemv_blocks", "rope_store_heads"]),
    "norms of heads": ({"norms": True}, ["gemv_norm", "gemv_blocks", "rope_store_heads"]),
    "a cache in 8 bits": ({"kind": "q8", "H": 1, "G": 1, "D": 32}, ["gemv_norm", "gemv_blocks", "rope_store_heads"]),
    "part of a head": ({"rotated": 8}, ["gemv_norm", "gemv_blocks", "rope_store_heads"]),
    "heads of no whole fours": (
        {"D": 6}, ["gemv_norm", "gemv_blocks", "rope_store_heads"],
    ),
    "floats": ({"first": F16, "K": 100}, ["gemv_floats", "rms_norm_q8", "gemv_rope"]),
}  # fmt: skip

SMALL = {"first": Q8_0, "K": 64, "N": 64, "formats": (Q8_0,), "H": 2, "G": 1}


@pytest.mark.parametrize(("case", "names"), APART.values(), ids=APART)
def test_what_is_not_launched_together(room, case, names):
    """The bits are those of the launchers, where all of them are called."""
    together, alone = Step(room, **{**SMALL, **case}), Step(room, **{**SMALL, **case})
    launched = together.run(4)
    assert not is_here(room) or launched == names
    for kind, given in alone.ops(4):
        getattr(room, kind)(**given)
    if launched is None or not {"gemv_norm", "gemv_rope"} & set(launched):
        flat = lambda s: (s.h, *s.normed, s.qkv, *(s.k_cache if s.kind == "q8" else (s.k_cache,)))
        for a, b in zip(flat(together), flat(alone), strict=True):
            np.testing.assert_array_equal(a, b)
    elif launched[0] == "gemv_norm":
        check_product(together)
        check_norm(together, True)
    else:
        np.testing.assert_array_equal(together.h, alone.h)
        check_second(together, False, 4)


def test_rows_that_are_no_blocks_of_32():
    """The norm's result is then no Q8: its reader multiplies floats."""
    room, rng = make_room("triton"), np.random.default_rng(0)
    s = Step(room)
    A, B = random_blocks(Q4_K, 100, 512, rng), random_blocks(F16, 12, 100, rng)
    matrices = (room.matrix(A, Q4_K, 100, 512),), (room.matrix(B, F16, 12, 100),)
    h, normed, out = s.empty(100), s.empty(100), s.empty(12)
    ops = [
        ("linear", {"x": s.x, "weights": matrices[0], "bias": None, "residual": None, "out": h}),
        ("rms_norm", {"x": h, "weight": np.ones(100, np.float32), "out": normed, "eps": 1.0}),
        ("linear", {"x": normed, "weights": matrices[1], "bias": None, "residual": None, "out": out}),
    ]
    assert room.launch_all(ops) == ["gemv_blocks", "rms_norm_f32", "gemv_floats"]
    assert np.isfinite(out).all()


def test_a_norm_of_something_else_is_not_the_products():
    """Its input is not what was just multiplied, or its reader's is not what it wrote."""
    room = make_room("triton")
    for op, name in ((1, "x"), (2, "x")):
        s = Step(room, **SMALL)
        ops = s.ops(3)
        ops[op][1][name] = np.ones_like(s.h) if op == 1 else random_q8(1, s.N, np.random.default_rng(0))
        assert room.launch_all(ops) == ["gemv_blocks", "rms_norm_q8", "gemv_blocks"]


def test_targets_choose():
    """Recorded over arrays without memory: NVIDIA's launches are joined, AMD's are not but for RoPE and attention."""
    make_room("triton")
    from rocforge.kernels.target import AMD, nvidia, use

    room = MetaRoom()
    for at, names in (
        (AMD["gfx1100"], ["gemv_blocks", "rms_norm_q8", "gemv_blocks", "attend_split"]),
        (AMD["gfx942"], ["gemv_blocks", "rms_norm_q8", "gemv_blocks", "attend_split"]),
        (nvidia("sm80"), [*CHAINED, "attend_split"]),
        (nvidia("sm90"), [*CHAINED, "attend_split"]),
    ):
        with use(at):
            assert room.launch_all(Step(room, formats=(Q4_K,), D=64).ops()) == names, at


class MetaRoom:
    """Arrays on the device "meta"; nothing runs."""

    def matrix(self, data, format, rows, columns):
        from rocforge.kernels.layout import empty

        return empty(format, rows, columns, "meta")

    def launch_all(self, ops):
        from rocforge.kernels.backend import LAUNCHERS
        from rocforge.kernels.chain import launch_all
        from rocforge.kernels.launch import record

        with record() as program:
            launch_all(LAUNCHERS, [(kind, {name: self._to(value) for name, value in given.items()}) for kind, given in ops])
        return [made.kernel.__name__ for made in program.launches]

    def _to(self, value):
        import torch

        if isinstance(value, np.ndarray):
            return torch.from_numpy(value).to("meta")
        return type(value)(*map(self._to, value)) if hasattr(value, "scales") else value
