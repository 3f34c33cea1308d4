"""Text to token ids and back, from a file's metadata alone. Knows no model and no chat.

Two schemes: SentencePiece's BPE (`tokenizer.ggml.model` = llama), which merges the pair of best
score, spaces being U+2581 and unknown characters bytes; and byte-level BPE (gpt2), which cuts text
into words and merges in each the pair that was learnt first.
"""

import codecs
import heapq
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from rocforge.errors import ModelError, RequestError
from rocforge.gguf.pretokenize import ADD_BOS, IGNORE_MERGES, PATTERNS, splitter

log = logging.getLogger(__name__)

# tokenizer.ggml.token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

# Texts of special tokens that end an answer, whatever the metadata says (as llama.cpp knows them).
END_TEXTS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>",
    "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>", "</s>", "<|end_of_text|>", "<end_of_utterance>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
}  # fmt: skip
SPACE = "\u2581"
# Words whose ids are remembered, and the characters of the longest: text repeats itself.
_CACHED_WORDS, _CACHED_CHARS = 1 << 16, 64
# Phi-3 takes white space after its special tokens for a part of them, but for these; no key says so.
_PHI3_NAMES, _PHI3_PLAIN = ("phi-3", "phi3"), {"<unk>", "<s>", "<|endoftext|>"}
_WHITE = " \t\n\v\f\r"


