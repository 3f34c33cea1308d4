"""What an op moves and computes, counted by hand for the tiny model, the KV cache included."""

import pytest

from rocforge.models import build_plan
from rocforge.plan import explain
from rocforge.plan.fuse import fuse
from rocforge.plan.ir import PAGE
from tests.plan.tiny import metadata, model_file

# Of tests/plan/tiny.py: heads, kv-heads, their size, and the width of the feed-forward.
H, G, D, FF, D_MODEL = 4, 2, 32, 96, 64


def rows(tokens, depth=0, kv_format="f16", **keys):
    _, plan = build_plan(model_file(keys=metadata(**keys)), kv_format)
    sizes = {"T": tokens, "R": 1, "S": 1, "P": 4, "B": 4}
    return explain.rows(fuse(plan), sizes, depth)


def only(found, op, place=0):
    return [r for r in found if r["op"] == op][place]


@pytest.mark.parametrize(("kv_format", "row_bytes"), [("f16", 2 * D), ("f32", 4 * D), ("q8_0", D + D // 32 * 2)])
def test_attention_reads_the_cache_up_to_its_token(kv_format, row_bytes):
    found = only(rows(3, depth=70, kv_format=kv_format), "attention")
    assert found["memory_bytes"] == 73 * 2 * G * row_bytes
    qkv, out = 4 * 3 * (H + 2 * G) * D, 3 * H * D // 32 * (32 + 4 + 2 * 2)  # values in 8 bits, a scale, two sums
    indices = 4 * (3 + 3 + 1 * 4)  # positions, sequences, the page table
    assert found["bytes"] == found["memory_bytes"] + qkv + out + indices
    assert found["flops"] == 4 * H * D * (71 + 72 + 73)


def test_a_window_bounds_what_attention_sees():
    found = only(rows(3, depth=70, attention__sliding_window=16), "attention")
    assert found["flops"] == 4 * H * D * 16 * 3
    assert found["memory_bytes"] == (16 + 2) * 2 * G * 2 * D  # the first token sees 55..70, the last 57..72
    found = only(rows(3, depth=0, attention__sliding_window=2), "attention")
    assert found["flops"] == 4 * H * D * (1 + 2 + 2)


def test_rope_store_fills_the_rows_of_its_tokens_only():
    near, far = (only(rows(5, depth), "rope_store") for depth in (0, 100))
    assert near["memory_bytes"] == far["memory_bytes"] == 5 * 2 * G * 2 * D


def test_a_matrix_product_reads_its_weights_whatever_the_tokens():
    one, many = (only(rows(n), "linear", 2) for n in (1, 16))
    assert one["shape"] == [2 * FF, D_MODEL] and one["format"] == "Q8_0"
    assert one["memory_bytes"] == many["memory_bytes"] == 2 * FF * D_MODEL // 32 * 34
    assert many["flops"] == 16 * one["flops"] == 16 * 2 * 2 * FF * D_MODEL
    assert only(rows(4), "embed")["memory_bytes"] == 4 * D_MODEL // 32 * 34


def test_gather_reads_the_rows_that_are_wanted():
    assert only(rows(100), "gather")["bytes"] == 2 * 4 * D_MODEL + 4


def test_a_page_is_not_counted_whole():
    assert only(rows(1), "attention")["memory_bytes"] == 2 * G * 2 * D < PAGE * G * D
