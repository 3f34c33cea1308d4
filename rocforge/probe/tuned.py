"""Tuning databases: which tile is best for what, in files that people read and share. Knows no kernels, times nothing.

A file is for one target and a range of Triton versions (of a CPU: for its name, and none):

    {"target": "gfx1100", "triton": ["3.9", "3.10"], "entries": [
    {"kernel": "gemv_blocks", "format": "Q4_K", "shape": [4096, 4096], "tokens": 1, "tile": {...}, ...},

from the first version on, below the second; an entry a line, in the order of their keys.
"""

import json
import logging
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from rocforge.errors import RequestError, RocForgeError
from rocforge.probe.cache import user_cache_dir, write_whole

log = logging.getLogger(__name__)

MEASURED, PREDICTED = "measured", "predicted"
# How much faster than the default a tile must be to take its place: a timer's noise, and a model's.
LEAST_GAIN = {MEASURED: 1.01, PREDICTED: 1.10}

Tile = dict[str, int]


def words(tile: Tile) -> str:
    """A tile on one line: BN4 BU32 num_warps1."""
    return " ".join(f"{name}{size}" for name, size in tile.items())


class Unfit(RocForgeError):
    """A tile that cannot be launched: it does not compile, or needs more than there is."""


class Key(NamedTuple):
    """What a tile is chosen by. `format` is the weights' or the cache's, "" where there is none; `shape` is (N, K) of
    a product, (head size, heads a kv-head, kv-heads) of attention, (columns,) of what works on rows; `tokens` is a bucket.
    Of a model's step on a CPU `format` is the model's name, and `shape` the cores."""

    kernel: str
    format: str
    shape: tuple[int, ...]
    tokens: int

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kernel, self.format, "x".join(map(str, self.shape)), f"T{self.tokens}")))


@dataclass(frozen=True)
class Entry:
    """The best tile for a key. `sources` is the hash of the kernel that it was found for; times are of all
    launches of the kernel in one call of the op, in microseconds, the default tile's beside."""

    kernel: str
    format: str
    shape: tuple[int, ...]
    tokens: int
    tile: Tile
    default: Tile
    time_us: float
    default_us: float
    status: str
    sources: str
    device: str
    driver: str | None
    date: str

    @property
    def key(self) -> Key:
        return Key(self.kernel, self.format, self.shape, self.tokens)

    @property
    def gain(self) -> float:
        return self.default_us / self.time_us

    @property
    def is_better(self) -> bool:
        """Whether it takes the default's place."""
        return self.tile != self.default and self.gain >= LEAST_GAIN[self.status]


@dataclass(frozen=True)
class Database:
    """A file's contents. `triton` are the version from which, and that below which, it holds; None of a CPU."""

    target: str
    triton: tuple[str, str] | None
    entries: dict[Key, Entry]

    def holds_for(self, triton: str | None) -> bool:
        if self.triton is None or triton is None:
            return self.triton is None and triton is None
        first, below = map(_numbers, self.triton)
        return first <= _numbers(triton) < below


def _numbers(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"{version!r} is no version")
    return int(found[1]), int(found[2])


def empty(target: str, triton: str | None) -> Database:
    """A database without entries, for this minor version of Triton."""
    if triton is None:
        return Database(target, None, {})
    major, minor = _numbers(triton)
    return Database(target, (f"{major}.{minor}", f"{major}.{minor + 1}"), {})


def merged(old: Database, entries: Iterable[Entry]) -> Database:
    """`old` with these entries in place of those of the same keys."""
    return Database(old.target, old.triton, {**old.entries, **{e.key: e for e in entries}})


# ---- files


def user_dir() -> Path | None:
    """Where this user's databases are; None where nothing can be written."""
    root = user_cache_dir()
    return root / "tuning" if root else None


def user_path(target: str, triton: str | None) -> Path:
    """This user's database. Raises RequestError where nothing can be written."""
    directory = user_dir()
    if directory is None:
        raise RequestError("there is no directory to keep tiles in; set XDG_CACHE_HOME to one that can be written to")
    name = re.sub(r"[^A-Za-z0-9]+", "-", target).strip("-")
    return directory / (f"{name}-triton{'.'.join(map(str, _numbers(triton)))}.json" if triton else f"{name}.json")


