"""From a file to text, on the built-in model and on the one that ROCFORGE_TEST_MODEL names."""

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocforge import LLM, Sampling
from rocforge.cpu.backend import LAUNCHERS, Backend
from rocforge.cpu.matmul import sums_bfloats
from rocforge.engine.runner import Runner
from rocforge.engine.scheduler import Batch
from rocforge.errors import CapacityError, RequestError
from rocforge.gguf.reader import open_gguf
from rocforge.plan.allocate import allocate
from rocforge.probe.cpu import resident_bytes
from tests.reference import dequantize

VARIABLE = "ROCFORGE_TEST_MODEL"
CONTEXT = 256
PROMPTS = ["Once upon a time", "A", "The old woman went to the river, and there she saw a little boy. " * 3]
GREEDY = Sampling(temperature=0, max_tokens=20, ignore_eos=True)
RANDOM = Sampling(temperature=1.0, seed=7, max_tokens=20, ignore_eos=True)


@pytest.fixture(scope="module", params=["built-in", VARIABLE])
def path(request):
    """What LLM takes: None for the built-in model."""
    if request.param == "built-in":
        return None
    named = os.environ.get(VARIABLE)
    if not named:
        pytest.skip(f"{VARIABLE} is unset; it names a GGUF file to run these tests on")
    if not Path(named).is_file():
        pytest.skip(f"{VARIABLE} names {named}, and there is no such file")
    return Path(named)


@pytest.fixture(scope="module")
def llm(path):
    with LLM(path, context=CONTEXT) as llm:
        yield llm


@pytest.fixture(scope="module")
def alone(llm):
    """The greedy tokens of each prompt, answered by itself."""
    return [llm.generate(prompt, GREEDY).tokens for prompt in PROMPTS]


def all_pages_are_free(llm):
    """Whether the whole context can be had at once."""
    try:
        llm.logits([0] * llm.context)
    except CapacityError:
        return False
    return True


# ---- the model


def test_load(llm):
    assert llm.device.kind == "cpu" and llm.device.reason
    assert llm.context == CONTEXT
    assert llm.config.vocab_size == llm.tokenizer.vocab_size
    assert llm.memory.weights_bytes == llm.path.stat().st_size
    assert {op.layer for op in llm.plan.ops} == {None, *range(llm.config.n_layers)}


def run_until(llm, value, tokens):
    """What the plan's ops leave in `value` after a step of `tokens`, all of them rows."""
    made = next(i for i, op in enumerate(llm.plan.ops) if value in op.writes)
    plan = replace(llm.plan, ops=llm.plan.ops[: made + 1], output=value)
    n = len(tokens)
    with open_gguf(llm.path) as file:
        memory = allocate(plan, tokens=n, rows=n, sequences=1, context=n, weights_bytes=file.n_bytes)
        runner = Runner(plan, memory, file, Backend(1), LAUNCHERS)
        try:
            every = np.arange(n, dtype=np.int32)
            pages = np.arange(memory.sizes["P"], dtype=np.int32)[None]
            found = runner.run(Batch(np.array(tokens, np.int32), every, np.zeros(n, np.int32), pages, every, n))
            return tuple(part.copy() for part in found) if value.dtype == "q8" else found.copy()
        finally:
            runner.close()


def rows_of(llm, weight, rows):
    """float32 [rows, K] of a tensor of the file, by gguf's own decoder."""
    with open_gguf(llm.path) as file:
        raw = file.data(weight.name)[rows].copy()
    return gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(weight.format.type_id))


def test_embedding_rows_are_those_of_the_table(llm):
    ids = np.unique(np.linspace(0, llm.config.vocab_size - 1, CONTEXT).astype(int))
    embed = llm.plan.ops[0]
    assert embed.kind == "embed"
    expected = rows_of(llm, embed.operands["table"], ids)
    # The same few float32 operations, perhaps in another order: some units in the last place of what was subtracted.
    np.testing.assert_allclose(
        run_until(llm, embed.operands["out"], ids), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )


def test_lm_head(llm):
    """The logits are the output matrix times the state that is given to it."""
    head = llm.plan.producer(llm.plan.output)
    (weight,), x = head.operands["weights"], head.operands["x"]
    tokens = llm.tokenize(PROMPTS[0])
    logits = llm.logits(tokens)
    state = run_until(llm, x, tokens)
    state = dequantize(*state[:2]) if x.dtype == "q8" else state.astype(np.float64)
    rows = np.unique(np.linspace(0, llm.config.vocab_size - 1, 1000).astype(int))
    expected = state @ rows_of(llm, weight, rows).astype(np.float64).T
    # The dot products of blocks are exact integers; what is left is float32 rounding of K/32 terms. A bfloat16 is
    # off by 2^-9 of itself.
    relative = 2.0**-7 if x.dtype == "q8" and sums_bfloats(len(tokens)) else 1e-5
    assert np.linalg.norm(logits[:, rows] - expected) <= relative * np.linalg.norm(expected)


