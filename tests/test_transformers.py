"""Whole models against transformers: tiny ones with random weights, in float32 on both sides."""

import functools

import gguf
import numpy as np
import pytest

from rocforge import LLM, Sampling
from tests.write_gguf import write_gguf

# The bar for whole models in F32. Two float32 passes of two layers differ by some 1e-6.
TOLERANCE = 1e-4

# More tokens than a KV page holds (32), and by far more than the sliding window.
N_TOKENS = 45
N_GREEDY = 12

# Rows of no round length; a head size apart from hidden_size / heads; an eps that would be missed if left out.
SHAPE = dict(
    hidden_size=72, intermediate_size=104, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
    head_dim=16, vocab_size=300, max_position_embeddings=128, rms_norm_eps=1e-2, tie_word_embeddings=False,
)  # fmt: skip
THETA = dict(rope_theta=1e4)
# The original context is short, so that the ramps lie within the tokens tested.
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32, **THETA)
LLAMA3 = dict(
    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=64, **THETA,
)  # fmt: skip

# name -> (class of transformers, what it has apart from SHAPE)
CASES = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", dict(tie_word_embeddings=True)),
    "llama, every head its own keys": ("Llama", dict(num_key_value_heads=6, head_dim=12)),
    "llama, one head of keys": ("Llama", dict(num_key_value_heads=1)),
    "llama, linear scaling": ("Llama", dict(rope_parameters=dict(rope_type="linear", factor=4.0, **THETA))),
    "llama, YaRN": ("Llama", dict(rope_parameters=YARN)),
    "llama, YaRN of its own": (
        "Llama",
        dict(rope_parameters={**YARN, "beta_fast": 8.0, "beta_slow": 0.5, "attention_factor": 1.25}),
    ),
    "llama, Llama 3 scaling": ("Llama", dict(rope_parameters=LLAMA3)),
    "mistral, sliding window": ("Mistral", dict(sliding_window=7)),
    "mistral, window of a page": ("Mistral", dict(sliding_window=32)),
    "qwen2": ("Qwen2", dict(head_dim=None)),
    "qwen2, tied, YaRN": ("Qwen2", dict(head_dim=None, tie_word_embeddings=True, rope_parameters=YARN)),
    "qwen3": ("Qwen3", {}),
    "qwen3, tied": ("Qwen3", dict(tie_word_embeddings=True, num_key_value_heads=6)),
}
BEYOND_WEIGHTS = {"rope_parameters", "sliding_window"}


def build(case, without=()):
    """The model of transformers, of random weights that leave no part of it without a say.

    `without` are fields to leave at their defaults; the weights stay the same.
    """
    torch = pytest.importorskip("torch", reason="torch is not installed: no outside oracle for whole models")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: no outside oracle")
    family, changes = CASES[case]
    fields = {**SHAPE, **changes}
    fields = {name: value for name, value in fields.items() if value is not None and name not in without}
    config = getattr(transformers, f"{family}Config")(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(list(CASES).index(case))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("bias") or "embed_tokens" in name:
                parameter.copy_(noise)
            else:  # queries and keys of some strength: attention that is not near its mean
                gain = 2 if "q_proj" in name or "k_proj" in name else 1
                parameter.copy_(noise * gain * parameter.shape[-1] ** -0.5)
    return model


def logits_of(model, tokens):
    """float32 [T, V] of the model of transformers."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


@functools.cache
def oracle(case):
    """-> (model, tokens, logits float32 [N_TOKENS, V], the greedy tokens after them)."""
    model = build(case)
    tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], N_TOKENS).tolist()
    text = list(tokens)
    for _ in range(N_GREEDY):
        text.append(int(logits_of(model, text)[-1].argmax()))
    return model, tokens, logits_of(model, tokens), text[N_TOKENS:]


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def path(case, tmp_path):
    path = tmp_path / "model.gguf"
    write_gguf(path, oracle(case)[0])
    return path


def relative_error(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("chunk_tokens", [64, 7, 1], ids=["prefill", "chunks of 7", "token by token"])
def test_logits(case, path, chunk_tokens):
    _, tokens, expected, _ = oracle(case)
    with LLM(path, kv_format="f32", threads=2, sequences=1, chunk_tokens=chunk_tokens) as llm:
        logits = llm.logits(tokens)
    errors = [relative_error(*rows) for rows in zip(logits, expected, strict=True)]
    assert max(errors) <= TOLERANCE, f"position {np.argmax(errors)}: {max(errors):.2e}"


def test_greedy_tokens(case, path):
    _, tokens, _, expected = oracle(case)
    sampling = Sampling(temperature=0, max_tokens=N_GREEDY, ignore_eos=True)
    with LLM(path, kv_format="f32", threads=2) as llm:
        assert llm.generate(tokens, sampling).tokens == expected
        assert [t for chunk in llm.stream(tokens, sampling) for t in chunk.tokens] == expected


def test_the_file_holds_every_parameter_once(case, path):
    """The writer's own test. Rows may have changed places: what RoPE turns lies otherwise in GGUF."""
    model = oracle(case)[0]
    reader = gguf.GGUFReader(path)
    written = {t.name: t.data for t in reader.tensors if t.name != "rope_freqs.weight"}
    parameters = [p.detach().numpy() for p in model.parameters()]

    def content(array):
        rows = array.reshape(len(array), -1)
        return rows.shape, rows[np.lexsort(rows.T)].tobytes()

    assert sorted(map(content, written.values())) == sorted(map(content, parameters))


@pytest.mark.parametrize("case", [case for case, (_, changes) in CASES.items() if changes.keys() & BEYOND_WEIGHTS])
def test_scaling_and_window_have_a_say(case):
    """What both sides ignored would agree too: without it, the same weights give other logits."""
    _, tokens, expected, _ = oracle(case)
    assert relative_error(logits_of(build(case, without=BEYOND_WEIGHTS), tokens), expected) > 100 * TOLERANCE
