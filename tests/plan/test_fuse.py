"""Fusion changes what is launched and not what is computed."""

from dataclasses import replace

import numpy as np
import pytest

from rocforge.gguf import formats
from rocforge.models import build_plan
from rocforge.plan.fuse import PASSES, fuse
from rocforge.plan.ir import CONTRACTS, PAGE, Columns
from tests.plan.interpreter import Interpreter
from tests.plan.tiny import metadata, model_file, random_weights

SIZES = {"S": 2, "P": 3, "B": 6}


def run(plan, weights, rows):
    """A chunk of two sequences, then a step of one token each; logits of `rows` of the chunk and of the step."""
    machine = Interpreter(plan, weights, SIZES)
    page_table = np.array([[4, 1, 0], [2, 5, 3]], np.int32)
    rng = np.random.default_rng(1)
    n = PAGE + 5  # more than a page
    chunk = machine.run(
        tokens=rng.integers(0, 50, 2 * n),
        positions=np.tile(np.arange(n), 2),
        sequences=np.repeat([0, 1], n),
        page_table=page_table,
        rows=np.array(rows),
    )
    step = machine.run(
        tokens=np.array([3, 4]), positions=np.array([n, n]), sequences=np.array([0, 1]), page_table=page_table,
        rows=np.array([0, 1]),
    )  # fmt: skip
    return np.concatenate([chunk, step])


def mixed(name):
    """Float and block formats side by side in one q, k, v and one gate, up."""
    return formats.F16 if "attn_k" in name or "ffn_up" in name else formats.Q8_0


CASES = {
    "llama": {},
    "llama tied": {"tied": True},
    "llama mixed formats": {"formats_of": mixed},
    "llama floats": {"formats_of": lambda name: formats.F32},
    "llama window": {"keys": metadata("llama", attention__sliding_window=7)},
    "llama rope factors": {"extra": {"rope_freqs.weight": (16,)}},
    "qwen2": {"architecture": "qwen2"},
    "qwen3": {"architecture": "qwen3", "tied": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("passes", range(1, len(PASSES) + 1))
def test_each_pass_keeps_the_meaning(case, passes):
    file = model_file(**CASES[case])
    _, plain = build_plan(file)
    weights = random_weights(file)
    fused = plain
    for rewrite in PASSES[:passes]:
        fused = rewrite(fused).check()
    expected, got = run(plain, weights, [0, 36, 73]), run(fused, weights, [0, 36, 73])
    # The same float64 operations, sums of matrix rows apart: rounding of a few ulp.
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(expected).max() > 0.1


def test_a_layer_is_nine_launches():
    _, plan = build_plan(model_file())
    kinds = [op.kind for op in fuse(plan).ops]
    layer = ["rms_norm", "linear", "rope_store", "attention", "linear", "rms_norm", "linear", "swiglu", "linear"]
    assert kinds == ["embed", "rope_table", *layer, *layer, "gather", "rms_norm", "linear"]


def test_the_table_of_rope_is_made_before_what_precedes_its_reader():
    _, plan = build_plan(model_file())
    table = next(op for op in plan.ops if op.kind == "rope_table")
    others = [op for op in plan.ops if op is not table]
    late = next(i for i, op in enumerate(others) if op.kind == "rope")
    with pytest.raises(AssertionError, match="before the layers"):
        fuse(replace(plan, ops=(*others[:late], table, *others[late:])))


def test_fused_plans_hold_only_kinds_with_kernels():
    for case in CASES.values():
        _, plan = build_plan(model_file(**case))
        assert all(CONTRACTS[op.kind].launched for op in fuse(plan).ops)


def test_mixed_formats_are_split_by_what_they_read():
    _, plan = build_plan(model_file(formats_of=mixed))
    parts = [op for op in fuse(plan).ops if isinstance(op.operands.get("out"), Columns)]
    for op in parts:
        is_float = {w.format.is_float for w in op.operands["weights"]}
        assert len(is_float) == 1
        assert op.operands["x"].dtype == ("f32" if is_float.pop() else "q8")
    by_output = {}
    for op in parts:
        by_output.setdefault(op.operands["out"].value, []).append((op.operands["out"].start, op.operands["out"].stop))
    for value, spans in by_output.items():
        spans.sort()
        assert spans[0][0] == 0 and spans[-1][1] == value.shape[-1]
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:], strict=False))


def test_float_models_are_not_quantised():
    _, plan = build_plan(model_file(formats_of=lambda name: formats.F16))
    fused = fuse(plan)
    assert not any(v.dtype == "q8" for op in fused.ops for v in op.writes)


def test_residuals_are_added_by_the_matrix_product():
    _, plan = build_plan(model_file())
    added = [op for op in fuse(plan).ops if op.kind == "linear" and op.operands["residual"] is not None]
    assert [op.operands["weights"][0].name.split(".")[2] for op in added] == ["attn_output", "ffn_down"] * 2