# ---- text


def test_text_is_that_of_the_tokens(llm):
    for prompt in PROMPTS:
        answer, asked = llm.generate(prompt, GREEDY), llm.tokenize(prompt)
        assert len(answer.tokens) == GREEDY.max_tokens and answer.finish_reason == "length"
        assert answer.prompt_tokens == len(asked)
        before, whole = (llm.tokenizer.decode(t, skip_special=True) for t in (asked, asked + answer.tokens))
        assert whole == before + answer.text


def test_greedy_tokens_are_the_largest_logits(llm, alone):
    prompt = llm.tokenize(PROMPTS[0])
    logits = llm.logits(prompt + alone[0])
    assert logits[len(prompt) - 1 : -1].argmax(1).tolist() == alone[0]


@pytest.mark.parametrize("sampling", [GREEDY, RANDOM], ids=["greedy", "random"])
def test_streaming_equals_generate(llm, sampling):
    answer, chunks = llm.generate(PROMPTS[0], sampling), list(llm.stream(PROMPTS[0], sampling))
    assert "".join(c.text for c in chunks) == answer.text
    assert [t for c in chunks for t in c.tokens] == answer.tokens
    assert [c.finish_reason for c in chunks] == [None] * (len(chunks) - 1) + [answer.finish_reason]
    assert len(chunks) > 1


