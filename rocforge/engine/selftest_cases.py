"""What the self-test launches: small inputs that fill no tile, for every op, format and kind of cache. Launches nothing.

Each tolerance is what the two rooms' roundings may add up to, or a little more: it is there to find
what is computed wrongly, not what is computed less well.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from rocforge.gguf.formats import BF16, F32, Q3_K, Q4_K, Q6_K, Q8, Q8_0, SUPPORTED, Format, Q8Cache
from rocforge.plan.ir import PAGE


class Blocks(NamedTuple):
    """What each room makes a matrix of: uint8 [rows, row bytes] of GGUF blocks."""

    data: np.ndarray
    format: Format
    columns: int


class Of(str):
    """In a chain's ops: the argument of that name."""


class Case(NamedTuple):
    """One launch, or a "chain": `ops` of the arguments, (kind, keywords) each, that launch_all is given with Of's replaced by
    the other arguments. `written`: the arguments that it writes, each with how far it may be off, (relative, absolute). From
    what: `exact`, or where that is None what the CPU's kernels write."""

    op: str
    what: str
    arguments: dict[str, Any]
    written: dict[str, tuple[float, Any]]
    exact: dict[str, np.ndarray] | None = None

    def __str__(self) -> str:
        return f"{self.op} ({self.what})"


ULP = 2.0**-23  # of a float32 near 1; a result rounded once is off by half of it
HALF = 2.0**-10  # of a float16: a value that stands between two of them may become either


