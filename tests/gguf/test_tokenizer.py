"""Tokenizers: llama.cpp's own vectors, made-up vocabularies, text back from ids, streams."""

import logging
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rocforge.errors import ModelError, RequestError
from rocforge.gguf.pretokenize import PATTERNS, splitter
from rocforge.gguf.reader import open_gguf
from rocforge.gguf.tokenizer import BYTE, BYTE_CHARS, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Tokenizer
from tests.paths import SHARED, needs_shared

VOCABULARIES = sorted((SHARED / "data" / "vocab").glob("*.gguf"))
names = [p.stem.removeprefix("ggml-vocab-") for p in VOCABULARIES]
_loaded: dict = {}


def load(path) -> Tokenizer:
    if path not in _loaded:
        with open_gguf(path) as file:
            _loaded[path] = Tokenizer.from_metadata(file.metadata, path)
    return _loaded[path]


def vectors(path):
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text().split("\n")
    return [(text, [int(i) for i in line.split()]) for text, line in zip(texts, lines, strict=False)]


@needs_shared
@pytest.mark.parametrize("path", VOCABULARIES, ids=names)
def test_llama_cpp_vectors(path):
    tokenizer, cases = load(path), vectors(path)
    assert len(cases) > 40
    for text, ids in cases:
        assert tokenizer.encode(text, add_special=False) == ids, text


@needs_shared
@pytest.mark.parametrize("path", VOCABULARIES, ids=names)
def test_decoding_gives_back_the_text(path):
    tokenizer = load(path)
    for text, ids in vectors(path):
        assert tokenizer.decode(ids) == text


@needs_shared
@pytest.mark.parametrize("path", VOCABULARIES, ids=names)
def test_every_script_comes_back(path):
    """The first 768 code points and a sample of all others, one by one and together."""
    sample = [*range(0x300), *range(0x300, 0x110000, 599), 0x10FFFF]
    # Surrogates are no characters, and U+2581 is how SentencePiece writes a space: it comes back as one.
    points = [chr(c) for c in sample if not 0xD800 <= c < 0xE000 and c != 0x2581]
    tokenizer = load(path)
    if path.stem.endswith("starcoder"):
        # Its vocabulary was made without the byte 0xF1, and llama.cpp drops what has no token.
        known = set(tokenizer._tokens)
        points = [c for c in points if all(BYTE_CHARS[b] in known for b in c.encode())]
    for c in points:
        assert tokenizer.decode(tokenizer.encode(c, add_special=False)) == c
    text = "".join(points)
    assert len(points) > 500 and tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


@needs_shared
@pytest.mark.parametrize("path", VOCABULARIES, ids=names)
def test_streaming_is_decoding(path):
    tokenizer, rng = load(path), random.Random(1)
    cases = [ids for _, ids in vectors(path)]
    cases += [[rng.randrange(tokenizer.vocab_size) for _ in range(40)] for _ in range(60)]
    for ids in cases:
        stream = tokenizer.stream(skip_special=False, continues=False)
        pieces = [stream.push(i) for i in ids] + [stream.finish()]
        assert "".join(pieces) == tokenizer.decode(ids)
        for piece in pieces:
            piece.encode()  # no half characters


@needs_shared
@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        # DeepSeek's list of letters is its own: Armenian and Georgian small letters are none.
        ("deepseek-llm", "§ ბ", [65781, 13222, 226]),
        ("deepseek-llm", " \u00a0ա", [30683, 143, 94]),
        # Phi-3 takes white space after its special tokens for a part of them, but not after <s>.
        ("phi-3", "<|user|>\nHi<|end|>\n<|assistant|>\n", [32010, 6324, 32007, 32001]),
        ("phi-3", "<s>\n<|end|>", [1, 29871, 13, 32007]),
    ],
)
def test_what_no_vector_covers_is_as_llama_cpp_has_it(name, text, ids):
    tokenizer = load(SHARED / "data" / "vocab" / f"ggml-vocab-{name}.gguf")
    assert tokenizer.encode(text, add_special=False, parse_special=True) == ids