def test_stop_string(llm):
    text = llm.generate(PROMPTS[0], GREEDY).text
    stop = text[len(text) // 2 :][:3]
    answer = llm.generate(PROMPTS[0], replace(GREEDY, stop=("never to be found", stop)))
    assert answer.text == text[: text.index(stop)] and answer.finish_reason == "stop"
    assert len(answer.tokens) < GREEDY.max_tokens
    chunks = list(llm.stream(PROMPTS[0], replace(GREEDY, stop=(stop,))))
    assert "".join(c.text for c in chunks) == answer.text


def test_end_token_ends_the_answer(llm, alone):
    """The end token is no part of the answer. Any token will do for one: here it is the answer's sixth."""
    tokens = alone[0]
    end, kept = tokens[5], tokens.index(tokens[5])
    others = llm.tokenizer.end_ids
    llm.tokenizer.end_ids = frozenset({end})
    try:
        answer = llm.generate(PROMPTS[0], replace(GREEDY, ignore_eos=False))
        ignoring = llm.generate(PROMPTS[0], GREEDY)
    finally:
        llm.tokenizer.end_ids = others
    assert (answer.tokens, answer.finish_reason) == (tokens[:kept], "stop")
    assert ignoring.tokens == tokens


def test_a_seed_repeats_the_text(llm):
    first, again = (llm.generate(PROMPTS[0], RANDOM) for _ in range(2))
    assert first.tokens == again.tokens and first.text == again.text
    others = [llm.generate(PROMPTS[0], replace(RANDOM, seed=seed)).tokens for seed in range(3)]
    assert any(tokens != first.tokens for tokens in others)


@pytest.mark.skipif(sums_bfloats(10**6), reason="with AMX a token's last bits depend on how many are computed with it")
def test_a_seed_s_text_does_not_depend_on_company(llm):
    by_itself = [llm.generate(prompt, RANDOM).tokens for prompt in PROMPTS]
    assert [answer.tokens for answer in llm.generate(PROMPTS, RANDOM)] == by_itself


# ---- batches and chunks


def test_a_batch_of_mixed_lengths_gives_the_same_tokens(llm, alone):
    assert [answer.tokens for answer in llm.generate(PROMPTS, GREEDY)] == alone


@pytest.mark.parametrize("chunk_tokens", [1, 7, 32, 100])
def test_chunks_of_any_size_give_the_same_tokens(path, alone, chunk_tokens):
    with LLM(path, context=CONTEXT, sequences=1, chunk_tokens=chunk_tokens) as llm:
        assert [llm.generate(prompt, GREEDY).tokens for prompt in PROMPTS] == alone
    with LLM(path, context=CONTEXT, sequences=3, chunk_tokens=chunk_tokens) as llm:
        assert [answer.tokens for answer in llm.generate(PROMPTS, GREEDY)] == alone


def test_more_than_fits_at_once_gives_the_same_tokens(path, llm, alone):
    """Pages run out while the requests grow: some are set back, and begin again from what they have."""
    context = max(len(llm.tokenize(prompt)) for prompt in PROMPTS) + GREEDY.max_tokens
    with LLM(path, context=context) as small:
        assert [answer.tokens for answer in small.generate(PROMPTS * 3, GREEDY)] == alone * 3
        assert all_pages_are_free(small)


@pytest.mark.parametrize("settings", [dict(threads=1), dict(threads=3), dict(sequences=1, chunk_tokens=1)], ids=str)
def test_logits_are_the_same_to_the_last_bit(path, llm, settings):
    """On any number of threads and in chunks of any size: so the tokens are, however near two of them are."""
    tokens = llm.tokenize(PROMPTS[2])
    if "chunk_tokens" in settings and sums_bfloats(len(tokens)):
        pytest.skip("with AMX, many tokens at once have other bits than few: see cpu/matmul.py")
    with LLM(path, context=CONTEXT, **settings) as other:
        np.testing.assert_array_equal(other.logits(tokens), llm.logits(tokens))


# ---- bounds


def test_a_prompt_longer_than_the_context(llm):
    for ask in (llm.generate, llm.stream, llm.logits):
        with pytest.raises(CapacityError, match=f"{CONTEXT + 1} tokens.* {CONTEXT}"):
            ask([0] * (CONTEXT + 1))
    with pytest.raises(CapacityError, match=f"{CONTEXT + 1}"):
        llm.generate([PROMPTS[0], [0] * (CONTEXT + 1)], GREEDY)
    assert all_pages_are_free(llm), "the prompt that was in order was given up with the other"


def test_an_answer_ends_where_the_context_does(llm):
    answer = llm.generate(PROMPTS[0], replace(GREEDY, max_tokens=None))
    assert answer.finish_reason == "length"
    # The last token was computed from a full context, and none is computed from it.
    assert answer.prompt_tokens + len(answer.tokens) == CONTEXT + 1
    full = llm.generate([0] * CONTEXT, GREEDY)
    assert len(full.tokens) == 1 and full.finish_reason == "length"


def test_requests_that_make_no_sense(llm):
    for prompt, named in (([], "empty"), ([0, -1], "-1"), ([llm.config.vocab_size], str(llm.config.vocab_size))):
        for ask in (llm.generate, llm.stream, llm.logits):
            with pytest.raises(RequestError, match=named):
                ask(prompt)


# ---- release


def test_a_stream_that_is_closed_gives_its_pages_back(llm):
    stream = llm.stream(PROMPTS[0], replace(GREEDY, max_tokens=None))
    next(stream)
    assert not all_pages_are_free(llm)
    stream.close()
    assert all_pages_are_free(llm)
    assert [chunk.finish_reason for chunk in stream] == ["cancelled"]


def test_a_stream_that_nobody_began_or_holds_leaves_nothing_behind(llm, alone):
    endless = replace(GREEDY, max_tokens=None)
    llm.stream(PROMPTS[0], endless).close()
    llm.stream(PROMPTS[0], endless)
    begun = llm.stream(PROMPTS[0], endless)
    next(begun)
    del begun
    gc.collect()
    assert llm.generate(PROMPTS[0], GREEDY).tokens == alone[0]
    assert all_pages_are_free(llm)


def test_two_in_one_process(path, llm, alone):
    with LLM(path, context=CONTEXT) as other:
        pieces = zip(llm.stream(PROMPTS[0], GREEDY), other.stream(PROMPTS[0], GREEDY), strict=True)
        both = [(a.tokens, b.tokens) for a, b in pieces]
    assert [t for a, _ in both for t in a] == [t for _, b in both for t in b] == alone[0]
    assert llm.generate(PROMPTS[1], GREEDY).tokens == alone[1], "the other's end is its own"


def test_threads_of_the_caller_share_one(llm, alone):
    with ThreadPoolExecutor(len(PROMPTS)) as callers:
        answers = list(callers.map(lambda prompt: llm.generate(prompt, GREEDY), PROMPTS))
    assert [answer.tokens for answer in answers] == alone


def test_use_after_close(path):
    with LLM(path, context=CONTEXT) as llm:
        stream = llm.stream(PROMPTS[0], GREEDY)
        next(stream)
    llm.close()
    for ask in (llm.generate, llm.stream, llm.logits):
        with pytest.raises(RequestError, match="closed"):
            ask([0])
    assert list(stream)[-1].finish_reason == "cancelled", "what was running when the end came"
    stream.close()


def mappings(path):
    """How often the file is mapped into this process."""
    return Path("/proc/self/maps").read_text().count(str(path.resolve()))


def test_close_ends_threads_and_frees_memory(path, llm):
    """RSS after each of five lives. The bound is the buffers of one: were they kept, four would be there."""
    threads_before, mappings_before = threading.active_count(), mappings(llm.path)
    lives, resident = [], []
    for _ in range(5):
        with LLM(path, threads=3) as life:
            assert threading.active_count() == threads_before + 2
            assert mappings(llm.path) == mappings_before + 1
            life.generate(PROMPTS, GREEDY)
            buffers_bytes = life.memory.arena_bytes + life.memory.kv_bytes
            lives.append(weakref.ref(life))
        assert threading.active_count() == threads_before
        assert mappings(llm.path) == mappings_before
        del life
        gc.collect()
        resident.append(resident_bytes())
    assert not any(life() for life in lives)
    assert resident[-1] - resident[0] < buffers_bytes, [f"{r / 2**20:.1f} MiB" for r in resident]