def read(path: Path) -> Database:
    """A database. Raises RequestError, one line, for a file that is none."""
    try:
        found = json.loads(path.read_text())
        triton = found["triton"] and (str(found["triton"][0]), str(found["triton"][1]))
        if triton:
            _ = [_numbers(version) for version in triton]
        entries = [_entry(each, of_cpu=not triton) for each in found["entries"]]
        return Database(str(found["target"]), triton, {e.key: e for e in entries})
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise RequestError(f"{path}: this is no tuning database ({type(error).__name__}: {error})") from None


def _entry(raw: dict[str, Any], of_cpu: bool) -> Entry:
    if unknown := raw.keys() ^ {f.name for f in fields(Entry)}:
        raise ValueError(f"fields missing or unknown: {', '.join(sorted(unknown))}")
    kinds = {"kernel": str, "format": str, "status": str, "sources": str, "device": str, "date": str, "tile": dict, "default": dict}
    for name, kind in kinds.items():
        if not isinstance(raw[name], kind):
            raise ValueError(f"{name} is {raw[name]!r}")
    if not all(type(n) is int and n > 0 for n in (*raw["shape"], raw["tokens"])):
        raise ValueError(f"shape is {raw['shape']!r}, tokens are {raw['tokens']!r}")
    entry = Entry(**{**raw, "shape": tuple(raw["shape"])})
    if entry.status not in LEAST_GAIN:
        raise ValueError(f"status is {entry.status!r}")
    if not all(isinstance(n, (int, float)) and n > 0 for n in (entry.time_us, entry.default_us)):
        raise ValueError(f"{entry.key}: times must be above 0")
    for tile in (entry.tile, entry.default):
        if wrong := [f"{name} {size!r}" for name, size in tile.items() if not _is_size(name, size, of_cpu)]:
            raise ValueError(f"{entry.key}: {', '.join(wrong)} is no size of a tile")
    return entry


def _is_size(name: str, size: Any, of_cpu: bool) -> bool:
    """Powers of two, which become the lengths of Triton's ranges; counts may be any, and a CPU's sizes
    that are not 0, as only a setting may be that is on or off."""
    if type(size) is not int or size < 0:
        return False
    return size > 0 or name == HUGE_PAGES if of_cpu else name in ("num_stages", "programs") or not size & (size - 1)


# A setting of a model's step on a CPU: 1 or 0.
HUGE_PAGES = "huge_pages"


def read_or_none(path: Path) -> Database | None:
    """A database for looking up: None where there is no file; a broken one is named in a warning and left alone."""
    if not path.is_file():
        return None
    try:
        return read(path)
    except RequestError as error:
        log.warning("%s; default tiles are used, and the next `rocforge tune` sets it aside", error)
        return None


def read_to_change(path: Path, target: str, triton: str | None) -> Database:
    """The database at `path`, an empty one where there is none. A broken one is set aside, as PATH.broken, aloud."""
    if not path.is_file():
        return empty(target, triton)
    try:
        found = read(path)
    except RequestError as error:
        aside = path.with_suffix(".json.broken")
        try:
            os.replace(path, aside)
        except OSError as failed:
            raise RequestError(f"{error}; it cannot be set aside: {failed.strerror}") from None
        log.warning("%s; it is set aside as %s", error, aside.name)
        return empty(target, triton)
    if found.target != target:
        raise RequestError(f"{path} is for {found.target}, not for {target}")
    return found


def write(path: Path, database: Database) -> None:
    """Whole or not at all. Raises RequestError, and ValueError for an entry that could not be read again."""
    rows = [asdict(e) for _, e in sorted(database.entries.items())]
    for row in rows:
        _entry(row, of_cpu=not database.triton)
    lines = [json.dumps(row) for row in rows]
    head = f'{{"target": {json.dumps(database.target)}, "triton": {json.dumps(database.triton)}, "entries": ['
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = head + "".join(f"\n{line}{',' * (i < len(lines) - 1)}" for i, line in enumerate(lines)) + "\n]}\n"
        write_whole(path, text, 0o644)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror}") from None
