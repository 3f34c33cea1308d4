"""The built-in model: what was exported is what was trained, and it tells stories that end. Trains nothing."""

import re
import sys
from collections import Counter

import gguf
import numpy as np
import pytest
import tokenizers
import torch

from rocforge import LLM, Sampling
from rocforge.gguf.reader import open_gguf
from rocforge.llm import BUILTIN
from tests.paths import ROOT

# The tools are scripts, run from the command line: their folder is what they import from.
sys.path.insert(0, str(ROOT / "tools"))
import gguf_export
import stories
import story_model
import train_builtin

MAX_BYTES = 6_000_000
# Measured: 1.2196. Quantisation and 8-bit activations have room for 1 %.
MAX_PERPLEXITY = 1.232
HELD_OUT = [stories.story(s) for s in train_builtin.held_out_seeds(40)]


@pytest.fixture(scope="module")
def llm():
    with LLM() as llm:
        yield llm


@pytest.fixture(scope="module")
def weights():
    """float32 by name: the shipped file's tensors, dequantised by gguf-py."""
    return {
        t.name: gguf.quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1].tolist())
        for t in gguf.GGUFReader(BUILTIN).tensors
    }


def torch_logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].numpy()


def relative_error(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


# ---- the file


def test_size_and_formats(weights):
    assert BUILTIN.stat().st_size <= MAX_BYTES
    with open_gguf(BUILTIN) as file:
        formats = {t.format.name for t in file.tensors.values()}
        assert {"Q8_0", "Q4_K", "Q6_K"} <= formats
        assert all(t.shape[-1] % 256 == 0 for t in file.tensors.values())
        assert file.metadata["general.license"] == "apache-2.0"
    assert 2_000_000 <= sum(w.size for w in weights.values()) <= 6_000_000


def test_tokenizer_gives_the_ids_that_were_trained(llm):
    """Against the library that learnt the merges, rebuilt from the file's own lists."""
    with open_gguf(BUILTIN) as file:
        tokens, merges = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.merges"]
    vocab = {token: i for i, token in enumerate(tokens)}
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, [tuple(m.split(" ")) for m in merges]))
    oracle.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in [*HELD_OUT, "", "Zürich, 3 o'clock…\n\n  naïve 🐉!"]:
        assert llm.tokenize(text) == [0, *oracle.encode(text).ids]
        assert llm.detokenize(llm.tokenize(text)[1:]) == text


# ---- what it knows


def test_perplexity_on_held_out_stories(llm, capsys):
    total = count = 0
    for text in HELD_OUT:
        ids = [*llm.tokenize(text), 1]
        logits = llm.logits(ids[:-1]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total -= log_p[np.arange(len(ids) - 1), ids[1:]].sum()
        count += len(ids) - 1
    perplexity = np.exp(total / count)
    with capsys.disabled():
        print(f"\nbuilt-in model: perplexity {perplexity:.4f} on {count} tokens of {len(HELD_OUT)} held-out stories")
    assert perplexity < MAX_PERPLEXITY


def test_stories_hold_together_and_end(llm):
    """At temperature 0.7, each a tale of its own."""
    sampling = dict(temperature=0.7, top_k=0, top_p=1.0, min_p=0.0, max_tokens=400)
    told = [llm.generate("", Sampling(seed=seed, **sampling)) for seed in range(16)]
    ended = [c for c in told if c.finish_reason == "stop" and 150 <= len(c.tokens) <= 400]
    # 3,000 of the grammar's own stories had 181 to 386 tokens.
    assert len(ended) >= 15
    assert len({c.text for c in told}) == 16
    for c in ended:
        assert re.search(r'[.!?]"?$', c.text), c.text
        assert c.text.count('"') % 2 == 0, c.text
    # Whom a story is about, the name most often told, is there at its end. Of 160 tales one had lost sight of it:
    # two of 16 are then seen once in 200 changes of what is drawn.
    lost = [c.text for c in ended if main_name(c.text) not in c.text.split("\n\n")[-1]]
    assert len(lost) <= 1, lost


def main_name(text):
    return Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text)).most_common(1)[0][0]