@needs_shared
def test_building_the_largest_vocabularies_is_quick():
    """128,256 tokens, 280,147 merges; CPU time, so that a busy machine does not fail it."""
    with open_gguf(SHARED / "data" / "vocab" / "ggml-vocab-llama-bpe.gguf") as file:
        _ = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.merges"]
        best = float("inf")
        for _ in range(3):
            start = time.process_time()
            Tokenizer.from_metadata(file.metadata, "vocabulary")
            best = min(best, time.process_time() - start)
    assert best < 0.35


@needs_shared
@pytest.mark.parametrize("name", ["llama-bpe", "llama-spm"])
def test_long_texts_take_no_square_time(name):
    tokenizer = load(SHARED / "data" / "vocab" / f"ggml-vocab-{name}.gguf")
    for text in ("The quick brown fox, 1234 times! naïve\n" * 2500, "ab" * 25_000, " " * 50_000):
        start = time.process_time()
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text
        # 100 KB take under half a second; what is of square time takes minutes.
        assert time.process_time() - start < 5


@needs_shared
def test_bos_as_the_metadata_says():
    folder = SHARED / "data" / "vocab"
    for name, bos in {"llama-bpe": 128000, "llama-spm": 1, "command-r": 5, "gpt-2": None, "qwen2": None}.items():
        ids = load(folder / f"ggml-vocab-{name}.gguf").encode("hi")
        assert (ids[0] == bos) if bos is not None else ids == load(folder / f"ggml-vocab-{name}.gguf").encode("hi", add_special=False)


@needs_shared
def test_control_tokens_only_where_they_are_asked_for():
    tokenizer = load(SHARED / "data" / "vocab" / "ggml-vocab-llama-bpe.gguf")
    text = "<|eot_id|>hi"
    assert 128009 not in tokenizer.encode(text)
    ids = tokenizer.encode(text, parse_special=True, add_special=False)
    assert ids[0] == 128009
    assert tokenizer.decode(ids) == text and tokenizer.decode(ids, skip_special=True) == "hi"
    assert {128001, 128009} <= tokenizer.end_ids


# ---- vocabularies made up here


def bpe(merges=("h e", "l l", "he ll", "hell o", "Ġ w"), extra=(), **keys):
    tokens = [*BYTE_CHARS, *(m.replace(" ", "") for m in merges), *(text for text, _ in extra)]
    types = [NORMAL] * (256 + len(merges)) + [kind for _, kind in extra]
    found = {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": list(merges), "token_type": np.array(types), **keys}
    return {f"tokenizer.ggml.{k}": v for k, v in found.items() if v is not None}


def spm(pieces=(("\u2581", -3.0), ("h", -4.0), ("i", -5.0), ("hi", -1.0), ("\u2581hi", -0.5)), **keys):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(t for t, _ in pieces)]
    scores = [0.0] * 259 + [s for _, s in pieces]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces)
    found = {
        "model": "llama", "tokens": tokens, "scores": np.array(scores, np.float32), "token_type": np.array(types),
        "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **keys,
    }  # fmt: skip
    return {f"tokenizer.ggml.{k}": v for k, v in found.items() if v is not None}


def made(metadata) -> Tokenizer:
    return Tokenizer.from_metadata(metadata, "made-up.gguf")


def test_merges_go_in_the_order_they_were_learnt():
    tokenizer = made(bpe())
    words = [tokenizer._tokens[i] for i in tokenizer.encode("hello world")]
    assert words == ["hello", "Ġw", "o", "r", "l", "d"]


