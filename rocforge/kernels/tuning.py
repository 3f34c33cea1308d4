"""Which tile a launch gets: the user's entry, the shipped one, that of a near relative, or the kernel's default.

Launchers ask `tile` with their key and default. Outside of `use` the default is the answer, so
nothing but a step that is recorded on a device reads a file. Tunes nothing, times nothing.
"""

import contextlib
import contextvars
import functools
import hashlib
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple, TypeVar

import triton
import triton.language as tl

from rocforge.gguf.formats import BY_NAME
from rocforge.kernels.decode import DECODE
from rocforge.kernels.target import AMD, Target
from rocforge.probe import tuned
from rocforge.probe.tuned import Database, Key

log = logging.getLogger(__name__)

USER, SHIPPED, FAMILY, DEFAULT, TRIED = "user", "shipped", "family", "default", "tried"
SHIPPED_DIR = Path(__file__).parent / "tuned"

# Tokens that share a tile, by the most of them. 63: more are expanded (gemm.EXPAND_TOKENS); behind the last
# there is nothing left to tell apart.
BUCKETS = (1, 2, 4, 8, 16, 63, 512)

Default = TypeVar("Default", bound=tuple)


class Choice(NamedTuple):
    """What a launcher was answered. `origin` is one of "user", "shipped", "family", "default", or "tried" while tuning."""

    key: Key
    tile: dict[str, int]
    origin: str
    kernel: Any
    default: tuple  # the kernel's own NamedTuple


def bucket(tokens: int) -> int:
    return next((b for b in BUCKETS if tokens <= b), BUCKETS[-1])


class Book:
    """Databases in the order of asking."""

    def __init__(self, layers: list[tuple[str, Path | None, Database]]):
        self._layers, self._told = layers, set()

    def find(self, key: Key, kernel: Any, fields: tuple[str, ...]) -> tuple[dict[str, int], str] | None:
        """(tile, origin) of the first entry that is better than the default; None where there is none."""
        for origin, path, database in self._layers:
            entry = database.entries.get(key)
            if entry is None:
                continue
            if entry.sources != source_hash(kernel, key.format):
                self._tell(path, "was made for another version of the kernels' sources")
            elif set(entry.tile) != set(fields):
                self._tell(path, f"has a tile of {', '.join(entry.tile)} where the kernel's is of {', '.join(fields)}")
            else:
                return (dict(entry.tile), origin) if entry.is_better else None
        return None

    def _tell(self, path: Path | None, why: str) -> None:
        if path not in self._told:
            self._told.add(path)
            log.warning("%s %s, in part at least: what is stale is ignored; `rocforge tune` renews it", path, why)


class Tried(NamedTuple):
    """One tile for one key, and defaults for all others: what a candidate is launched with."""

    key: Key
    tile: dict[str, int]

    def find(self, key: Key, kernel: Any, fields: tuple[str, ...]) -> tuple[dict[str, int], str] | None:
        return (self.tile, TRIED) if key == self.key else None


_book: contextvars.ContextVar["Book | Tried | None"] = contextvars.ContextVar("book", default=None)
_watching: contextvars.ContextVar[list[Choice] | None] = contextvars.ContextVar("watching", default=None)


def tile(kernel: Any, default: Default, format: str, shape: tuple[int, ...], tokens: int) -> Default:
    """The tile for a launch of `kernel`, of the default's type; `tokens` are those of the step."""
    book, watching = _book.get(), _watching.get()
    if book is None and watching is None:
        return default
    key = Key(kernel.__name__, format, tuple(shape), bucket(tokens))
    found = book.find(key, kernel, default._fields) if book is not None else None
    if found:
        # JSON and sizes know ints only; a field that is a bool stays one.
        chosen = default._replace(**{k: type(getattr(default, k))(v) for k, v in found[0].items()})
    else:
        chosen = default
    if watching is not None:
        watching.append(Choice(key, as_dict(chosen), found[1] if found else DEFAULT, kernel, default))
    return chosen


def as_dict(tile: tuple) -> dict[str, int]:
    return {name: int(value) for name, value in tile._asdict().items()}


@contextlib.contextmanager
def use(book: "Book | Tried | None") -> Iterator[None]:
    """Within it, launchers' tiles are looked up in `book`; None: defaults."""
    token = _book.set(book)
    try:
        yield
    finally:
        _book.reset(token)


def current() -> "Book | Tried | None":
    return _book.get()


@contextlib.contextmanager
def watch() -> Iterator[list[Choice]]:
    """Within it, what launchers are answered is appended to the list that it gives."""
    token = _watching.set(found := [])
    try:
        yield found
    finally:
        _watching.reset(token)


# ---- which databases there are


@functools.cache
def book_for(target: Target) -> Book:
    """All that holds for a target and the installed Triton. Read once a process; broken files are told of."""
    layers = []
    if tuned.user_dir() is not None:
        layers += [(USER, tuned.user_path(target.arch, triton.__version__))]
    shipped = sorted(SHIPPED_DIR.glob("*.json"))
    layers += [(SHIPPED, p) for p in shipped if _arch_of(p) == target.arch]
    near = [arch for arch in relatives(target) if arch != target.arch]
    layers += [(FAMILY, p) for arch in near for p in shipped if _arch_of(p) == arch]
    found = []
    for origin, path in layers:
        database = tuned.read_or_none(path)
        if database and database.target != (target.arch if origin != FAMILY else _arch_of(path)):
            log.warning("%s is for %s and is ignored", path, database.target)
        elif database and database.holds_for(triton.__version__):
            found.append((origin, path, database))
    return Book(found)


def _arch_of(path: Path) -> str:
    return path.stem.partition("-")[0]


def relatives(target: Target) -> list[str]:
    """Targets of one generation: the same first letters, matrix instructions and shared memory, hence the same registers."""
    alike = lambda t: (t.arch[:5], t.backend, t.matrix, t.isa, t.lds_bytes)
    return [t.arch for t in AMD.values() if alike(t) == alike(target)]


# ---- sources


@functools.cache
def source_hash(kernel: Any, format: str) -> str:
    """16 hex digits of the kernel's source, of what it calls, and of what takes apart its format's blocks."""
    seen: dict[str, str] = {}
    _gather(kernel, seen)
    decoder = DECODE.get(BY_NAME.get(format)) if format in BY_NAME else None
    for part in decoder or ():
        if _function(part):
            _gather(part, seen)
        else:
            seen[f"{format} {len(seen)}"] = repr(part)
    text = "\0".join(f"{name}\0{source}" for name, source in sorted(seen.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _function(value: Any) -> FunctionType | None:
    """The Python function that Triton compiles or interprets."""
    inner = getattr(value, "fn", None)
    return inner if isinstance(inner, FunctionType) and inner.__module__.startswith("rocforge") else None


def _gather(kernel: Any, seen: dict[str, str]) -> None:
    function = _function(kernel)
    name = f"{function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen[name] = inspect.getsource(function)
    for used in function.__code__.co_names:
        value = function.__globals__.get(used)
        if isinstance(value, tl.constexpr):
            seen[f"{name}.{used}"] = repr(value.value)
        elif _function(value):
            _gather(value, seen)
