"""Which tile a Triton kernel gets: the user's entry, the shipped one, that of a near relative, or the kernel's default.

Launchers ask `tile` with their key and default (probe/book.py), so nothing but a step that is recorded on a device
reads a file. Tunes nothing, times nothing.
"""

import functools
import hashlib
import inspect
import logging
from pathlib import Path
from types import FunctionType
from typing import Any

import triton
import triton.language as tl

from rocforge.gguf.formats import BY_NAME
from rocforge.kernels.decode import DECODE
from rocforge.kernels.dots import ways_of
from rocforge.kernels.target import AMD, Target
from rocforge.kernels.weights import LIFTED
from rocforge.probe import book, tuned
from rocforge.probe.book import FAMILY, SHIPPED, USER, Book, Default
from rocforge.probe.tuned import Database

log = logging.getLogger(__name__)

SHIPPED_DIR = Path(__file__).parent / "tuned"


def tile(kernel: Any, default: Default, format: str, shape: tuple[int, ...], tokens: int) -> Default:
    """The tile for a launch of `kernel`, of the default's type; `tokens` are those of the step."""
    return book.ask(kernel, kernel.__name__, default, format, shape, tokens)


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
    return book_of(found)


def book_of(layers: list[tuple[str, Path | None, Database]]) -> Book:
    """What these databases know of this room's kernels."""
    return Book(layers, source_hash)


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
    known = BY_NAME.get(format)
    for part in (*DECODE[known], *LIFTED[known], *ways_of(known)) if known in DECODE else ():
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