def test_best_score_first_and_bytes_for_what_is_unknown():
    tokenizer = made(spm())
    assert [tokenizer._tokens[i] for i in tokenizer.encode("hi é")] == ["<s>", "▁hi", "▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("hi é"), skip_special=True) == "hi é"


def test_keys_that_may_be_absent():
    tokenizer = made(bpe(token_type=None, pre=None))
    assert tokenizer.bos_id is None and tokenizer.end_ids == frozenset()
    assert tokenizer.decode(tokenizer.encode("hello, 123 world")) == "hello, 123 world"
    assert made(spm(scores=None, unknown_token_id=None)).decode([259, 262]) == "hi"


def test_a_token_that_stands_twice_is_one_of_the_two():
    tokenizer = made(bpe(extra=[("hello", NORMAL)]))
    ids = tokenizer.encode("hello")
    assert len(ids) == 1 and tokenizer.decode(ids) == "hello"


def test_a_word_that_is_a_token_needs_no_merges_where_the_model_says_so():
    for pre, whole in {"llama-bpe": True, "tekken": True, "glm4": True, "dbrx": False, "qwen2": False}.items():
        tokenizer = made(bpe(pre=pre, extra=[("zebra", NORMAL)]))
        assert (tokenizer.encode("zebra", add_special=False) == [261]) is whole, pre


def test_a_merge_of_unknown_tokens_is_spelt_in_bytes():
    metadata = bpe()
    metadata["tokenizer.ggml.merges"] = [*metadata["tokenizer.ggml.merges"], "o r"]
    tokenizer = made(metadata)
    assert tokenizer.decode(tokenizer.encode("more")) == "more"


def test_user_defined_tokens_are_always_found_and_the_longest_counts():
    tokenizer = made(bpe(extra=[("<a>", USER_DEFINED), ("<a><b>", USER_DEFINED), ("<c>", CONTROL)]))
    a, ab, c = (tokenizer._tokens.index(t) for t in ("<a>", "<a><b>", "<c>"))
    ids = tokenizer.encode("x<a><b>y<a>z<c>")
    assert ab in ids and a in ids and c not in ids
    assert tokenizer.decode(ids) == "x<a><b>y<a>z<c>"


def test_the_ids_that_every_sentencepiece_file_means():
    tokenizer = made(spm(bos_token_id=None, eos_token_id=None, unknown_token_id=None))
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2) and tokenizer.encode("hi")[0] == 1
    one = {"tokens": ["a"], "scores": np.zeros(1), "token_type": np.array([NORMAL])}
    assert made(spm(**one, bos_token_id=None, eos_token_id=None)).bos_id is None


def test_what_ends_an_answer():
    kinds = [("<|im_end|>", USER_DEFINED), ("</s>", NORMAL), ("<|eot_id|>", CONTROL), ("<|end|>", CONTROL)]
    tokenizer = made(bpe(extra=kinds, eos_token_id=3, eot_token_id=4))
    assert tokenizer.end_ids == {3, 4, 261, 263, 264}
    # Called user-defined, yet no plain text ends an answer, and no answer shows it.
    assert tokenizer.encode("<|im_end|>") != [261] == tokenizer.encode("<|im_end|>", parse_special=True)
    assert tokenizer.decode([261], skip_special=True) == ""
    harmony = made(bpe(extra=[("<|end|>", CONTROL), ("<|return|>", CONTROL), ("<|call|>", CONTROL)]))
    assert harmony.end_ids == {262, 263}


def test_without_byte_tokens_a_character_is_one_unknown():
    plain = {"tokens": ["<unk>", "a"], "scores": np.zeros(2), "token_type": np.array([UNKNOWN, NORMAL])}
    tokenizer = made(spm(**plain, bos_token_id=None, eos_token_id=None, add_bos_token=False, add_space_prefix=False))
    assert tokenizer.encode("aéa") == [1, 0, 1]


def test_user_defined_tokens_are_written_as_they_are():
    metadata = spm(pieces=[("x\u2581y", -1.0)])
    metadata["tokenizer.ggml.token_type"][-1] = USER_DEFINED
    tokenizer = made(metadata)
    assert tokenizer.encode("x\u2581y", add_special=False) == [259] and tokenizer.decode([259]) == "x\u2581y"


@pytest.mark.parametrize("token", [-1, 261, 10**9])
def test_an_id_outside_of_the_vocabulary_is_refused(token):
    for use in (made(bpe()).token_bytes, made(bpe()).stream().push, lambda i: made(bpe()).decode([i])):
        with pytest.raises(RequestError, match=f"token {token} is outside of the vocabulary of 261"):
            use(token)


