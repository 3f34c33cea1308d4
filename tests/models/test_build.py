"""From metadata and a directory of tensors to a plan: what is read, and what is refused with which words."""

import math

import numpy as np
import pytest

from rocforge.errors import ModelError
from rocforge.gguf import formats
from rocforge.gguf.formats import BY_NAME
from rocforge.models import FAMILIES, build_plan
from rocforge.plan.rope import Rope
from tests.plan.tiny import metadata, model_file, shapes


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_plan_uses_every_tensor_once_in_its_place(architecture):
    file = model_file(architecture)
    _, plan = build_plan(file)
    assert {w.name for w in plan.weights} == set(file.tensors)


@pytest.mark.parametrize("name", sorted(shapes("qwen2") | shapes("qwen3")))
def test_each_missing_tensor_is_named(name):
    architecture = "qwen2" if name.endswith(".bias") else "qwen3"
    if name == "output.weight":
        # An absent head is not missing: the embedding table stands in for it.
        assert build_plan(model_file(architecture, drop={name}))
        return
    with pytest.raises(ModelError, match=rf"tiny\.gguf: tensor {name} is missing"):
        build_plan(model_file(architecture, drop={name}))


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.1.attn_k.weight", "blk.0.ffn_norm.weight"])
def test_a_wrong_shape_is_named_with_both_shapes(name):
    right = list(shapes()[name])
    wrong = tuple(n + 32 for n in right)
    with pytest.raises(ModelError) as error:
        build_plan(model_file(extra={name: wrong}))
    assert f"tensor {name} has shape {list(wrong)}" in str(error.value) and f"wants {right}" in str(error.value)


def test_a_tensor_without_a_place_is_refused():
    with pytest.raises(ModelError, match=r"has no place for the tensors blk\.0\.ffn_gate_inp\.weight"):
        build_plan(model_file(extra={"blk.0.ffn_gate_inp.weight": (8, 64)}))


def test_an_unknown_architecture_is_refused_with_the_known_ones():
    with pytest.raises(ModelError, match="'mamba' is not supported; supported are llama, qwen2, qwen3"):
        build_plan(model_file("mamba"))


def test_experts_are_refused_by_name():
    with pytest.raises(ModelError, match="llama.expert_count: this is a mixture of experts"):
        build_plan(model_file(keys=metadata(expert_count=8)))


@pytest.mark.parametrize("name", ["IQ2_XXS", "MXFP4", "I32"])
def test_a_format_without_kernels_is_refused_with_those_that_have(name):
    with pytest.raises(ModelError, match=rf"attn_q\.weight is {name}, which has no kernel; supported: F32 F16 BF16 Q4_0"):
        build_plan(model_file(formats_of=lambda n: BY_NAME[name] if "attn_q" in n else formats.Q8_0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0), ("block_count", 2**40), ("embedding_length", -1), ("attention.head_count", 0),
        ("attention.head_count_kv", 3), ("attention.value_length", 16), ("rope.dimension_count", 7),
        ("rope.dimension_count", 64), ("rope.freq_base", 0.0), ("rope.freq_base", math.nan),
        ("attention.layer_norm_rms_epsilon", -1.0), ("rope.scaling.type", "longrope"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(key, value):
    keys = metadata() | {f"llama.{key}": value}
    with pytest.raises(ModelError, match=rf"metadata llama\.{key}: "):
        build_plan(model_file(keys=keys))


@pytest.mark.parametrize(
    "key", ["block_count", "embedding_length", "attention.head_count", "feed_forward_length", "context_length"]
)
def test_a_missing_key_is_named(key):
    with pytest.raises(ModelError, match=rf"llama\.{key} is missing"):
        build_plan(model_file(keys=metadata(**{key.replace(".", "__"): None})))


def test_what_metadata_leaves_out_has_the_usual_value():
    keys = metadata(attention__key_length=None, attention__value_length=None, attention__head_count_kv=None, rope__freq_base=None)
    with pytest.raises(ModelError, match="attn_q"):  # the head size is now 64 / 4
        build_plan(model_file(keys=keys))
    config, _ = build_plan(model_file(keys=metadata(rope__freq_base=None)))
    assert config.rope.theta == 10_000 and config.rope.dim == 32 and config.window == 0


# ---- RoPE


def test_linear_scaling_divides_all():
    plain, scaled = Rope(64, 1e4, "half").inv_freq(), Rope(64, 1e4, "half", "linear", 4.0).inv_freq()
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-15)


def test_factors_divide_each():
    factors = np.linspace(1, 8, 32, dtype=np.float32)
    plain = Rope(64, 1e4, "half").inv_freq()
    np.testing.assert_allclose(Rope(64, 1e4, "half").inv_freq(factors), plain / factors.astype(np.float64), rtol=1e-15)


def test_yarn_keeps_the_fast_and_divides_the_slow():
    rope = Rope(128, 1e4, "half", "yarn", 16.0, original_context=4096)
    ratio = Rope(128, 1e4, "half").inv_freq() / rope.inv_freq()
    turns = 4096 * Rope(128, 1e4, "half").inv_freq() / (2 * math.pi)
    # Beyond the ramp's whole-numbered ends, one pair further on either side.
    np.testing.assert_allclose(ratio[turns > 32 * 1.2], 1, rtol=1e-12)
    np.testing.assert_allclose(ratio[turns < 1 / 1.2], 16, rtol=1e-12)
    assert np.all(np.diff(ratio) >= -1e-12)
    assert rope.attention_factor == pytest.approx(0.1 * math.log(16) + 1)


def test_scaling_is_read_from_the_metadata():
    extra = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0, "llama.rope.scaling.original_context_length": 64}
    config, _ = build_plan(model_file(keys=metadata() | extra))
    assert (config.rope.scaling, config.rope.factor, config.rope.original_context) == ("yarn", 4.0, 64)
    # A factor of one changes nothing, whatever the type says.
    config, _ = build_plan(model_file(keys=metadata() | {**extra, "llama.rope.scaling.factor": 1.0}))
    assert config.rope.scaling == "none" and config.rope.attention_factor == 1


@pytest.mark.parametrize("key", ["yarn_ext_factor", "yarn_log_multiplier"])
def test_variants_of_yarn_that_are_not_computed_are_refused(key):
    extra = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0, f"llama.rope.scaling.{key}": 0.5}
    with pytest.raises(ModelError, match=rf"llama\.rope\.scaling\.{key}: only .* is supported"):
        build_plan(model_file(keys=metadata() | extra))
