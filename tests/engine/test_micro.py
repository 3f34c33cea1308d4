"""Ops by themselves: which there are, that what is timed is right, and how wrong results show."""

import importlib.util

import numpy as np
import pytest

from rocforge.cpu import backend as cpu
from rocforge.cpu.matmul import sums_bfloats
from rocforge.engine import micro, operands, peers, standard
from rocforge.gguf.formats import F32, Q4_K, SUPPORTED
from rocforge.models import build_plan
from rocforge.plan.fuse import fuse
from tests.plan.tiny import metadata, model_file


@pytest.fixture
def quick(monkeypatch):
    """Few copies and short repetitions."""
    monkeypatch.setattr(operands, "ROTATED_BYTES", 1 << 20)
    monkeypatch.setattr(micro, "ROTATED_BYTES", 1 << 20)
    monkeypatch.setattr(micro, "LEAST_S", 0.0)
    monkeypatch.setitem(standard.SHAPES, "cpu", {"d_model": 256, "n_heads": 4, "n_kv_heads": 2, "head_dim": 64, "d_ff": 512})
    monkeypatch.setattr(standard, "VOCAB", 300)


@pytest.fixture(scope="module")
def backend():
    backend = cpu.Backend(2)
    yield backend
    backend.close()


def test_the_standard_set_has_every_format_and_op():
    found = micro.cases(standard.plans("cpu"), "cpu", (1, 512), (0,))
    for tokens in (1, 512):
        some = [c.row for c in found if c.row["tokens"] == tokens]
        assert {r["format"] for r in some if r["op"] == "linear"} == {f.name for f in SUPPORTED}
        # Attention, norm and swiglu quantise what they write: a Llama layer has no other op for it.
        assert {r["op"] for r in some} == set(cpu.LAUNCHERS) - {"quantize"}
    assert len({c.key for c in found}) == len(found)


def test_each_op_format_and_shape_once_and_attention_for_each_depth():
    file = model_file(layers=3, formats_of=lambda name: F32 if "ffn_down" in name else SUPPORTED[6])
    plan = fuse(build_plan(file)[1])
    found = [c.row for c in micro.cases([plan, plan], "cpu", (1, 8), (0, 40))]
    attention = [(r["tokens"], r["depth"], r["format"], r["shape"]) for r in found if r["op"] == "attention"]
    assert attention == [(1, 0, "f16", [1, 128]), (1, 40, "f16", [1, 128]), (8, 0, "f16", [8, 128]), (8, 40, "f16", [8, 128])]
    down = [(r["tokens"], r["shape"]) for r in found if r["op"] == "linear" and r["format"] == "F32"]
    assert down == [(1, [64, 96]), (8, [64, 96])]
    output = [r["tokens"] for r in found if r["op"] == "linear" and r["shape"] == [50, 64]]
    assert output == [1]  # of however many tokens, one row's logits


@pytest.mark.parametrize("format", [F32, Q4_K], ids=str)
@pytest.mark.parametrize("tokens", [1, 20])
def test_every_op_runs_and_a_product_is_near_float64(quick, backend, format, tokens):
    for case in micro.cases([standard.plan_of("cpu", format)], "cpu", (tokens,), (0, 40)):
        times_s, error = micro.time_case(case, backend, cpu.LAUNCHERS, 2)
        assert len(times_s) == 2 and min(times_s) > 0
        assert (error is not None) == (case.op.kind == "linear")
        if error is not None:
            # A bfloat16 is off by 2^-9 of itself (cpu/matmul.py), and the largest row is some times the mean one.
            assert error < (2.0**-6 if sums_bfloats(tokens) and not format.is_float else 1e-5), case


def test_a_wrong_product_shows_in_the_error(quick, backend):
    def wrong(x, weights, bias, residual, out):
        cpu.LAUNCHERS["linear"](x=x, weights=weights[:1], bias=None, residual=None, out=out[:, : weights[0].rows])

    (case,) = [c for c in micro.cases([standard.plan_of("cpu", Q4_K)], "cpu", (4,), (0,)) if c.row["shape"] == [256, 512]]
    assert case.op.operands["residual"] is not None
    _, error = micro.time_case(case, backend, {"linear": wrong}, 1)
    assert error > 1e-4  # a hundred times what rounding makes


