"""An answer's life: how it ends, what is handed on, and what a failure leaves."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rocforge.engine
from rocforge.engine.request import Sampling, Timing
from rocforge.engine.text import TextStream
from rocforge.errors import RequestError
from rocforge.gguf.tokenizer import Tokenizer
from tests.engine.toy import END, finish_all, toy_engine


def pieces(request):
    found = []
    while (piece := request.take()) is not None:
        found.append(piece)
    return found


def answer(engine, prompt, **sampling):
    request = engine.add(prompt, Sampling(**sampling))
    finish_all(engine, [request])
    return request


# ---- endings


def test_max_tokens():
    request = answer(toy_engine(), [1, 2], max_tokens=7, seed=1)
    assert (request.n_generated, request.finish_reason) == (7, "length")


def test_a_full_context():
    engine = toy_engine(context=12)
    request = answer(engine, [1, 2], seed=1)
    # The last token is drawn from position 11 and needs no place of its own.
    assert (len(request.tokens), request.finish_reason) == (13, "length")


def test_a_sequence_that_no_more_pages_can_hold():
    engine = toy_engine(n_pages=3, page_size=4, context=64)
    requests = [engine.add([i], Sampling(temperature=0)) for i in (1, 2)]
    finish_all(engine, requests)
    assert [(len(r.tokens), r.finish_reason) for r in requests] == [(13, "length")] * 2


def test_the_end_token_is_in_neither_text_nor_tokens():
    engine = toy_engine(end_bias=100)
    request = answer(engine, [1], seed=1)
    assert (request.finish_reason, request.generated, request.completion().text) == ("stop", [], "")
    request = answer(engine, [1], seed=1, ignore_eos=True, max_tokens=3)
    assert (request.finish_reason, request.generated) == ("length", [END] * 3)


def test_a_stop_string_ends_the_text_before_it():
    whole = answer(toy_engine(), [3], temperature=0, max_tokens=20).completion().text
    for begin in range(1, 15):
        for length in (1, 2, 5):
            stop = whole[begin : begin + length]
            cut = answer(toy_engine(), [3], temperature=0, max_tokens=20, stop=(stop,)).completion()
            assert cut.text == whole[: whole.index(stop)]
            assert cut.finish_reason == "stop"


def test_text_that_was_held_back_is_given_when_max_tokens_are_reached():
    whole = answer(toy_engine(), [3], temperature=0, max_tokens=7).completion().text
    held = answer(toy_engine(), [3], temperature=0, max_tokens=7, stop=(whole[-2:] + "!",)).completion()
    assert (held.text, held.finish_reason) == (whole, "length")


def test_streamed_pieces_make_up_the_answer():
    request = answer(toy_engine(), [3], seed=5, max_tokens=20, stop=("zzz",))
    got = pieces(request)
    assert "".join(text for text, _, _ in got) == request.completion().text
    assert [t for _, tokens, _ in got for t in tokens] == request.generated
    assert [reason for _, _, reason in got] == [None] * (len(got) - 1) + ["length"]


# ---- text


class Letters:
    """Each token is given with its text."""

    def __init__(self, texts):
        self.texts = texts

    def push(self, token):
        return self.texts[token]

    def finish(self):
        return ""


@pytest.mark.parametrize("cuts", range(1 << 8))
def test_a_stop_string_is_found_however_it_is_cut(cuts):
    text = "abcSTOPde"
    parts, last = [], 0
    for i in range(1, len(text)):
        if cuts >> (i - 1) & 1:
            parts.append(text[last:i])
            last = i
    parts.append(text[last:])
    stream, out, stopped = TextStream(Letters(parts), ("STOP", "SToP")), "", False
    for token in range(len(parts)):
        piece, stopped = stream.push(token)
        out += piece
        assert out == "abc"[: len(out)]
        if stopped:
            break
    assert stopped and out == "abc"


def test_what_looked_like_a_stop_string_is_given_in_the_end():
    stream = TextStream(Letters(["ab<", "|e", "nd"]), ("<|end|>",))
    assert [stream.push(i) for i in range(3)] == [("ab", False), ("", False), ("", False)]
    assert stream.finish() == "<|end"


def test_the_earliest_of_several_stop_strings_counts():
    stream = TextStream(Letters(["one two three"]), ("three", "two"))
    assert stream.push(0) == ("one ", True)


def test_half_a_character_waits():
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [f"<0x{i:02X}>" for i in range(256)],
    }
    metadata["tokenizer.ggml.token_type"] = np.full(256, 6)
    stream = TextStream(Tokenizer.from_metadata(metadata, "made up").stream())
    assert [stream.push(b)[0] for b in "né€😀".encode()] == ["n", "", "é", "", "", "€", "", "", "", "😀"]


# ---- seeds


def test_the_same_seed_gives_the_same_text_in_any_company():
    alone = answer(toy_engine(), [7], seed=11, max_tokens=15)
    engine = toy_engine(n_pages=12, max_tokens=5)
    others = [engine.add([i] * 5, Sampling(seed=i, max_tokens=15)) for i in range(5)]
    again = engine.add([7], Sampling(seed=11, max_tokens=15))
    finish_all(engine, [*others, again])
    assert again.generated == alone.generated


def test_other_seeds_give_other_texts():
    texts = {tuple(answer(toy_engine(), [7], seed=s, max_tokens=15, min_p=0.0).generated) for s in range(10)}
    assert len(texts) == 10
    assert answer(toy_engine(), [7], max_tokens=15).generated != answer(toy_engine(), [7], max_tokens=15).generated


# ---- failures


def test_a_failed_step_ends_its_requests_and_frees_their_pages():
    engine = toy_engine()
    request = engine.add([1, 2, 3], Sampling(max_tokens=50, seed=1))
    engine.runner.fail_at = 4
    with pytest.raises(RuntimeError, match="the device is gone"):
        finish_all(engine, [request])
    assert request.finish_reason == "cancelled"
    assert engine.scheduler.pool.n_free == engine.scheduler.pool.n_pages
    assert answer(engine, [1, 2, 3], max_tokens=5, seed=1).n_generated == 5


def test_a_failed_step_leaves_those_that_wait():
    engine = toy_engine(max_sequences=1)
    first, waiting = (engine.add([i], Sampling(max_tokens=5, seed=1)) for i in (1, 2))
    engine.runner.fail_at = 2
    with pytest.raises(RuntimeError, match="the device is gone"):
        finish_all(engine, [first])
    finish_all(engine, [waiting])
    assert (first.finish_reason, waiting.finish_reason) == ("cancelled", "length")
    assert waiting.generated == answer(toy_engine(), [2], max_tokens=5, seed=1).generated


def interrupted(at: int) -> bool:
    """Ctrl-C before the at-th line that the engine's steps come to, and what it leaves; False if there is none.

    Few pages and slots, so that the lines of admission, preemption and of every ending are among them.
    """
    engine = toy_engine(n_pages=4, page_size=2, max_tokens=4, max_sequences=2, context=8)
    requests = [engine.add([i] * 3, Sampling(temperature=0, max_tokens=3)) for i in range(3)]
    lines, directory = itertools.count(1), str(Path(rocforge.engine.__file__).parent)

    def on_line(frame, event, _):
        if event == "line" and next(lines) == at:
            raise KeyboardInterrupt
        return on_line

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename.startswith(directory) else None)
    try:
        while engine.step():
            pass
        return False
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    while engine.step():
        pass
    assert all(r.finished and not r.pages and r.slot is None for r in requests)
    assert engine.scheduler.pool.n_free == 4
    survivors = [r for r in requests if r.finish_reason == "length"]
    again = [answer(engine, r.prompt_tokens, temperature=0, max_tokens=3) for r in requests]
    assert [r.generated for r in survivors] == [a.generated for a, r in zip(again, requests, strict=True) if r in survivors]
    return True


def test_an_interrupt_before_any_line_of_a_step():
    points = next(at for at in itertools.count(1) if not interrupted(at)) - 1
    assert points > 500


def test_a_request_cancelled_within_a_step_ends_with_it():
    """As when a stream that nobody holds is collected as garbage there."""
    engine = toy_engine()
    request, other = (engine.add([i], Sampling(max_tokens=5, seed=1)) for i in (1, 2))
    run = engine.runner.run

    def run_and_cancel(batch):
        engine.cancel(request)
        return run(batch)

    engine.runner.run = run_and_cancel
    finish_all(engine, [request, other])
    assert [reason for _, _, reason in pieces(request)] == [None, "cancelled"]
    assert other.generated == answer(toy_engine(), [2], max_tokens=5, seed=1).generated


def test_a_cancelled_request_keeps_what_it_has():
    engine = toy_engine()
    request = engine.add([1, 2, 3], Sampling(max_tokens=50, seed=1))
    for _ in range(6):
        engine.step()
    engine.cancel(request)
    engine.cancel(request)
    completion = request.completion()
    assert completion.finish_reason == "cancelled" and len(completion.tokens) == 6
    assert engine.step() is False


def test_timing(monkeypatch):
    """Arrival at 10 s, first scheduled at 13 s, two steps of 2 s for the prompt, four more tokens."""
    now = 10.0
    monkeypatch.setattr("rocforge.engine.request.time", SimpleNamespace(perf_counter=lambda: now))
    engine = toy_engine(max_tokens=8)
    run = engine.runner.run

    def run_two_seconds(batch):
        nonlocal now
        now += 2
        return run(batch)

    engine.runner.run = run_two_seconds
    request = engine.add([1] * 12, Sampling(max_tokens=5, seed=1))
    now = 13.0
    finish_all(engine, [request])
    assert request.completion().timing == Timing(prompt_s=4, first_token_s=7, generate_s=8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1), ("temperature", float("nan")), ("top_k", -1), ("top_k", 1.5), ("top_p", 1.1), ("min_p", -1),
        ("repetition_penalty", 0), ("max_tokens", 0), ("max_tokens", -5), ("seed", -1), ("penalty_window", -1),
        ("stop", ("",)), ("stop", None), ("stop", 5), ("temperature", "hot"), ("temperature", None), ("max_tokens", True),
        ("top_k", None), ("seed", 10**400), ("top_p", float("inf")),
    ],
)  # fmt: skip
def test_a_parameter_out_of_its_range_is_named(field, value):
    with pytest.raises(RequestError, match=f"^{field} is "):
        Sampling(**{field: value})


def test_numpy_numbers_are_numbers():
    sampling = Sampling(seed=np.int64(3), top_p=np.float32(0.5), max_tokens=np.int32(4), stop=["a"])
    assert sampling == Sampling(seed=3, top_p=0.5, max_tokens=4, stop=("a",))
    assert type(sampling.seed) is type(sampling.max_tokens) is int
