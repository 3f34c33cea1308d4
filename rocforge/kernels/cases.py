"""Every kernel as it can be launched: each op in each format and kind, at the sizes that choose its tiles.

Recorded over arrays without memory ("meta"), for a target that need not be here. Compiles nothing, runs nothing.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8_SUM_BLOCK, SUPPORTED, Format, Q8Cache
from rocforge.kernels import gemm, gemv, halves, launch, layout, repack, rope
from rocforge.kernels.activation import swiglu
from rocforge.kernels.activation import to_halves as swiglu_to_halves
from rocforge.kernels.attention import attention, rope_attention
from rocforge.kernels.attention import to_halves as attention_to_halves
from rocforge.kernels.chain import launch_all
from rocforge.kernels.embed import embed
from rocforge.kernels.gather import gather
from rocforge.kernels.matmul import linear
from rocforge.kernels.norm import parts_to_halves, rms_norm, to_halves
from rocforge.kernels.parts import Parts
from rocforge.kernels.quantize import quantize
from rocforge.kernels.rope import rope_store, rope_table
from rocforge.kernels.sample import penalize, sample
from rocforge.kernels.target import Target, current, use
from rocforge.probe import book

PAGE = 32
PREFILL_TOKENS = 512
KV = ("f16", "q8_0", "f32")


class Case(NamedTuple):
    """One launch of an op. `format` is that of the weights or the KV cache, "" where there is none."""

    op: str
    format: str
    launch: launch.Launch

    @property
    def kernel(self) -> str:
        return self.launch.kernel.__name__

    @property
    def tile(self) -> str:
        """Its block sizes and warps, as one word."""
        sizes = [f"{k}{v}" for k, v in self.launch.constants.items() if k.isupper() and type(v) is int and k not in _TRAITS]
        return " ".join([*sizes, f"warps{self.launch.options.get('num_warps', 1)}"])


# Constants that say what is computed, not how it is cut.
_TRAITS = {"OFFSET", "SCALED", "HALVES", "MINS", "SIGNED", "WINDOW", "PAGE", "KIND", "EXACT"}


def cases(target: Target, every: bool = True) -> Iterator[Case]:
    """All launches of all ops for a target, each piece of machine code once.

    Not `every`: the widest of those that differ in a size only, which are the first to run out of registers.
    """
    seen = set()
    with use(target):
        for op, format, call in _calls(every):
            with launch.record() as program:
                call()
            for made in program.launches:
                if made.key not in seen:
                    seen.add(made.key)
                    yield Case(op, format, made)


def watched(target: Target) -> Iterator[tuple[str, book.Choice]]:
    """(op, what its launcher was answered) for all launches that ask for a tile, with default tiles."""
    with use(target):
        for op, _, call in _calls(True):
            with launch.record(), book.watch() as found:
                call()
            yield from ((op, choice) for choice in found)


def _meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _ints(*shape: int) -> torch.Tensor:
    return _meta(*shape, dtype=torch.int32)


def _q8(T: int, K: int) -> Q8:
    sums = _meta(T, K // Q8_SUM_BLOCK, dtype=torch.int16)
    return Q8(_meta(T, K, dtype=torch.int8), _meta(T, K // Q8_BLOCK), sums)


def _calls(every: bool) -> Iterator[tuple[str, str, Callable[[], None]]]:
    T, K = PREFILL_TOKENS, 4096
    for format in SUPPORTED:
        yield "embed", format.name, lambda f=format: embed(_ints(T), layout.empty(f, 64, K, "meta"), _meta(T, K))
        blocks = _meta(64, format.row_bytes(K), dtype=torch.uint8)
        yield "repack", "", lambda f=format, b=blocks: repack.fill(layout.empty(f, 64, K, "meta"), b)
        yield from _linear(format, every)
        if current().backend == "cuda" and not format.is_float:  # whose neighbours one token launches together
            yield from _joined(format, every)
    for n in (896, 2048, 4096, 8192, 16384) if every else (4096, 16384):
        yield "rms_norm", "", lambda n=n: rms_norm(_meta(1, n), _meta(n), _q8(1, n), eps=1e-5)
        yield "rms_norm", "", lambda n=n: rms_norm(_meta(1, n), _meta(n), _meta(1, n), eps=1e-5)
    # What reads them asks for one order of columns or another, by its tokens.
    for tokens, n in itertools.product((16, T), (2048, 4096, 8192) if every else (8192,)):
        norm, x = (_meta(n), 1e-5, gemm.order(tokens)), _meta(tokens, n)
        yield "rms_norm", "", lambda x=x, norm=norm: to_halves(x, *norm)
        parts = Parts(_meta(4, tokens, n), _meta(tokens))
        yield "rms_norm", "", lambda x=x, norm=norm, parts=parts: parts_to_halves(parts, None, x, x, *norm)
        gate_up = _meta(tokens, 2 * n if n < 8192 else 2 * halves.MOST_COLUMNS)
        yield "swiglu", "", lambda x=gate_up, order=gemm.order(tokens): swiglu_to_halves(x, order)
    yield "quantize", "", lambda: quantize(_meta(T, K), _q8(T, K))
    yield "swiglu", "", lambda: swiglu(_meta(T, 2 * K), _q8(T, K))
    yield "swiglu", "", lambda: swiglu(_meta(T, 2 * K), _meta(T, K))
    yield "gather", "", lambda: gather(_meta(T, K), _ints(8), _meta(8, K))
    for V in (151_936, 32_000) if every else (151_936,):
        yield "sample", "", lambda V=V: sample(_meta(8, V), *[_meta(8, dtype=torch.float64)] * 5, _ints(8))
    long = _meta(64, dtype=torch.int64)
    yield "penalize", "", lambda: penalize(_meta(8, 32_000), long, long, long[:9], *[_meta(8, dtype=torch.float64)] * 3)
    inv_freq = _meta(64, dtype=torch.float64)
    yield "rope_table", "", lambda: rope_table(_ints(T), inv_freq, _meta(T, 128), scale=1.0)
    for kv in KV:
        for D in (64, 80, 128, 256) if every else (80, 128, 256):
            if kv == "q8_0" and D % Q8_BLOCK:
                continue
            for layout_name, norms in (("interleaved", False), ("half", True)):
                yield "rope_store", kv, lambda a=(kv, D, layout_name, norms): _rope_store(*a)
                yield "rope_store", kv, lambda a=(kv, D, layout_name, norms): _rope_store(*a, tokens=16, n_parts=4)
                yield "rope_attention", kv, lambda a=(kv, D, layout_name, norms): _rope_attention(*a)
            for tokens, group in ((1, 4), (T, 4), (1, 1), (T, 7)) if every else ((1, 4), (T, 7)):
                for window in (0, 1024) if every and (D, group) == (128, 4) else (0,):
                    yield "attention", kv, lambda a=(kv, D, tokens, group, window): _attention(*a)
                if D % Q8_BLOCK == 0 and (tokens, group) == (1, 4):
                    yield "attention", kv, lambda a=(kv, D, tokens, group, 0): _attention(*a, quantized=True)
                    yield "attention", kv, lambda a=(kv, D, 9, group, 0): _attention(*a, quantized=True, to_halves=True)


def _linear(format: Format, every: bool) -> Iterator[tuple[str, str, Callable[[], None]]]:
    N, K = 4096, 4096
    few = [t for t in (1, 2, 4, 8) if t <= gemv.most_tokens()]
    many = [t for t in (16, 32, 64, 128, PREFILL_TOKENS) if t > few[-1]]
    for T in (*few, *many) if every else (few[0], few[-1], many[0], many[-1]):
        x = _meta(T, K) if format.is_float else _q8(T, K)
        for residual in (_meta(T, N), None) if every else (_meta(T, N),):
            w = layout.empty(format, N, K, "meta")
            yield "linear", format.name, lambda x=x, w=w, r=residual, T=T: linear(x, (w,), None, r, _meta(T, N))


def _joined(format: Format, every: bool) -> Iterator[tuple[str, str, Callable[[], None]]]:
    for K, N in ((4096, 4096), (14336, 4096), (4096, 14336)) if every else ((14336, 4096), (4096, 14336)):
        for layout_name, kv in (("interleaved", "f16"), ("half", "f32")):
            yield "linear", format.name, lambda a=(format, K, N, layout_name, kv): _linear_norm_rope(*a)
    yield "linear", format.name, lambda: _linear_norm_rope(format, 4096, 4096, "half", "f16", turns=False)


def _linear_norm_rope(format: Format, K: int, N: int, layout_name: str, kv: str, turns: bool = True) -> None:
    """A product of K columns, the norm of its N rows, and of what reads that queries, keys and values, if it `turns`."""
    H, G, D, h, normed = 32, 8, 128, _meta(1, N), _q8(1, N)
    rows = (H + 2 * G) * D
    qkv, (k_cache, v_cache) = _meta(1, rows), _caches(kv, G, D)
    product = lambda x, n, k, residual, out: {
        "x": x, "weights": (layout.empty(format, n, k, "meta"),), "bias": None, "residual": residual, "out": out
    }
    ops = [
        ("linear", product(_q8(1, K), N, K, _meta(1, N), h)),
        ("rms_norm", {"x": h, "weight": _meta(N), "out": normed, "eps": 1e-5}),
        ("linear", product(normed, rows, N, None, qkv)),
        ("rope_store", {
            "qkv": qkv, "table": _meta(1, D), "positions": _ints(1), "sequences": _ints(1), "page_table": _ints(9, 256),
            "q_norm": None, "k_norm": None, "k_cache": k_cache, "v_cache": v_cache, "heads": H, "kv_heads": G, "head_dim": D,
            "layout": layout_name, "eps": 1e-5,
        }),
    ]  # fmt: skip
    launch_all({"rms_norm": rms_norm, "linear": linear, "rope_store": rope_store}, ops[: 4 if turns else 3])


def _caches(kv: str, G: int, D: int) -> list:
    shape = 256, G, PAGE, D
    if kv == "q8_0":
        scales = _meta(256, G, PAGE, D // Q8_BLOCK, dtype=torch.float16)
        return [Q8Cache(_meta(*shape, dtype=torch.int8), scales)] * 2
    return [_meta(*shape, dtype={"f16": torch.float16, "f32": torch.float32}[kv])] * 2


def _rope_store(kv: str, D: int, layout_name: str, norms: bool, tokens: int = 1, n_parts: int = 0) -> None:
    T, H, G = tokens, 32, 8
    N = (H + 2 * G) * D
    norm = _meta(D) if norms else None
    parts = (Parts(_meta(n_parts, T, N), _meta(T)), _meta(N) if norms else None) if n_parts else (None, None)
    rope.store(
        *parts, _meta(T, N), _meta(T, D), _ints(T), _ints(T), _ints(9, 256), norm, norm, *_caches(kv, G, D),
        heads=H, kv_heads=G, head_dim=D, layout=layout_name, eps=1e-6,
    )  # fmt: skip


def _rope_attention(kv: str, D: int, layout_name: str, norms: bool) -> None:
    T, H, G = 1, 32, 8
    norm, out = (_meta(D) if norms else None), _meta(T, H * D) if D % Q8_BLOCK else _q8(T, H * D)
    k_cache, v_cache = _caches(kv, G, D)
    rope_attention(
        qkv=_meta(T, (H + 2 * G) * D), table=_meta(T, D), positions=_ints(T), sequences=_ints(T), page_table=_ints(9, 256),
        q_norm=norm, k_norm=norm, k_cache=k_cache, v_cache=v_cache, out=out,
        heads=H, kv_heads=G, head_dim=D, layout=layout_name, eps=1e-6, scale=D**-0.5, window=0,
    )  # fmt: skip


def _attention(kv: str, D: int, T: int, group: int, window: int, quantized: bool = False, to_halves: bool = False) -> None:
    G = 8
    k_cache, v_cache = _caches(kv, G, D)
    given = {
        "qkv": _meta(T, (group + 2) * G * D), "positions": _ints(T), "sequences": _ints(T), "page_table": _ints(9, 256),
        "k_cache": k_cache, "v_cache": v_cache, "out": _q8(T, group * G * D) if quantized else _meta(T, group * G * D),
        "heads": group * G, "kv_heads": G, "head_dim": D, "scale": D**-0.5, "window": window,
    }  # fmt: skip
    if to_halves:
        attention_to_halves(gemm.order(T), **given)
    else:
        attention(**given)