def test_no_pre_tokenizer_is_no_secret(caplog):
    with caplog.at_level(logging.WARNING):
        made(bpe(pre=None))
    assert "made-up.gguf names no pre-tokenizer" in caplog.text


def test_bos_and_eos_by_their_keys():
    keys = {"bos_token_id": 3, "eos_token_id": 4}
    assert made(bpe(**keys)).encode("h") == made(bpe()).encode("h")
    assert made(bpe(**keys, add_bos_token=True, add_eos_token=True)).encode("") == [3, 4]
    assert made(spm(add_bos_token=False, add_eos_token=True)).encode("") == [2]


def test_the_space_in_front_is_no_part_of_the_text():
    tokenizer = made(spm())
    assert tokenizer.decode(tokenizer.encode("hi", add_special=False)) == "hi"
    assert tokenizer.decode(tokenizer.encode(" hi", add_special=False)) == " hi"
    # What goes on after a prompt keeps its space.
    assert tokenizer.stream().push(tokenizer.encode("hi", add_special=False)[0]) == " hi"
    plain = made(spm(add_space_prefix=False))
    assert plain.decode(plain.encode("hi", add_special=False)) == "hi"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back(text):
    for tokenizer in _made_up():
        assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text.encode("utf-8", "replace").decode()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_ids_stream_as_they_decode(data):
    for tokenizer in _made_up():
        ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
        for skip in (False, True):
            stream = tokenizer.stream(skip_special=skip, continues=False)
            pieces = [stream.push(i) for i in ids] + [stream.finish()]
            assert "".join(pieces) == tokenizer.decode(ids, skip_special=skip)
        # Without control tokens the text is that of all the bytes at once.
        plain = [i for i in ids if not tokenizer.is_special(i)]
        raw = b"".join(map(tokenizer.token_bytes, plain))
        assert tokenizer.decode(plain) == (raw.removeprefix(b" ") if tokenizer._scheme.adds_space else raw).decode(errors="replace")


def _made_up():
    if "made up" not in _loaded:
        _loaded["made up"] = [made(bpe()), made(bpe(pre="llama-bpe")), made(spm())]
    return _loaded["made up"]


@pytest.mark.parametrize("pre", sorted(PATTERNS))
def test_every_cut_keeps_the_text(pre):
    text = "Hello, wörld! It's 12345 o'clock\r\n\n  東京 и\tمرحبا 😀👍🏽 ¿qué?\u3000«x» don't I'LL a.b/c_d  "
    assert "".join(splitter(pre)(text)) == text


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, "tokenizer.ggml.model: is missing; the file has no tokenizer"),
        (bpe(model="bert"), "tokenizer.ggml.model: 'bert' is not supported; llama, gpt2 are"),
        (bpe(pre="brand-new"), "tokenizer.ggml.pre: the pre-tokenizer 'brand-new' is not known; known are .*llama-bpe"),
        (bpe(merges=()) | {"tokenizer.ggml.merges": 5}, "tokenizer.ggml.merges: is of type int, wanted is list"),
        ({k: v for k, v in bpe().items() if "merges" not in k}, "tokenizer.ggml.merges: is missing"),
        (bpe(tokens=[]), "tokenizer.ggml.tokens: the vocabulary is empty"),
        (bpe(tokens=["a", 5]), "tokenizer.ggml.tokens: is not a list of strings"),
        (bpe(token_type=np.array([1, 2])), "tokenizer.ggml.token_type: has 2 entries, the vocabulary 261"),
        (spm(scores=np.zeros(3)), "tokenizer.ggml.scores: has 3 entries, the vocabulary 264"),
        (bpe(eos_token_id=261), "tokenizer.ggml.eos_token_id: 261 is no id in a vocabulary of 261"),
        (spm(bos_token_id=-1), "tokenizer.ggml.bos_token_id: -1 is no id"),
        (bpe(add_bos_token="yes"), "tokenizer.ggml.add_bos_token: is of type str, wanted is bool"),
    ],
)
def test_what_is_wrong_is_named(metadata, words):
    with pytest.raises(ModelError, match=f"^made-up.gguf: metadata {words}"):
        made(metadata)