def _normal(rng, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def _empty(*shape: int) -> np.ndarray:
    """What nobody writes stays no number, and is found."""
    return np.full(shape, np.nan, np.float32)


def _empty_q8(T: int, K: int) -> Q8:
    return Q8(np.zeros((T, K), np.int8), _empty(T, K // 32), np.zeros((T, K // 16), np.int16))


def _random_q8(rng, T: int, K: int) -> Q8:
    values = rng.integers(-127, 128, (T, K), dtype=np.int8)
    sums = values.reshape(T, K // 16, 16).sum(2, dtype=np.int16)
    return Q8(values, rng.uniform(0.01, 1, (T, K // 32)).astype(np.float32), sums)


def _quantize(rng) -> Iterator[Case]:
    x = _normal(rng, 5, 352)
    x[1, 32:64] = 0
    x[2] *= np.float32(1e-30)
    yield Case("quantize", "5 rows of 352", {"x": x, "out": _empty_q8(5, 352)}, {"out": (2 * ULP, 0)})


def _rms_norm(rng) -> Iterator[Case]:
    for N, out in ((100, _empty(3, 100)), (1056, _empty(3, 1056)), (1056, _empty_q8(3, 1056))):
        arguments = {"x": _normal(rng, 3, N), "weight": _normal(rng, N), "out": out, "eps": 1e-5}
        # A sum of N squares, in any order, is off by N half-ulps at the most; its root by half as much.
        yield Case("rms_norm", f"rows of {N}, {_kind(out)}", arguments, {"out": ((N / 2 + 8) * ULP, 0)})


def _swiglu(rng) -> Iterator[Case]:
    for F, out in ((100, _empty(3, 100)), (352, _empty_q8(3, 352))):
        # An exponential of x is off by x ulps; x is below 5.
        arguments = {"gate_up": _normal(rng, 3, 2 * F), "out": out}
        yield Case("swiglu", f"rows of {F}, {_kind(out)}", arguments, {"out": (16 * ULP, 0)})


def _kind(value: Any) -> str:
    kinds = {Q8: "8 bits", Q8Cache: "8 bits"}
    return kinds.get(type(value)) or str(value.dtype)


_FREQUENCIES = 10000.0 ** -(np.arange(24) / 24)


def _rope_table(rng) -> Iterator[Case]:
    positions = np.array([0, 1, 77, 4095, 131071], np.int32)
    arguments = {"positions": positions, "inv_freq": _FREQUENCIES, "out": _empty(5, 48), "scale": 1.2}
    yield Case("rope_table", "positions to 131071", arguments, {"out": (0, 2 * ULP)})


def _pages(rng, lengths: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """How many pages there are, and a table of scattered ones for sequences of these lengths."""
    per = -(-max(lengths) // PAGE)
    order = rng.permutation(per * len(lengths) + 2).astype(np.int32)
    return len(order), order[: per * len(lengths)].reshape(len(lengths), per)


_H, _G, _D = 4, 2, 64
_HEADS = {"heads": _H, "kv_heads": _G, "head_dim": _D}


def _empty_cache(kind: str, n_pages: int) -> Any:
    shape = (n_pages, _G, PAGE, _D)
    if kind == "8 bits":
        return Q8Cache(np.zeros(shape, np.int8), np.zeros((*shape[:3], _D // 32), np.float16))
    return np.zeros(shape, kind)


def _rope_store(rng) -> Iterator[Case]:
    positions, sequences = np.array([3, 4, 40, 31], np.int32), np.array([0, 0, 1, 2], np.int32)
    table = _angles(positions, _FREQUENCIES)
    layouts = (("half", "float16", True), ("interleaved", "float32", False), ("half", "8 bits", True))
    for layout, kind, has_norm in layouts:
        n_pages, page_table = _pages(rng, (5, 41, 32))
        qkv = _normal(rng, 4, (_H + 2 * _G) * _D)
        norms = {name: _normal(rng, _D) if has_norm else None for name in ("q_norm", "k_norm")}
        caches = {name: _empty_cache(kind, n_pages) for name in ("k_cache", "v_cache")}
        arguments = {
            "qkv": qkv, "table": table, "positions": positions, "sequences": sequences, "page_table": page_table,
            **norms, **caches, **_HEADS, "layout": layout, "eps": 1e-6,
        }  # fmt: skip
        # Values are below 16; the norm is off by D/2 + 8 half-ulps, the rotation by 4. Rotated keys may stay or not.
        off = 16 * (_D / 4 + 8) * ULP
        in_qkv = np.where(np.arange(qkv.shape[1]) < _H * _D, off, np.inf)
        in_cache = {"float16": (HALF, off), "float32": (0, off), "8 bits": (2 * HALF, off)}[kind]
        yield Case("rope_store", f"{layout}, {kind}", arguments, {"qkv": (0, in_qkv), **dict.fromkeys(caches, in_cache)})


def _attention(rng) -> Iterator[Case]:
    lengths = (40, 70, 5, 1)
    for kind in ("float16", "float32", "8 bits"):
        for new, window in ((1, 0), (33, 0), (33, 20)):
            n_pages, page_table = _pages(rng, lengths)
            starts = [max(0, n - new) for n in lengths]
            # A token of three of four sequences, or more tokens than sequences: kernels differ between the two.
            taken = range(3 if new == 1 else 4)
            positions = np.concatenate([np.arange(starts[s], lengths[s]) for s in taken]).astype(np.int32)
            sequences = np.concatenate([np.full(lengths[s] - starts[s], s) for s in taken]).astype(np.int32)
            caches = {name: _full_cache(rng, kind, n_pages, lengths, page_table) for name in ("k_cache", "v_cache")}
            arguments = {
                "qkv": _normal(rng, len(positions), (_H + 2 * _G) * _D), "positions": positions,
                "sequences": sequences, "page_table": page_table, **caches,
                "out": _empty(len(positions), _H * _D), **_HEADS, "scale": _D**-0.5, "window": window,
            }  # fmt: skip
            # Queries and weights in float16: scores, whose products add up to 5, and their exponentials are
            # off by 5 + 2 times half of HALF; on values below 4, and in numerator and denominator.
            off = 2**-12 if kind == "float32" else 8 * 7 * HALF / 2
            yield Case("attention", f"{kind}, {len(positions)} tokens, window {window}", arguments, {"out": (0, off)})
            if kind == "float32" and new == 1:  # the kind that both compute alike, but for the order of sums
                arguments = {**arguments, "out": _empty_q8(len(positions), _H * _D)}
                yield Case("attention", f"{kind}, {len(positions)} tokens, in 8 bits", arguments, {"out": (2**-10, 0)})


def _chain(rng) -> Iterator[Case]:
    yield from _rope_attention(rng)
    yield from _linear_norm_rope(rng)
    yield from _norms_of_many(rng)


def _op(kind: str, names: str, **others: Any) -> tuple[str, dict[str, Any]]:
    """An op whose keywords are called as arguments are, but for the others."""
    return kind, {**{name: Of(name) for name in names.split()}, **others}


_ROPE_STORE = "qkv table positions sequences page_table q_norm k_norm k_cache v_cache"


def _rope_attention(rng) -> Iterator[Case]:
    for layout, kind, has_norm, length, window in (
        ("half", "float16", True, 70, 0), ("interleaved", "float16", False, 33, 0), ("half", "8 bits", True, 40, 20),
        ("interleaved", "8 bits", False, 1, 0),
    ):  # fmt: skip
        n_pages, page_table = _pages(rng, (5, length))
        scaled = {**_HEADS, "scale": _D**-0.5, "window": window}
        arguments = {
            "ops": (
                _op("rope_store", _ROPE_STORE, **_HEADS, layout=layout, eps=1e-6),
                _op("attention", "qkv positions sequences page_table k_cache v_cache out", **scaled),
            ),
            "qkv": _normal(rng, 1, (_H + 2 * _G) * _D), "table": _angles(np.array([length - 1]), _FREQUENCIES),
            "positions": np.array([length - 1], np.int32), "sequences": np.array([1], np.int32), "page_table": page_table,
            **{name: _normal(rng, _D) if has_norm else None for name in ("q_norm", "k_norm")},
            **{name: _full_cache(rng, kind, n_pages, (0, length - 1), page_table) for name in ("k_cache", "v_cache")},
            "out": _empty(1, _H * _D),
        }  # fmt: skip
        # Of the row that is stored what rope_store may be off by, and of the result what attention may: its queries and
        # its own key are rotated in other words, by some float32 roundings.
        off = 16 * (_D / 4 + 8) * ULP
        in_cache = {"float16": (HALF, off), "8 bits": (2 * HALF, off)}[kind]
        written = {"out": (0, 8 * 7 * HALF / 2), "k_cache": in_cache, "v_cache": in_cache}
        yield Case("chain", f"rope_store and attention, {layout}, {kind}, {length} keys, window {window}", arguments, written)


def _linear_norm_rope(rng) -> Iterator[Case]:
    """What reads the norm is of rows that are turned: where one launch does two ops, all five are three."""
    H, G, D, position = 2, 1, 16, 41
    heads = {"heads": H, "kv_heads": G, "head_dim": D}
    for first, formats, layout, kind in (
        (Q4_K, (Q4_K, Q4_K, Q6_K), "interleaved", "float16"), (Q8_0, (Q8_0,), "half", "float32"), (Q6_K, (Q3_K,), "half", "float16"),
    ):  # fmt: skip
        K, N = (max(96, f.block) for f in (first, formats[0]))
        n_pages, page_table = _pages(rng, (5, position + 1))
        x, weights = _random_q8(rng, 1, K), blocks(rng, first, N, K)
        rows = (H * D, G * D, G * D) if len(formats) == 3 else ((H + 2 * G) * D,)
        readers = {f"weights{i}": blocks(rng, f, n, N) for i, (f, n) in enumerate(zip(formats, rows, strict=True))}
        float_x = x.values * np.repeat(x.scales, 32, 1)
        magnitudes = np.abs(float_x) @ np.abs(rows_of(weights)).T
        size = np.float32(magnitudes.mean())
        residual = size * _normal(rng, 1, N)
        h = float_x @ rows_of(weights).T + residual
        # An epsilon that counts as much as the squares do.
        norm, eps = _normal(rng, N), float(np.mean(h * h))
        ops = (
            _op("linear", "x residual", weights=(Of("weights"),), bias=None, out=Of("h")),
            _op("rms_norm", "", x=Of("h"), weight=Of("norm"), out=Of("normed"), eps=eps),
            _op("linear", "bias", x=Of("normed"), weights=tuple(map(Of, readers)), residual=None, out=Of("qkv")),
            _op("rope_store", _ROPE_STORE, **heads, layout=layout, eps=1e-6),
        )
        y = h / np.sqrt(np.mean(h * h) + eps) * norm
        below = np.concatenate([np.abs(rows_of(each)) for each in readers.values()])
        bias = np.float32((np.abs(y) @ below.T).mean() / 16) * _normal(rng, sum(rows))
        queries = np.arange(sum(rows)) < H * D  # keys and values may be written there or not
        arguments = {
            "ops": ops, "x": x, "weights": weights, "residual": residual, "h": _empty(1, N), "norm": norm, "normed": _empty_q8(1, N),
            **readers, "bias": bias, "qkv": np.where(queries, np.nan, 0)[None].astype(np.float32),
            "table": _angles(np.array([position]), 10000.0 ** -(np.arange(D // 2) / (D // 2))),
            "positions": np.array([position], np.int32), "sequences": np.array([1], np.int32), "page_table": page_table,
            "q_norm": None, "k_norm": None, **{name: np.zeros((n_pages, G, PAGE, D), kind) for name in ("k_cache", "v_cache")},
        }  # fmt: skip
        # Of the first product as in _linear. Its errors are parts of a step of 8 bits: few values are rounded to the neighbour,
        # and what reads them is off by steps. What lies in `normed` may be but for its root.
        flips, step = 4, np.abs(y).max() / 127
        off = flips * step * below.max(1) + 2.0**-17 * (np.abs(y) @ below.T)[0] + 4 * ULP * np.abs(bias)
        off = 2 * float(off.max())  # of both that are turned together
        in_qkv = np.where(queries, off, np.inf)
        in_h = 2.0**-17 * magnitudes + 4 * ULP * np.abs(residual)
        written = {"h": (0, in_h), "qkv": (0, in_qkv), **dict.fromkeys(("k_cache", "v_cache"), (HALF, off))}
        what = f"linear, rms_norm, linear and rope_store, {first} and {'+'.join(map(str, formats))}, {layout}"
        yield Case("chain", what, arguments, written)


def _norms_of_many(rng) -> Iterator[Case]:
    """Of more than a few tokens, whose norms are made for the matrix units: the first product is of so many columns that programs
    share them."""
    T, K, N = 20, 2048, 64
    x, weights, readers = _normal(rng, T, K), blocks(rng, Q8_0, N, K), blocks(rng, Q8_0, 32, N)
    ops = (
        _op("rms_norm", "x", weight=Of("weight"), out=Of("given"), eps=1e-5),
        _op("linear", "residual", x=Of("given"), weights=(Of("weights"),), bias=None, out=Of("h")),
        _op("rms_norm", "", x=Of("h"), weight=Of("norm"), out=Of("normed"), eps=1e-5),
        _op("linear", "out", x=Of("normed"), weights=(Of("readers"),), bias=None, residual=None),
    )
    weight, norm = _normal(rng, K), _normal(rng, N)
    of = lambda x, weight: x / np.sqrt(np.mean(x.astype(np.float64) ** 2, 1, keepdims=True) + 1e-5) * weight
    magnitudes = np.abs(of(x, weight)) @ np.abs(rows_of(weights)).T
    residual = np.float32(magnitudes.mean()) * _normal(rng, T, N)
    below = np.abs(of(of(x, weight) @ rows_of(weights).T + residual, norm)) @ np.abs(rows_of(readers)).T
    arguments = {
        "ops": ops, "x": x, "weight": weight, "given": _empty_q8(T, K), "weights": weights, "residual": residual,
        "h": _empty(T, N), "norm": norm, "normed": _empty_q8(T, N), "readers": readers, "out": _empty(T, 32),
    }  # fmt: skip
    # As in _linear; what reads the second norm is off by what that is off by, and by as much of its own.
    yield Case("chain", "norms of 20 tokens", arguments, {"h": (0, 2.0**-8 * magnitudes), "out": (0, 2.0**-7 * below)})


def _angles(positions: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """float32 [T, twice as many as frequencies]: RoPE's table."""
    angles = positions[:, None] * frequencies
    return np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def _full_cache(rng, kind: str, n_pages: int, lengths: tuple[int, ...], page_table: np.ndarray) -> Any:
    """Normal values where the sequences are; elsewhere what must not matter: no numbers."""
    values = np.full((n_pages, _G, PAGE, _D), np.nan, np.float32)
    for s, length in enumerate(lengths):
        for p in range(length):
            values[page_table[s, p // PAGE], :, p % PAGE] = rng.standard_normal((_G, _D))
    if kind != "8 bits":
        return values.astype(kind)
    blocks = values.reshape(n_pages, _G, PAGE, _D // 32, 32)
    scales = (np.abs(blocks).max(-1) / 127).astype(np.float16)
    rounded = np.nan_to_num(np.rint(blocks / scales[..., None].astype(np.float32)))
    return Q8Cache(np.clip(rounded, -127, 127).astype(np.int8).reshape(values.shape), scales)


# Where the halves of a format's block are; any other byte may be anything.
_HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def blocks(rng, format: Format, rows: int, columns: int) -> Blocks:
    """Any bytes, with halves between -1 and 1; of a float format normal values."""
    if format.is_float:
        x = _normal(rng, rows, columns)
        if format.name == "BF16":
            data = (x.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        else:
            data = x.astype(np.float32 if format is F32 else np.float16).view(np.uint8)
        return Blocks(data, format, columns)
    data = rng.integers(0, 256, (rows, columns // format.block, format.block_bytes), dtype=np.uint8)
    for at in _HALVES[format.name]:
        halves = rng.uniform(-1, 1, data.shape[:2]).astype(np.float16)
        data[:, :, at : at + 2] = halves[..., None].view(np.uint8)
    return Blocks(data.reshape(rows, -1), format, columns)


def rows_of(blocks: Blocks) -> np.ndarray:
    """float32 [rows, columns]: what they mean, by the CPU's embed."""
    from rocforge.cpu.embed import embed
    from rocforge.cpu.layout import matrix

    tokens = np.arange(len(blocks.data), dtype=np.int32)
    out = _empty(len(tokens), blocks.columns)
    embed(tokens, matrix(blocks.data, blocks.format, len(tokens), blocks.columns), out)
    return out


def _embed(rng) -> Iterator[Case]:
    for format in SUPPORTED:
        table = blocks(rng, format, 9, max(format.block, 96))
        tokens = np.array([8, 0, 3, 3], np.int32)
        # A product and a difference, rounded once or twice.
        off = 2 * ULP * np.abs(rows_of(table)).max()
        arguments = {"tokens": tokens, "table": table, "out": _empty(4, table.columns)}
        yield Case("embed", str(format), arguments, {"out": (0, off)})


# Formats whose products of many tokens are tried in large tiles too.
_WIDE = (Q4_K, Q6_K, Q8_0, BF16)


def _linear(rng) -> Iterator[Case]:
    """Exact results are simple enough here: where a GPU is tried, the CPU's kernels need not be compiled for each format."""
    for format in SUPPORTED:
        K = 100 if format.is_float else 256 + 256 % format.block
        # Few tokens and many have kernels of their own; and the largest tiles, in which most is under way at once.
        for T, N, K in ((2, 37, K), (20, 37, K), *([(300, 150, 1024)] if format in _WIDE else [])):
            weights = blocks(rng, format, N, K)
            rows = rows_of(weights).astype(np.float64)
            x = _normal(rng, T, K) if format.is_float else _random_q8(rng, T, K)
            float_x = x if format.is_float else x.values * np.repeat(x.scales, 32, 1)
            # Of the sum of magnitudes. Few tokens: exact integers, some twenty float32 roundings, or K of
            # them. Many: weights made in float16 by three roundings and x by one, 2^-11 each; in two parts of
            # bfloat16, 2^-14 together. Twice for magnitudes that cancel within a weight, or for good measure.
            relative = (2.0**-16, 2.0**-12)[T > 2] if format.is_float else (2.0**-17, 2.0**-8)[T > 2]
            magnitudes = np.abs(float_x) @ np.abs(rows).T
            scale = np.float32(magnitudes.mean())
            bias, residual = scale * _normal(rng, N), scale * _normal(rng, T, N)
            off = relative * magnitudes + 4 * ULP * (np.abs(bias) + np.abs(residual))
            arguments = {"x": x, "weights": (weights,), "bias": bias, "residual": residual, "out": _empty(T, N)}
            exact = {"out": float_x @ rows.T + bias + residual}
            yield Case("linear", f"{format}, {T} tokens", arguments, {"out": (0, off)}, exact)


def _gather(rng) -> Iterator[Case]:
    arguments = {"x": _normal(rng, 7, 300), "rows": np.array([6, 0, 6], np.int32), "out": _empty(3, 300)}
    yield Case("gather", "3 rows of 7", arguments, {"out": (0, 0)})


def _penalize(rng) -> Iterator[Case]:
    arguments = {
        "logits": _normal(rng, 2, 500), "ids": np.array([499, 3, 77, 0], np.int32),
        "counts": np.array([1, 2, 9, 1], np.int32), "starts": np.array([0, 3, 4], np.int32),
        "repetition": np.array([1.3, 1.0]), "frequency": np.array([0.1, 0.0]), "presence": np.array([0.0, 0.5]),
    }  # fmt: skip
    yield Case("penalize", "2 rows of 500", arguments, {"logits": (2 * ULP, 4 * ULP)})


def _sample(rng) -> Iterator[Case]:
    # temperature, top_k, top_p, min_p, and which candidate's share of the chance the draw falls into the middle of
    rows = [
        (0.0, 0, 1.0, 0.0, 0), (0.8, 40, 1.0, 0.0, 3), (1.0, 0, 1.0, 0.0, 5), (0.7, 40, 0.95, 0.05, 0), (1.0, 0, 0.9, 0.0, 0)
    ]  # fmt: skip
    for V, drawn in ((300, rows), (20_000, rows[:3])):  # the latter is more than a program reads
        logits = 3 * _normal(rng, len(drawn), V)
        uniform = [_middle(row, temperature, top_k, which) for row, (temperature, top_k, *_, which) in zip(logits, drawn)]
        columns = dict(zip(("temperature", "top_k", "top_p", "min_p"), map(np.array, zip(*drawn))))
        columns["top_k"] = columns["top_k"].astype(np.int32)
        out = np.full(len(drawn), -1, np.int32)
        arguments = {"logits": logits, **columns, "uniform": np.array(uniform), "out": out}
        yield Case("sample", f"{len(drawn)} rows of {V}", arguments, {"out": (0, 0)})


def _middle(logits: np.ndarray, temperature: float, top_k: int, which: int) -> float:
    """The number that draws candidate `which`, far from where rounding could decide for a neighbour."""
    if temperature == 0:
        return 0.5
    chances = np.sort(np.exp((logits.astype(np.float64) - logits.max()) / temperature))[::-1][: top_k or None]
    return float((chances[:which].sum() + chances[which] / 2) / chances.sum())


CASES: dict[str, Callable[[np.random.Generator], Iterator[Case]]] = {
    "quantize": _quantize, "rms_norm": _rms_norm, "swiglu": _swiglu, "rope_table": _rope_table, "rope_store": _rope_store,
    "attention": _attention, "linear": _linear, "chain": _chain,
    "embed": _embed, "gather": _gather, "penalize": _penalize, "sample": _sample,
}  # fmt: skip


def all_cases() -> list[Case]:
    """Every op's, each op with a random generator of its own."""
    return [case for make in CASES.values() for case in make(np.random.default_rng(0))]