# ---- export


def test_round_trip_in_float(tmp_path):
    """A random model, exported in F32: torch's logits and ours."""
    tokenizer = train_builtin.train_tokenizer(HELD_OUT, 512)
    torch.manual_seed(0)
    model = story_model.StoryModel(story_model.Config(tokenizer.get_vocab_size(), n_layers=2)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * (p.shape[-1] ** -0.5 if p.ndim == 2 else 0.3) + (p.ndim == 1))
    path = tmp_path / "float.gguf"
    train_builtin.export(model, tokenizer, path, quantized=False)
    with LLM(path, kv_format="f32") as llm:
        ids = llm.tokenize(HELD_OUT[0])
        error = relative_error(llm.logits(ids), torch_logits(model, ids))
    # float32 throughout; sums of up to 768 terms in another order: a few times 768**0.5 * 2**-24 a matrix.
    assert error < 1e-5


def test_shipped_file_against_torch(llm, weights):
    """The torch module with the file's own dequantised weights, and us with those blocks and 8-bit activations."""
    model = story_model.StoryModel(story_model.Config(llm.config.vocab_size)).eval()
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    errors = []
    for text in HELD_OUT[:4]:
        ids = llm.tokenize(text)
        errors.append(relative_error(llm.logits(ids), torch_logits(model, ids)))
    # Blocks of 32 normal values in int8 are off by 0.5 % (2.1 sigma / 127 / sqrt(12)). In 6 layers, 24 such
    # products and what attention and SiLU make of them come together in one residual stream: a few times that.
    assert max(errors) < 0.015, errors


# ---- quantisers


def plain_grid_rmse(x, group, reach, signed):
    """The error of rounding each group to evenly spaced steps that just cover it: step / sqrt(12)."""
    g = x.reshape(-1, group)
    span = np.abs(g).max(axis=1) if signed else np.maximum(g.max(axis=1), 0) - np.minimum(g.min(axis=1), 0)
    return np.sqrt(np.mean((span / reach) ** 2) / 12)


# group, steps from zero (or from the lowest value) to the end of the grid, symmetric?
GRIDS = {"Q8_0": (32, 127, True), "Q6_K": (16, 32, True), "Q4_K": (32, 15, False)}
VALUES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "uniform": lambda rng, n: rng.random(n),
    "negative": lambda rng, n: -rng.random(n) - 1,
    "heavy tails": lambda rng, n: rng.standard_t(3, n),
    "tiny": lambda rng, n: rng.standard_normal(n) * 1e-2,
}


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", GRIDS)
def test_quantizer_is_as_good_as_its_grid(name, values):
    """Read back by gguf-py. The search for scales must make up for scales that are themselves rounded."""
    x = VALUES[values](np.random.default_rng(1), 512 * 256).astype(np.float32)
    _, block, quantize = gguf_export.QUANTIZERS[name]
    data = quantize(x.reshape(-1, block))
    assert data.dtype == np.uint8 and data.shape[1] == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    back = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).reshape(-1)
    rmse = np.sqrt(np.mean((back - x) ** 2))
    assert rmse <= plain_grid_rmse(x, *GRIDS[name])


@pytest.mark.parametrize("name", GRIDS)
def test_quantizer_keeps_zeros(name):
    _, block, quantize = gguf_export.QUANTIZERS[name]
    data = quantize(np.zeros((2, block), np.float32))
    assert not gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name]).any()


# ---- the grammar


def test_stories_are_well_formed():
    texts = [stories.story(f"test:{i}") for i in range(1000)]
    assert len(set(texts)) == len(texts)
    assert texts[0] == stories.story("test:0")
    for text in texts:
        assert text.count('"') % 2 == 0, text
        assert text[-1] in '.!?"', text
        wrong = re.search(r"[{}<>|]|\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiouAEIO]| [.,]|  |\.\.|[.!?] [a-z]", text)
        assert not wrong, (wrong[0], text)