def test_what_is_rotated_together_outruns_the_caches(monkeypatch):
    monkeypatch.setattr(operands, "ROTATED_BYTES", 1000)
    assert operands.copies_for(300, 1.0) == 4 and operands.copies_for(2000, 1.0) == 1 and operands.copies_for(0, 1.0) == 1
    assert operands.copies_for(1, operands.MOST_OPS / 10) == 10 and operands.copies_for(1, 2 * operands.MOST_OPS) == 2
    plan = standard.plan_of("cpu", Q4_K)
    attention, norm = (next(op for op in plan.ops if op.kind == kind) for kind in ("attention", "rms_norm"))
    sizes = operands.sizes_for(1, 63)
    assert operands.streamed_bytes(attention, plan, sizes) == 2 * 64 * 8 * 64 * 2
    assert operands.streamed_bytes(norm, plan, sizes) == 0


def test_copies_are_in_places_of_their_own(quick, backend):
    (case,) = [c for c in micro.cases([standard.plan_of("cpu", Q4_K)], "cpu", (1,), (0,)) if c.row["shape"] == [256, 512]]
    made = operands.Operands(case.op, case.plan, operands.sizes_for(1, 0), 0, backend, 3)
    places = {s["weights"][0].data.ctypes.data for s in made.sets}
    assert len(places) == 3 and len({id(s["x"]) for s in made.sets}) == 1
    np.testing.assert_array_equal(made.sets[0]["weights"][0].data, made.sets[2]["weights"][0].data)


def test_results_say_all_that_is_measured(quick, backend):
    wanted = [c for c in micro.cases([standard.plan_of("cpu", Q4_K)], "cpu", (1,), (0,)) if c.op.kind in ("swiglu", "attention", "linear")]
    first, *rows, last = micro.run(wanted, backend, cpu.LAUNCHERS, "cpu", 1, 3)
    limits = last["roofline"].as_dict()
    assert all(limits[name] >= rate for name, rate in first["roofline"].as_dict().items() if name.endswith("_per_s"))
    micro.hold_against(last["roofline"], rows)
    assert len(rows) == len(wanted)
    for row, case in zip(rows, wanted, strict=True):
        assert row["op"] == case.op.kind and len(row["times_s"]) == 3
        assert row["bytes_per_s"] == pytest.approx(row["bytes"] / row["time_s"])
        assert row["of_bound"] == pytest.approx(row["bound_s"] / row["time_s"])
        assert row["bound_s"] >= row["memory_bytes"] / limits["memory_bytes_per_s"]
        assert (row["peer_s"] is None) == (row["op"] == "swiglu")


def test_without_torch_numpy_is_the_peer(quick, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    found = {c.op.kind: peers.run(c, "cpu", 1, 2) for c in micro.cases([standard.plan_of("cpu", Q4_K)], "cpu", (4,), (0,))}
    name, time_s = found.pop("linear")
    assert name == "numpy matmul float32" and time_s > 0 and set(found.values()) == {None}


def test_torchs_attention_sees_what_ours_does(quick):
    """With a depth and a window, by the mask that it is given."""
    torch = pytest.importorskip("torch")
    plan = fuse(build_plan(model_file(keys=metadata(attention__sliding_window=3)))[1])
    (case,) = [c for c in micro.cases([plan], "cpu", (4,), (6,)) if c.op.kind == "attention"]
    seen = {}
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(q, k, v, **how):
        seen.update(how, lengths=(q.shape[2], k.shape[2]))
        return attend(q, k, v, **how)

    torch.nn.functional.scaled_dot_product_attention = spy
    try:
        peers.run(case, "cpu", 1, 1)
    finally:
        torch.nn.functional.scaled_dot_product_attention = attend
    assert seen["lengths"] == (4, 10)
    assert [row.nonzero().flatten().tolist() for row in seen["attn_mask"]] == [[4, 5, 6], [5, 6, 7], [6, 7, 8], [7, 8, 9]]


def test_the_gpus_room_is_driven_the_same_way(quick):
    """In Triton's interpreter: tensors, planes of weights and launches, not times."""
    gpu = pytest.importorskip("rocforge.kernels.backend", reason="torch or triton is absent")
    import triton

    if not triton.knobs.runtime.interpret:
        pytest.skip("the interpreter is off")
    plan = fuse(build_plan(model_file())[1])
    backend = gpu.Backend("cpu")
    for case in micro.cases([plan], "gpu", (1,), (0,)):
        if case.op.kind in ("linear", "rope_store") and case.row["shape"] not in ([50, 64], [192, 64], [256, 64]):
            case_operands = operands.Operands(case.op, plan, operands.sizes_for(1, 0), 0, backend, 2)
            with backend.record() as program:
                gpu.LAUNCHERS[case.op.kind](**case_operands.sets[1], **case.op.attrs)
                gpu.LAUNCHERS[case.op.kind](**case_operands.sets[0], **case.op.attrs)
            backend.run(program)
            error = case_operands.error()
            assert error is None or error < 1e-5, case
