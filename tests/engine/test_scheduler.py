"""Which tokens go into a step: every one once, in order, within the budget, whoever else is there."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocforge.engine.request import Sampling
from rocforge.engine.scheduler import Scheduler
from rocforge.errors import CapacityError
from tests.engine.toy import END, finish_all, logits_of, toy_engine, toy_request

GREEDY = Sampling(temperature=0, max_tokens=10)
prompts = st.lists(st.lists(st.integers(0, END - 1), min_size=1, max_size=25), min_size=1, max_size=6)


def greedy_text(prompt: list[int], n: int) -> list[int]:
    """What a model run by hand answers."""
    history = list(prompt)
    for _ in range(n):
        history.append(int(np.argmax(logits_of(history, -10.0))))
    return history[len(prompt) :]


@settings(max_examples=80, deadline=None)
@given(prompts, st.integers(4, 40), st.integers(1, 4), st.integers(9, 40))
def test_an_answer_does_not_depend_on_company_chunks_or_pages(texts, max_tokens, max_sequences, n_pages):
    """Alone or with others, in chunks of any size, thrown out and started again: the same tokens."""
    engine = toy_engine(n_pages, 4, max_tokens, max_sequences, context=36)
    requests = [engine.add(p, GREEDY) for p in texts]
    finish_all(engine, requests)
    for prompt, request in zip(texts, requests, strict=True):
        assert request.generated == greedy_text(prompt, 10)
        assert request.finish_reason == "length"


@settings(max_examples=80, deadline=None)
@given(prompts, st.integers(4, 20), st.integers(8, 64))
def test_batches_hold_what_they_promise(texts, max_tokens, n_pages):
    scheduler = Scheduler(n_pages, page_size=4, max_tokens=max_tokens, max_sequences=4, context=32)
    requests = [toy_request(p) for p in texts]
    for r in requests:
        scheduler.add(r)
    seen = {id(r): [] for r in requests}
    for _ in range(500):
        batch = scheduler.schedule()
        if batch is None:
            break
        assert len(batch.tokens) == sum(n for _, n in batch.advanced) <= max_tokens
        at = 0
        # Everyone who has a slot goes on, in the order of arrival, and who decodes goes before any prompt.
        assert [r for r in requests if r.slot is not None] == [r for r, _ in batch.advanced]
        prompting = [r.computed < len(r.tokens) - 1 for r, _ in batch.advanced]
        begun = [p for p, (r, _) in zip(prompting, batch.advanced, strict=True) if r.computed]
        assert begun == sorted(begun) and sum(begun) <= 1
        for request, n in batch.advanced:
            assert n > 0
            if not request.computed:
                seen[id(request)].clear()  # new, or thrown out since
            part = slice(at, at + n)
            assert batch.sequences[part].tolist() == [request.slot] * n
            assert batch.positions[part].tolist() == list(range(request.computed, request.computed + n))
            assert batch.tokens[part].tolist() == request.tokens[request.computed : request.computed + n]
            seen[id(request)] += batch.positions[part].tolist()
            # What a row does not use is 0: nothing of who had it before.
            unused = batch.page_table.shape[1] - len(request.pages)
            assert batch.page_table[request.slot].tolist() == request.pages + [0] * unused
            at += n
            # A row where, and only where, the sequence is complete.
            assert ((at - 1) in batch.rows) == (request.computed + n == len(request.tokens))
        assert [batch.sequences[r] for r in batch.rows] == [r.slot for r in batch.requests]
        scheduler.commit(batch, [1] * len(batch.requests))
        for r in batch.requests:
            if r.n_generated == 5:
                scheduler.finish(r)
    assert not scheduler.has_work
    for r in requests:
        assert seen[id(r)] == list(range(len(r.prompt_tokens) + 4))


def test_decoding_goes_before_prompts():
    engine = toy_engine(max_tokens=8)
    first = engine.add([1, 2], GREEDY)
    engine.step()
    engine.add(list(range(20)), GREEDY)
    batch = engine.scheduler.schedule()
    assert [(r is first, n) for r, n in batch.advanced] == [(True, 1), (False, 7)]


def test_first_come_first_served():
    engine = toy_engine(n_pages=6, page_size=4, max_sequences=4, max_tokens=8, context=24)
    requests = [engine.add([i] * 8, GREEDY) for i in range(6)]
    ended = []
    while len(ended) < 6:
        assert engine.step()
        ended += [i for i, r in enumerate(requests) if r.finished and i not in ended]
    assert ended == sorted(ended)


def test_a_prompt_that_cannot_fit_is_refused_at_once():
    with pytest.raises(CapacityError, match="the prompt has 65 tokens, the context holds 64; .*--context"):
        toy_engine(context=64).add([1] * 65, GREEDY)
    with pytest.raises(CapacityError, match="of 40 tokens needs 10 KV pages, there are 9"):
        toy_engine(n_pages=9, page_size=4, context=64).add([1] * 40, GREEDY)


def test_a_prompt_without_tokens_is_our_fault():
    with pytest.raises(AssertionError, match="without tokens"):
        toy_engine().add([], GREEDY)


def test_borrowed_pages_come_back():
    scheduler = toy_engine(n_pages=4).scheduler
    with pytest.raises(ZeroDivisionError), scheduler.borrow_pages(3):
        assert scheduler.pool.n_free == 1
        with pytest.raises(CapacityError, match="needs 2 KV pages, 1 are free of 4"), scheduler.borrow_pages(2):
            pass
        raise ZeroDivisionError
    assert scheduler.pool.n_free == 4
