"""Whole models on the GPU: the CPU's text, the plan's memory, the same bits each time. pytest -m gpu."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rocforge import LLM, Sampling
from tests.paths import ROOT, SHARED

pytestmark = pytest.mark.gpu

GREEDY = Sampling(temperature=0, max_tokens=256, ignore_eos=True)
PROMPT = "Once upon a time"
# A difference of logits below this is within what two orders of float32 sums may make of it.
NEAR = 1e-3


@pytest.fixture(scope="module", autouse=True)
def device():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that this torch can use")
    return torch


@pytest.fixture(scope="module")
def llm(device):
    with LLM(device="gpu", context=512) as llm:
        yield llm


def test_greedy_text_is_the_cpus(llm, figures):
    """256 tokens; or the first that differs was a near tie."""
    with LLM(device="cpu", context=512) as other:
        theirs = other.generate(PROMPT, GREEDY).tokens
        ours = llm.generate(PROMPT, GREEDY).tokens
        assert len(ours) == len(theirs) == 256
        first = next((i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]), None)
        if first is None:
            figures("built-in model, GPU and CPU", "256 greedy tokens are equal")
            return
        logits = other.logits(llm.tokenize(PROMPT) + theirs[:first])[-1]
    gap = float(logits[theirs[first]] - logits[ours[first]])
    figures("built-in model, GPU and CPU", f"greedy tokens differ from number {first} on, at a gap of {gap:.2e} in the logits")
    assert gap < NEAR


def test_a_run_repeats_itself_bit_for_bit(llm):
    tokens = llm.tokenize("The old woman went to the river, and there she saw a little boy. " * 12)[:200]
    first = llm.logits(tokens)
    for _ in range(5):
        np.testing.assert_array_equal(llm.logits(tokens), first)
    text = [llm.generate(PROMPT, Sampling(seed=3, max_tokens=60)).tokens for _ in range(3)]
    assert text[0] == text[1] == text[2]


def test_requests_in_one_batch_are_answered_as_alone(llm, figures):
    """Padded buckets, pages of several sequences: the texts are those of the requests by themselves.

    A prompt of many tokens is multiplied in float16, one of few in integers, so two logits that are near
    each other may change places: as near as the two ways of computing the same logits differ.
    """
    prompts = [PROMPT, "A", "The little dog", "One day, the king said", "In the forest there"]
    sampling = Sampling(temperature=0, max_tokens=40, ignore_eos=True)
    text = llm.tokenize("The old woman went to the river, and there she saw a little boy. " * 2)
    with LLM(device="gpu", context=512, chunk_tokens=1, sequences=1) as other:
        noise = np.abs(llm.logits(text) - other.logits(text)).max()
    assert noise > 0  # else there is nothing to allow for
    for prompt, completion in zip(prompts, llm.generate(prompts, sampling), strict=True):
        together, alone = completion.tokens, llm.generate(prompt, sampling).tokens
        first = next((i for i, pair in enumerate(zip(together, alone, strict=True)) if pair[0] != pair[1]), None)
        if first is None:
            continue
        logits = llm.logits(llm.tokenize(prompt) + alone[:first])[-1]
        gap = abs(float(logits[together[first]] - logits[alone[first]]))
        figures("built-in model, a batch of 5", f"differs from token {first} on, at a gap of {gap:.1e}; noise {noise:.1e}")
        assert gap <= 2 * noise, prompt


@pytest.mark.parametrize("kv_format", ["q8_0", "f32"])
def test_other_kv_formats(llm, kv_format):
    tokens = llm.tokenize("The old woman went to the river, and there she saw a little boy. ")
    expected = llm.logits(tokens)
    with LLM(device="gpu", context=512, kv_format=kv_format) as other:
        got = other.logits(tokens)
    # 8 bits of keys and values move logits by a percent of their spread at the most.
    assert np.linalg.norm(got - expected) <= 0.02 * np.linalg.norm(expected - expected.mean())


LIFE = """
import json, sys, time, torch
from rocforge import LLM, Sampling
start = time.perf_counter()
with LLM(sys.argv[1], device="gpu", context=4096) as llm:
    load_s = time.perf_counter() - start
    prompt = [i % 1000 + 5 for i in range(1024)]
    for _ in range(2):
        answer = llm.generate(prompt, Sampling(temperature=0, max_tokens=128, ignore_eos=True))
    peak, stated = torch.cuda.max_memory_allocated(), llm.memory.total_bytes
    device, weights, file = str(llm.device), llm.memory.weights_bytes, llm.path.stat().st_size
t = answer.timing
json.dump(dict(load_s=load_s, prompt_per_s=1024 / t.prompt_s, text_per_s=127 / t.generate_s, peak=peak, stated=stated,
               device=device, weights=weights, file=file), sys.stdout)
"""


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Path of a model with the shape of Llama 3 8B in Q4_K_M, random weights, and Llama 3's vocabulary where it is at hand."""
    tool = SHARED / "tools" / "synth_gguf.py"
    if not tool.is_file():
        pytest.skip(f"{tool} is absent: no model of real size to make")
    path = tmp_path_factory.mktemp("llama-8b") / "model.gguf"
    vocabulary = SHARED / "data" / "vocab" / "ggml-vocab-llama-bpe.gguf"
    vocabulary = ["--vocab", vocabulary] if vocabulary.is_file() else []
    subprocess.run([sys.executable, tool, "llama-3-8b", "Q4_K_M", path, *vocabulary], check=True)
    yield path
    path.unlink()


def test_8b_answers_within_the_stated_memory(big, figures):
    ran = subprocess.run([sys.executable, "-c", LIFE, big], cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stderr[-3000:]
    life = json.loads(ran.stdout)
    figures(
        "Llama 3 8B's shape, Q4_K_M",
        f"{life['device']}: loaded in {life['load_s']:.1f} s; prompt {life['prompt_per_s']:,.0f} tokens/s, "
        f"text {life['text_per_s']:.0f} tokens/s; peak {life['peak'] / 2**20:,.0f} MiB, stated {life['stated'] / 2**20:,.0f} MiB",
    )
    assert abs(life["peak"] - life["stated"]) <= 0.03 * life["stated"]
    assert life["weights"] <= 1.05 * life["file"]
