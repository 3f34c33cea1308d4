"""Buffers: nothing that lives shares memory, and little is wasted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocforge.errors import CapacityError
from rocforge.models import build_plan
from rocforge.plan.allocate import ALIGN, allocate, lifetimes, pack
from rocforge.plan.fuse import fuse
from rocforge.plan.ir import Op, Plan, Value
from tests.plan.tiny import model_file

SIZES = {"T": 17, "R": 3, "S": 2, "P": 4, "B": 8}


def overlaps(plan, sizes):
    """Pairs of values that are alive together and share bytes, but for an output in its residual's place."""
    offsets, total = pack(plan, sizes)
    lives = lifetimes(plan)
    taken_over = {
        (op.operands["residual"], op.operands["out"]) for op in plan.ops if op.kind == "linear" and op.operands["residual"]
    }
    spans = {v: (offsets[v.name], offsets[v.name] + v.n_bytes(sizes)) for v in lives}
    assert all(stop <= total for _, stop in spans.values())
    found = []
    values = list(lives)
    for i, a in enumerate(values):
        for b in values[i + 1 :]:
            alive = lives[a][0] <= lives[b][1] and lives[b][0] <= lives[a][1]
            shared = spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]
            if alive and shared and not {(a, b), (b, a)} & taken_over:
                found.append((a.name, b.name))
    return found


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_no_two_living_values_share_memory(architecture):
    _, plan = build_plan(model_file(architecture))
    assert overlaps(fuse(plan), SIZES) == []


def test_the_residual_stream_stays_where_it_is():
    _, plan = build_plan(model_file())
    plan = fuse(plan)
    offsets, _ = pack(plan, SIZES)
    stream = [op for op in plan.ops if op.kind == "linear" and op.operands["residual"]]
    assert len({offsets[op.operands["out"].name] for op in stream}) == 1


def test_memory_does_not_grow_with_layers():
    two, six = (fuse(build_plan(model_file(layers=n))[1]) for n in (2, 6))
    assert pack(six, SIZES)[1] == pack(two, SIZES)[1]


@st.composite
def chains(draw):
    """Straight-line plans of adds over values of mixed sizes."""
    start = Value("v0", ("T", draw(st.integers(1, 40))))
    values, ops = [start], []
    for i in range(1, draw(st.integers(2, 25))):
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        out = Value(f"v{i}", ("T", draw(st.integers(1, 40))))
        ops.append(Op("add", {"x": x, "y": y, "out": out}))
        values.append(out)
    return Plan(tuple(ops), (start,), (), values[-1])


@settings(max_examples=200, deadline=None)
@given(chains())
def test_any_plan_is_packed_without_overlap(plan):
    assert overlaps(plan, SIZES) == []
    _, total = pack(plan, SIZES)
    lives = lifetimes(plan)
    padded = lambda v: -(-v.n_bytes(SIZES) // ALIGN) * ALIGN
    busiest = max(sum(padded(v) for v, (a, b) in lives.items() if a <= i <= b) for i in range(len(plan.ops)))
    assert busiest <= total <= sum(padded(v) for v in lives)


def test_too_little_memory_is_refused_with_the_numbers():
    _, plan = build_plan(model_file())
    with pytest.raises(CapacityError, match=r"context of 4096 tokens needs 2 MiB of KV cache .* 1 MiB are free; .*--context"):
        allocate(
            fuse(plan), tokens=64, rows=4, sequences=2, context=4096, weights_bytes=0, available_bytes=1 << 20
        )


def test_the_cache_holds_the_context():
    config, plan = build_plan(model_file(), kv_format="f32")
    memory = allocate(fuse(plan), tokens=64, rows=4, sequences=2, context=100, weights_bytes=0)
    # 100 tokens in pages of 32 are 4 pages.
    assert memory.kv_bytes == 128 * config.kv_bytes_per_token(4)
