"""Which tile a launch gets: what the databases know, asked one after the other, or the kernel's default.

Launchers of both rooms ask here, by way of kernels/tuning.py and cpu/tuning.py, while a step is recorded; outside of
`use` the default is the answer. Knows no kernels, reads no files, tunes nothing.
"""

import contextlib
import contextvars
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rocforge.probe.tuned import Database, Key

log = logging.getLogger(__name__)

USER, SHIPPED, FAMILY, DEFAULT, TRIED = "user", "shipped", "family", "default", "tried"

# Tokens that share a tile, by the most of them; behind the last there is nothing left to tell apart.
BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 512)

Default = TypeVar("Default", bound=tuple)


class Choice(NamedTuple):
    """What a launcher was answered. `origin` is one of "user", "shipped", "family", "default", or "tried" while tuning.
    `kernel` is what the hash of its sources is asked by."""

    key: Key
    tile: dict[str, int]
    origin: str
    kernel: Any
    default: tuple  # the kernel's own NamedTuple


def bucket(tokens: int) -> int:
    return next((b for b in BUCKETS if tokens <= b), BUCKETS[-1])


class Book:
    """Databases in the order of asking; without any, no tile is known.

    `source_hash(kernel, format)` is of the sources that compute it now: what was found for others is stale.
    """

    def __init__(
        self, layers: Sequence[tuple[str, Path | None, Database]] = (), source_hash: Callable[[Any, str], str] | None = None
    ):
        self._layers, self._source_hash, self._told = layers, source_hash, set()

    def find(self, key: Key, kernel: Any, fields: tuple[str, ...]) -> tuple[dict[str, int], str] | None:
        """(tile, origin) of the first entry that is better than the default; None where there is none."""
        for origin, path, database in self._layers:
            entry = database.entries.get(key)
            if entry is None:
                continue
            if entry.sources != self._source_hash(kernel, key.format):
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


def ask(kernel: Any, name: str, default: Default, format: str, shape: tuple[int, ...], tokens: int) -> Default:
    """The tile for a launch of the `kernel` of this name, of the default's type; `tokens` are those of the step."""
    book, watching = _book.get(), _watching.get()
    if book is None and watching is None:
        return default
    key = Key(name, format, tuple(shape), bucket(tokens))
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
