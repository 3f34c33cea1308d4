"""Products of more than a few tokens by fewer launches: in the interpreter, which sums in one order, to the last bit
what one launch an op computes. A GPU's lanes sum a norm's squares in another order there; `test_linear.py`, `test_norm.py` and the
golden files hold it to exact arithmetic.
"""

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

import torch  # noqa: E402

from rocforge.gguf.formats import Q8, Q4_K, Q6_K, Q8_0, Q8Cache  # noqa: E402
from rocforge.kernels import attention_decode, chain, gemm, halves, launch, layout  # noqa: E402
from rocforge.kernels.backend import LAUNCHERS  # noqa: E402
from rocforge.plan.ir import PAGE  # noqa: E402
from tests.ops.blocks import random_blocks, random_q8  # noqa: E402
from tests.ops.rooms import make_room  # noqa: E402


def q8(T, K, device):
    empty = lambda *shape, dtype: torch.zeros(shape, dtype=dtype, device=device)
    return Q8(empty(T, K, dtype=torch.int8), empty(T, K // 32, dtype=torch.float32), empty(T, K // 16, dtype=torch.int16))


def run(launch_all, T, splits, formats, columns, device, monkeypatch):
    """norm, linear, norm, linear, the second of two matrices: (names of kernels, x, what the last linear gives)"""
    rng = np.random.default_rng(0)
    if splits:
        monkeypatch.setattr(gemm, "splits_of", lambda at, rows, tokens, units: max(1, min(splits, units // at.BU)))
    K, N = columns
    tensor = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)
    matrix = lambda format, N, K: layout.matrix(random_blocks(format, N, K, rng), format, N, K, device=device)
    x, residual, bias = tensor(T, K), tensor(T, N), tensor(N)
    out, last = torch.full((T, N), torch.nan, device=device), torch.full((T, 72), torch.nan, device=device)
    h, g = q8(T, K, device), q8(T, N, device)
    first, second = (matrix(formats[0], N, K),), (matrix(formats[1], 40, N), matrix(formats[2], 32, N))
    ops = [
        ("rms_norm", {"x": x, "weight": tensor(K), "out": h, "eps": 1e-5}),
        ("linear", {"x": h, "weights": first, "bias": bias, "residual": residual, "out": out}),
        ("rms_norm", {"x": out, "weight": tensor(N), "out": g, "eps": 1e-5}),
        ("linear", {"x": g, "weights": second, "bias": None, "residual": None, "out": last}),
    ]
    with launch.record() as program:
        launch_all(ops)
    names = [made.kernel.__name__ for made in program.launches]
    program.run()
    return names, out.cpu(), last.cpu()


def one_by_one(ops):
    for kind, given in ops:
        LAUNCHERS[kind](**given)


def together(ops):
    chain.launch_all(LAUNCHERS, ops)


@pytest.fixture
def device():
    return make_room("triton").device


@pytest.mark.parametrize("T", [9, 33])
@pytest.mark.parametrize("splits", [1, 3], ids=["whole", "parts"])
@pytest.mark.parametrize("formats,columns", [((Q4_K, Q6_K, Q4_K), (768, 256)), ((Q8_0, Q8_0, Q8_0), (416, 96))], ids=["K", "odd"])
def test_it_is_the_same(device, T, splits, formats, columns, monkeypatch):
    plain, *expected = run(one_by_one, T, splits, formats, columns, device, monkeypatch)
    fewer, *got = run(together, T, splits, formats, columns, device, monkeypatch)
    is_split = "add_parts" in plain
    assert is_split == (splits > 1)
    assert fewer[:3] == ["rms_norm_halves", "gemm_blocks", "norm_of_parts" if is_split else "rms_norm_halves"], fewer
    assert len(fewer) == len(plain) - (3 if is_split else 2), (plain, fewer)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b) and not torch.isnan(a).any()


@pytest.mark.parametrize("splits", [1, 3], ids=["whole", "parts"])
@pytest.mark.parametrize("kind", ["f16", "q8"])
@pytest.mark.parametrize("norms,rotated", [(False, 32), (True, 16)], ids=["plain", "normed"])
def test_queries_keys_and_values(device, splits, kind, norms, rotated, monkeypatch):
    """linear, rope_store: what turns q and k joins their parts. Of v, nobody reads more than the cache's."""
    T, K, H, G, D, pages = 11, 768, 3, 1, 32, 4
    results = []
    for launch_all in (one_by_one, together):
        monkeypatch.setattr(gemm, "splits_of", lambda at, rows, tokens, units: max(1, min(splits, units // at.BU)))
        rng = np.random.default_rng(0)
        tensor = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)
        ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)
        x = Q8(*(torch.from_numpy(part).to(device) for part in random_q8(T, K, rng)))
        weights = tuple(
            layout.matrix(random_blocks(f, n * D, K, rng), f, n * D, K, device=device) for f, n in ((Q4_K, H + G), (Q6_K, G))
        )
        qkv = torch.full((T, (H + 2 * G) * D), torch.nan, device=device)
        caches = [cache(kind, pages, G, D, device) for _ in range(2)]
        ops = [
            ("linear", {"x": x, "weights": weights, "bias": tensor(len(qkv[0])), "residual": None, "out": qkv}),
            ("rope_store", {
                "qkv": qkv, "table": tensor(T, rotated), "positions": ints([*range(30, 30 + T - 1), -1]), "sequences": ints([1] * T),
                "page_table": ints([[0, 1], [2, 3]]), "q_norm": tensor(D) if norms else None, "k_norm": tensor(D) if norms else None,
                "k_cache": caches[0], "v_cache": caches[1], "heads": H, "kv_heads": G, "head_dim": D, "layout": "half", "eps": 1e-5,
            }),
        ]  # fmt: skip
        with launch.record() as program:
            launch_all(ops)
        program.run()
        held = [part for each in caches for part in (each if kind == "q8" else (each,))]
        results.append(([made.kernel.__name__ for made in program.launches], qkv[:, : H * D].cpu(), *(part.cpu() for part in held)))
    (plain, *expected), (fewer, *got) = results
    assert plain == ["halves_of_q8", "gemm_blocks", "gemm_blocks", *["add_parts"] * (splits > 1), "rope_store_heads"], plain
    assert fewer == ["halves_of_q8", "gemm_blocks", "gemm_blocks", "rope_store_heads"], fewer
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b) and not torch.isnan(a.float()).any()


def cache(kind, pages, G, D, device):
    if kind == "f16":
        return torch.zeros(pages, G, PAGE, D, dtype=torch.float16, device=device)
    values = torch.zeros(pages, G, PAGE, D, dtype=torch.int8, device=device)
    return Q8Cache(values, torch.zeros(pages, G, PAGE, D // 32, dtype=torch.float16, device=device))


@pytest.mark.parametrize("F", [768, 416, 16416], ids=["K", "odd", "too wide"])
def test_swiglu(device, F):
    """swiglu, linear: its 8 bits become halves at once, where a program holds a row."""
    T, N, results = 9, 40, []
    for launch_all in (one_by_one, together):
        rng = np.random.default_rng(0)
        gate_up = torch.from_numpy(rng.standard_normal((T, 2 * F)).astype(np.float32)).to(device)
        weights = (layout.matrix(random_blocks(Q8_0, N, F, rng), Q8_0, N, F, device=device),)
        h, out = q8(T, F, device), torch.full((T, N), torch.nan, device=device)
        ops = [
            ("swiglu", {"gate_up": gate_up, "out": h}),
            ("linear", {"x": h, "weights": weights, "bias": None, "residual": None, "out": out}),
        ]
        with launch.record() as program:
            launch_all(ops)
        program.run()
        results.append(([made.kernel.__name__ for made in program.launches], out.cpu()))
    (plain, expected), (fewer, got) = results
    assert plain[:2] == ["swiglu_q8", "halves_of_q8"], plain
    assert fewer == (plain if F > halves.MOST_COLUMNS else ["swiglu_halves", *plain[2:]]), fewer
    assert torch.equal(got, expected) and not torch.isnan(got).any()


@pytest.mark.parametrize("most", [halves.MOST_COLUMNS, 64], ids=["fits", "too wide"])
@pytest.mark.parametrize("programs", [1, 1000], ids=["whole", "parts"])
def test_attention(device, programs, most, monkeypatch):
    """attention, linear: of parts that are joined halves are made at once, where a program holds a row. Its sums
    take the parts in order, those of join_splits by pairs of lanes: where that rounds a value to the next of its 8 bits, a row differs,
    here in no more than two of them."""
    T, H, G, D, pages, N, results = 9, 6, 3, 32, 27, 40, []
    monkeypatch.setitem(attention_decode.PROGRAMS, "interpreter", programs)
    monkeypatch.setattr("rocforge.kernels.halves.MOST_COLUMNS", most)
    for launch_all in (one_by_one, together):
        rng = np.random.default_rng(0)
        tensor = lambda *shape: torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device)
        ints = lambda values: torch.tensor(values, dtype=torch.int32, device=device)
        weights = (layout.matrix(random_blocks(Q8_0, N, H * D, rng), Q8_0, N, H * D, device=device),)
        h, out = q8(T, H * D, device), torch.full((T, N), torch.nan, device=device)
        k, v = (tensor(pages, G, PAGE, D).half() for _ in range(2))
        ops = [
            ("attention", {
                "qkv": tensor(T, (H + 2 * G) * D), "positions": ints([80, 3, 0, -1, 31, 32, 33, 64, 95]), "sequences": ints(list(range(T))),
                "page_table": torch.arange(pages, dtype=torch.int32, device=device).view(T, 3), "k_cache": k, "v_cache": v, "out": h,
                "heads": H, "kv_heads": G, "head_dim": D, "scale": D**-0.5, "window": 0,
            }),
            ("linear", {"x": h, "weights": weights, "bias": None, "residual": None, "out": out}),
        ]  # fmt: skip
        with launch.record() as program:
            launch_all(ops)
        program.run()
        results.append(([made.kernel.__name__ for made in program.launches], out.cpu()))
    (plain, expected), (fewer, got) = results
    is_joined = programs > 1 and most > 64
    assert plain[1:3] == (["join_splits", "halves_of_q8"] if programs > 1 else ["halves_of_q8", "gemm_blocks"]), plain
    assert fewer == ([plain[0], "halves_of_splits", *plain[3:]] if is_joined else plain), fewer
    assert not torch.isnan(got).any()
    if not is_joined:
        assert torch.equal(got, expected)
        return
    one_value = float(v.abs().max()) / 127 * float(weights[0].bounds.max()) * 128  # a step of 8 bits, times the largest weight
    assert ((got - expected).abs() <= 2 * one_value).all() and (got == expected).float().mean() > 0.5
