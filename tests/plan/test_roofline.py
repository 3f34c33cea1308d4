"""Which limit binds, and that groups add up."""

from dataclasses import replace

import pytest

from rocforge.plan.roofline import Roofline, analyse, bound, unit

LIMITS = Roofline(100.0, 1 << 30, ((10, 9000.0), (4000, 800.0), (16000, 1000.0), (64000, 500.0)), 50.0, "matrix", 10.0, "vector")


def row(op="swiglu", memory_bytes=0, value_bytes=0, flops=0, format=None, device="cpu", shape=("T", 8)):
    return {
        "op": op, "format": format, "shape": list(shape), "device": device, "memory_bytes": memory_bytes,
        "bytes": memory_bytes + value_bytes, "flops": flops,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (row(memory_bytes=300), (3.0, "memory")),
        (row(value_bytes=2000, memory_bytes=100), (2.0, "cache")),
        (row(value_bytes=20000), (40.0, "cache")),  # beyond the cache that reads 1000
        (row(value_bytes=128000), (256.0, "cache")),
        (row(flops=70, memory_bytes=100), (7.0, "compute")),
        (row("linear", flops=100, memory_bytes=100, format="Q4_K"), (2.0, "compute")),
    ],
)
def test_the_longest_of_three_binds(given, expected):
    assert bound(LIMITS, given) == pytest.approx(expected)


def test_of_two_measurements_the_faster_counts():
    other = replace(LIMITS, memory_bytes_per_s=150.0, vector_ops_per_s=1.0, caches=((10, 1.0), (4000, 900.0), (16000, 1.0), (64000, 1.0)))
    best = LIMITS.better(other)
    assert (best.memory_bytes_per_s, best.matrix_ops_per_s, best.vector_ops_per_s) == (150.0, 50.0, 10.0)
    assert [rate for _, rate in best.caches] == [9000.0, 900.0, 1000.0, 500.0]


@pytest.mark.parametrize(
    ("op", "format", "device", "expected"),
    [
        ("linear", "Q4_K+Q6_K", "cpu", "matrix"), ("linear", "F16", "cpu", "vector"), ("linear", "F16", "gpu", "matrix"),
        ("attention", None, "cpu", "vector"), ("attention", None, "gpu", "matrix"), ("rms_norm", None, "gpu", "vector"),
    ],
)  # fmt: skip
def test_the_unit_that_an_op_multiplies_with(op, format, device, expected):
    assert unit(row(op, format=format, device=device)) == expected


def test_groups_and_what_is_between_add_up_to_the_step_largest_loss_first():
    rows = [row(memory_bytes=100), row("gather", value_bytes=1000), row(memory_bytes=300), row(memory_bytes=100, shape=("T", 9))]
    times_s = [[2.0, 9.0, 4.0, 1.5], [2.0, 1.0, 5.0, 1.5], [3.0, 1.5, 4.5, 2.5]]
    found = analyse(rows, LIMITS, times_s, [12.0, 10.0, 99.0])
    lines = [(line["op"], line["shape"], line["launches"], line["time_s"], line["bound_s"]) for line in found["groups"]]
    assert lines == [
        ("swiglu", ["T", 8], 2, 7.0, 4.0),  # the median of 6, 7 and 7.5
        ("gather", ["T", 8], 1, 1.5, 1.0),
        ("swiglu", ["T", 9], 1, 1.5, 1.0),
    ]
    assert found["groups"][0]["loss_s"] == 3.0
    assert (found["ops_s"], found["step_s"], found["between_s"], found["bound_s"]) == (10.0, 12.0, 2.0, 6.0)
