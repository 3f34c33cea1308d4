"""A request and what may be asked of it: sampling parameters, bookkeeping, the answer. Computes nothing."""

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from numbers import Real

from rocforge.engine.text import TextStream
from rocforge.errors import RequestError

_numbers = itertools.count()


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when to stop. The defaults are llama.cpp's.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `repetition_penalty` 1 and
    the others 0 are off; they look at the last `penalty_window` tokens, the prompt's included.
    `seed` None takes a new one each time. `max_tokens` None goes on until the context is full.
    `stop` strings end the text and are not part of it. `ignore_eos` goes on after an end token.

    Raises RequestError that names the field, the value and the range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_window: int = 64
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self):
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            kind, noun = (int, "whole number") if name in _WHOLE else (float, "number")
            # numpy's numbers are welcome; NaN is in no range.
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not low <= value <= high or kind(value) != value:
                raise RequestError(f"{name} is {value!r}; a {noun} from {low} to {high} is wanted")
            object.__setattr__(self, name, kind(value))
        stop = (self.stop,) if isinstance(self.stop, str) else self.stop
        if not isinstance(stop, (tuple, list)) or not all(isinstance(s, str) and s for s in stop):
            raise RequestError(f"stop is {self.stop!r}; non-empty strings are wanted")
        object.__setattr__(self, "stop", tuple(stop))

    @property
    def penalises(self) -> bool:
        penalties = (self.repetition_penalty, self.frequency_penalty, self.presence_penalty)
        return penalties != (1.0, 0.0, 0.0) and self.penalty_window > 0


_RANGES = (
    ("temperature", 0.0, 100.0),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0.0, 1.0),
    ("min_p", 0.0, 1.0),
    ("repetition_penalty", 0.01, 100.0),
    ("frequency_penalty", -100.0, 100.0),
    ("presence_penalty", -100.0, 100.0),
    ("penalty_window", 0, 2**31 - 1),
    ("seed", 0, 2**64 - 1),
    ("max_tokens", 1, 2**31 - 1),
)
_WHOLE = {"top_k", "penalty_window", "seed", "max_tokens"}
_OPTIONAL = {"seed", "max_tokens"}


@dataclass(frozen=True)
class Timing:
    """Seconds: `prompt_s` from the first scheduled step to the first token, `first_token_s` from the
    request's arrival to it, `generate_s` from it to the last token."""

    prompt_s: float
    first_token_s: float
    generate_s: float


@dataclass(frozen=True)
class Completion:
    """An answer. `tokens` are the ids generated, without the end token; `finish_reason` is stop (end
    token or stop string), length (max_tokens or a full context) or cancelled."""

    text: str
    tokens: list[int]
    finish_reason: str
    prompt_tokens: int
    timing: Timing


@dataclass(eq=False)
class Request:
    """A prompt on its way. The scheduler moves `computed`, `pages` and `slot`; the engine the rest.

    `tokens` are the prompt's and the generated ones; the KV of the first `computed` is cached.
    """

    prompt_tokens: list[int]
    sampling: Sampling
    text: TextStream
    seed: int
    id: int = field(default_factory=lambda: next(_numbers))
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    slot: int | None = None
    finish_reason: str | None = None

    def __post_init__(self):
        self.tokens = list(self.prompt_tokens)
        self._written: list[str] = []
        self._pieces: deque[tuple[str, list[int], str | None]] = deque()
        self._unwritten: list[int] = []
        self._arrived = time.perf_counter()
        self._scheduled = self._first = self._last = None

    @property
    def generated(self) -> list[int]:
        return self.tokens[len(self.prompt_tokens) :]

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - len(self.prompt_tokens)

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    def mark_scheduled(self) -> None:
        if self._scheduled is None:
            self._scheduled = time.perf_counter()

    def mark_token(self) -> None:
        self._last = time.perf_counter()
        if self._first is None:
            self._first = self._last

    def emit(self, text: str, token: int | None, finish_reason: str | None) -> None:
        """Hand on a token's text; tokens without text yet wait for the next piece."""
        if token is not None:
            self._unwritten.append(token)
        if text or finish_reason:
            self._written.append(text)
            self._pieces.append((text, self._unwritten, finish_reason))
            self._unwritten = []

    def take(self) -> "tuple[str, list[int], str | None] | None":
        """The next piece (text, tokens, finish_reason) that nobody has taken, or None."""
        return self._pieces.popleft() if self._pieces else None

    def completion(self) -> Completion:
        """The answer so far."""
        arrived, scheduled = self._arrived, self._scheduled or self._arrived
        first, last = self._first or scheduled, self._last or scheduled
        timing = Timing(first - scheduled, first - arrived, last - first)
        reason = self.finish_reason or "cancelled"
        return Completion("".join(self._written), self.generated, reason, len(self.prompt_tokens), timing)
