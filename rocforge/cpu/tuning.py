"""Which blocking a CPU kernel gets, and which settings a model's steps: what the user tuned here, or the default.

Launchers ask `tile` with their key and default (probe/book.py), so nothing but a step that is recorded on the CPU reads
a file. Imports no Numba; tunes nothing, times nothing.
"""

import functools
import logging
from pathlib import Path

from rocforge.probe import book, tuned
from rocforge.probe.book import USER, Book, Default
from rocforge.probe.cache import hash_of
from rocforge.probe.cpu import describe

log = logging.getLogger(__name__)


def tile(kernel: str, default: Default, format: str, shape: tuple[int, ...], tokens: int) -> Default:
    """The blocking for a launch of a kernel of this name, of the default's type; `tokens` are those of the step."""
    return book.ask(kernel, kernel, default, format, shape, tokens)


@functools.cache
def own_book() -> Book:
    """What this user's database says of this CPU. Read once a process; a broken file is told of."""
    path = tuned.user_path(describe().name, None) if tuned.user_dir() else None
    database = path and tuned.read_or_none(path)
    if not database:
        return Book()
    if database.target != describe().name:
        log.warning("%s is for %s and is ignored", path, database.target)
        return Book()
    return Book([(USER, path, database)], lambda kernel, format: sources())


@functools.cache
def sources() -> str:
    """The hash of this room: a compiled kernel, or an entry that was found for another, is stale."""
    return hash_of(sorted(Path(__file__).parent.glob("*.py")))