def _byte_alphabet() -> str:
    """The 256 printable characters that stand for bytes in byte-level BPE (GPT-2's bytes_to_unicode)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return "".join(chr(b if b in printable else next(others)) for b in range(256))


BYTE_CHARS = _byte_alphabet()
_TO_CHARS = dict(enumerate(BYTE_CHARS))
_TO_BYTES = {ord(c): b for b, c in enumerate(BYTE_CHARS)}


class Tokenizer:
    """The tokenizer of a model file. Made by `from_metadata`."""

    def __init__(self, tokens: list[str], types: Sequence[int], scheme: "_BPE | _SentencePiece", special: dict[str, Any]):
        self._tokens, self._types, self._scheme = tokens, types, scheme
        self.vocab_size = len(tokens)
        self.bos_id: int | None = special["bos"]
        self.eos_id: int | None = special["eos"]
        self.add_bos: bool = special["add_bos"] and self.bos_id is not None
        self.add_eos: bool = special["add_eos"] and self.eos_id is not None
        named = (special["eos"], special["eot"], special["eom"])
        self.end_ids = frozenset(i for i in (*named, *special["ends"]) if i is not None)
        self._takes_white: set[int] = special["takes_white"]

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], path: Any) -> "Tokenizer":
        """The tokenizer that the `tokenizer.ggml.*` keys describe.

        Raises ModelError, with the file and the key, for keys that are missing or contradict each
        other and for a scheme or a pre-tokenizer that is not known.
        """
        read = _Reader(metadata, path)
        model = read.value("model", str)
        if model not in _SCHEMES:
            read.fail("model", f"{model!r} is not supported; {', '.join(_SCHEMES)} are")
        tokens = read.value("tokens", list)
        if not tokens:
            read.fail("tokens", "the vocabulary is empty")
        types = read.numbers("token_type", len(tokens), NORMAL)
        scheme = _SCHEMES[model](read, tokens)
        defaults = scheme.defaults
        ids = ("bos", "eos", "eot", "eom")
        special = {name: read.token_id(f"{name}_token_id", len(tokens), defaults.get(name)) for name in ids}
        special |= {name: read.value(f"{name}_token", bool, defaults[name]) for name in ("add_bos", "add_eos")}
        special["ends"] = _find_ends(tokens, types)
        special["takes_white"] = _find_white_takers(tokens, types, str(metadata.get("general.name", "")))
        return cls(tokens, types, scheme, special)

    # ---- text to ids

    def encode(self, text: str, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of the text. User-defined tokens are found in it always, control tokens only with
        `parse_special`; `add_special` adds BOS and EOS where the model wants them."""
        ids = [self.bos_id] if add_special and self.add_bos else []
        after_special = True
        for part in self._split_special(text, parse_special):
            if isinstance(part, int):
                ids.append(part)
                after_special = True
                continue
            if ids and after_special and ids[-1] in self._takes_white:
                part = part.lstrip(_WHITE)
            if part:
                ids += self._scheme.encode(part, after_special)
                after_special = False
        if add_special and self.add_eos:
            ids.append(self.eos_id)
        return ids

    def _split_special(self, text: str, parse_special: bool) -> Iterable[str | int]:
        pattern, ids = self._special_all if parse_special else self._special_user
        if not ids:
            return [text]
        pieces = pattern.split(text)
        return [ids[piece] if i % 2 else piece for i, piece in enumerate(pieces)]

    @cached_property
    def _special_user(self) -> tuple[re.Pattern, dict[str, int]]:
        return self._matcher(self._of_type(USER_DEFINED))

    @cached_property
    def _special_all(self) -> tuple[re.Pattern, dict[str, int]]:
        return self._matcher([*self._of_type(USER_DEFINED), *self._of_type(CONTROL), *self._of_type(UNKNOWN)])

    def _matcher(self, ids: Iterable[int]) -> tuple[re.Pattern, dict[str, int]]:
        by_text = {self._tokens[i]: i for i in ids if self._tokens[i]}
        longest_first = sorted(by_text, key=len, reverse=True)
        return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")"), by_text

    def _of_type(self, kind: int) -> list[int]:
        return [i for i, t in enumerate(self._types) if t == kind]

    # ---- ids to text

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to the text; a control token's are its name's.

        Raises RequestError for an id outside of the vocabulary, as all that decodes does.
        """
        self._check(token)
        kind, text = self._types[token], self._tokens[token]
        return self._scheme.token_bytes(text, kind)

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the ids; bytes that are no UTF-8 become U+FFFD. `skip_special` leaves control tokens out."""
        stream = self.stream(skip_special=skip_special, continues=False)
        return "".join([stream.push(i) for i in ids]) + stream.finish()

    def stream(self, skip_special: bool = True, continues: bool = True) -> "TextDecoder":
        """A decoder for ids that come one by one. `continues`: they go on after a text, so a leading
        space is theirs; else it is the one that SentencePiece puts in front of all text, and is left out."""
        return TextDecoder(self, skip_special, strip_space=not continues and self._scheme.adds_space)

    def is_special(self, token: int) -> bool:
        """Whether the token is a control token or the unknown one: no part of the text."""
        self._check(token)
        return self._types[token] in (CONTROL, UNKNOWN)

    def _check(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise RequestError(f"token {token} is outside of the vocabulary of {self.vocab_size}")


class TextDecoder:
    """Ids to text, never half a character: incomplete bytes wait for the next token."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool, strip_space: bool):
        self._tokenizer, self._skip, self._strip = tokenizer, skip_special, strip_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is complete with this token."""
        if self._tokenizer.is_special(token):
            # Whatever was left open ends here: a control token is no part of a character.
            rest = self._utf8.decode(b"", final=True)
            self._utf8.reset()
            return rest if self._skip else rest + self._tokenizer._tokens[token]
        raw = self._tokenizer.token_bytes(token)
        if self._strip:
            raw, self._strip = raw.removeprefix(b" "), False
        return self._utf8.decode(raw)

    def finish(self) -> str:
        """What is left: U+FFFD for an incomplete character."""
        return self._utf8.decode(b"", final=True)


class _Reader:
    """Keys under tokenizer.ggml, checked."""

    def __init__(self, metadata: Mapping[str, Any], path: Any):
        self.metadata, self.path = metadata, path

    def fail(self, key: str, why: str):
        raise ModelError(f"{self.path}: metadata tokenizer.ggml.{key}: {why}")

    def value(self, key: str, kind: type, default: Any = None) -> Any:
        value = self.metadata.get(f"tokenizer.ggml.{key}", default)
        if value is None:
            self.fail(key, "is missing; the file has no tokenizer" if key == "model" else "is missing")
        if not isinstance(value, kind):
            self.fail(key, f"is of type {type(value).__name__}, wanted is {kind.__name__}")
        if kind is list and not all(isinstance(v, str) for v in value):
            self.fail(key, "is not a list of strings")
        return value

    def numbers(self, key: str, count: int, default: float) -> list:
        """A list of `count` numbers, `default` for all where the key is absent."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return [default] * count
        if not hasattr(value, "tolist") or len(value) != count:
            self.fail(key, f"has {len(value) if hasattr(value, '__len__') else 1} entries, the vocabulary {count}")
        return value.tolist()

    def token_id(self, key: str, count: int, default: int | None = None) -> int | None:
        """An id in a vocabulary of `count`, or None; where the key is absent, the default if it is one."""
        value = self.metadata.get(f"tokenizer.ggml.{key}")
        if value is None:
            return default if default is not None and default < count else None
        if value == 0xFFFFFFFF:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < count:
            self.fail(key, f"{value!r} is no id in a vocabulary of {count}")
        return value


def _find_ends(tokens: list[str], types: list[int]) -> list[int]:
    """Ids of the tokens in END_TEXTS. Some files (Yi's) call them user-defined: they become control tokens,
    which no plain text writes. A normal token of such a text is that text, as </s> is in Qwen2's vocabulary."""
    found = {tokens[i]: i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED) and tokens[i] in END_TEXTS}
    if {"<|return|>", "<|call|>"} <= found.keys():
        # The harmony format of gpt-oss: <|end|> ends a message, not the answer.
        found.pop("<|end|>", None)
    for i in found.values():
        types[i] = CONTROL
    return list(found.values())


def _find_white_takers(tokens: list[str], types: list[int], model_name: str) -> set[int]:
    if not any(name in model_name.lower() for name in _PHI3_NAMES):
        return set()
    special = (CONTROL, USER_DEFINED, UNKNOWN)
    return {i for i, kind in enumerate(types) if kind in special and tokens[i] not in _PHI3_PLAIN}


def _merge(symbols: list[str], rank: Callable[[str, str], Any]) -> list[str]:
    """Merge neighbours, lowest rank first, leftmost among equals, until no pair has a rank."""
    n = len(symbols)
    left, right = list(range(-1, n - 1)), [*range(1, n), -1]
    heap: list = []

    def offer(a: int, b: int) -> None:
        if a >= 0 and b >= 0:
            r = rank(symbols[a], symbols[b])
            if r is not None:
                heapq.heappush(heap, (r, a, b, symbols[a], symbols[b]))

    for i in range(n - 1):
        offer(i, i + 1)
    while heap:
        _, a, b, first, second = heapq.heappop(heap)
        # Either may have been merged into something else since.
        if symbols[a] != first or symbols[b] != second or right[a] != b:
            continue
        symbols[a], symbols[b] = first + second, ""
        right[a] = right[b]
        if right[b] >= 0:
            left[right[b]] = a
        offer(left[a], a)
        offer(a, right[a])
    return [s for s in symbols if s]


class _BPE:
    """Byte-level BPE."""

    adds_space = False

    def __init__(self, read: _Reader, tokens: list[str]):
        pre = read.value("pre", str, "default")
        if pre not in PATTERNS:
            read.fail("pre", f"the pre-tokenizer {pre!r} is not known; known are {', '.join(sorted(PATTERNS))}")
        if "tokenizer.ggml.pre" not in read.metadata:
            log.warning("%s names no pre-tokenizer (tokenizer.ggml.pre): the default may not be the model's own", read.path)
        merges = read.value("merges", list)
        self._pre = pre
        self._ids = dict(zip(tokens, range(len(tokens)), strict=True))
        self._ranks = dict(zip(reversed(merges), range(len(merges) - 1, -1, -1), strict=True))
        self._whole_words = pre in IGNORE_MERGES
        self._known: dict[str, list[int]] = {}
        self.defaults = {"add_bos": pre in ADD_BOS, "add_eos": False}

    @cached_property
    def _split(self) -> Callable[[str], list[str]]:
        return splitter(self._pre)

    def encode(self, text: str, after_special: bool) -> list[int]:
        ids: list[int] = []
        for word in self._split(text):
            known = self._known.get(word)
            if known is None:
                known = self._encode_word(word)
                if len(word) <= _CACHED_CHARS:
                    if len(self._known) >= _CACHED_WORDS:
                        self._known.clear()
                    self._known[word] = known
            ids += known
        return ids

    def _encode_word(self, word: str) -> list[int]:
        chars = word.encode("utf-8", "replace").decode("latin-1").translate(_TO_CHARS)
        if self._whole_words and chars in self._ids:
            return [self._ids[chars]]
        ranks, ids = self._ranks, []
        for symbol in _merge(list(chars), lambda a, b: ranks.get(f"{a} {b}")):
            token = self._ids.get(symbol)
            # A merge may name a token that the vocabulary lacks: its bytes, where they are tokens.
            ids += [token] if token is not None else [self._ids[c] for c in symbol if c in self._ids]
        return ids

    def token_bytes(self, text: str, kind: int) -> bytes:
        if kind in (CONTROL, USER_DEFINED, UNKNOWN):
            return text.encode()
        try:
            return bytes(_TO_BYTES[ord(c)] for c in text)
        except KeyError:
            return text.encode()


class _SentencePiece:
    """SentencePiece's BPE with byte fallback."""

    def __init__(self, read: _Reader, tokens: list[str]):
        self._scores = read.numbers("scores", len(tokens), 0.0)
        self._ids = dict(zip(tokens, range(len(tokens)), strict=True))
        self._bytes = [self._ids.get(f"<0x{b:02X}>") for b in range(256)]
        self._unknown = read.token_id("unknown_token_id", len(tokens), default=0)
        self.adds_space = read.value("add_space_prefix", bool, True)
        self.defaults = {"add_bos": True, "add_eos": False, "bos": 1, "eos": 2}

    def encode(self, text: str, after_special: bool) -> list[int]:
        if self.adds_space and after_special:
            text = " " + text
        ids: list[int] = []
        for symbol in _merge(list(text.replace(" ", SPACE)), self._rank):
            token = self._ids.get(symbol)
            ids += [token] if token is not None else self._fall_back(symbol)
        return ids

    def _rank(self, a: str, b: str) -> float | None:
        token = self._ids.get(a + b)
        return None if token is None else -self._scores[token]

    def _fall_back(self, symbol: str) -> list[int]:
        ids = [self._bytes[b] for b in symbol.encode("utf-8", "replace")]
        if None not in ids:
            return ids
        return [self._unknown] if self._unknown is not None else []

    def token_bytes(self, text: str, kind: int) -> bytes:
        if kind == BYTE and _BYTE_TOKEN.fullmatch(text):
            return bytes([int(text[3:5], 16)])
        return (text if kind in (CONTROL, USER_DEFINED, UNKNOWN) else text.replace(SPACE, " ")).encode()


_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_SCHEMES = {"llama": _SentencePiece, "gpt2": _BPE}
