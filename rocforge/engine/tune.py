"""The search for the best tiles: which to try, when to stop, what to keep. Knows no device; a Range tries and times.

A Range is whatever tiles can be tried on: a GPU, or a target that is not here, by the cost model
(kernels/ranges.py), or the CPU (tune_cpu.py). Each result is written at once, so that a search may be stopped anywhere.
"""

import datetime
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rocforge.probe import tuned
from rocforge.probe.tuned import Entry, Key, Tile, Unfit, words

log = logging.getLogger(__name__)

# Times that every candidate is timed, turn about; the median counts.
ROUNDS = 5
# Candidates that the cost model takes to be this much slower than its best are not timed.
PRUNE = 2.0

COMPILING, TIMING = "compiling", "timing"


class Range(Protocol):
    """Where tiles are tried. `status` is tuned.MEASURED or PREDICTED; `triton` None for a CPU."""

    target: str
    triton: str | None
    device: str
    driver: str | None
    status: str

    def sources(self, key: Key) -> str:
        """The hash of what computes the key; an entry of another is stale."""

    def candidates(self, key: Key) -> list[Tile]:
        """What to try, the default first."""

    def predict_us(self, key: Key, tile: Tile) -> float | None:
        """What the cost model says; None where there is none. Raises Unfit."""

    def fault(self, key: Key, tile: Tile) -> str | None:
        """What is wrong with the tile's results beside the default's; None where they agree. Raises Unfit."""

    def time_us(self, key: Key, tile: Tile) -> float:
        """Once. Raises Unfit."""


@dataclass(frozen=True)
class Subject:
    """A key to tune, and how many launches of a step have it; `op` is the plan's."""

    key: Key
    op: str
    count: int = 1


@dataclass(frozen=True)
class Progress:
    """Where a search is: `doing` is COMPILING or TIMING, `best_us` and `default_us` are of the key in hand so far."""

    done: int
    total: int
    key: Key
    doing: str
    tried: int
    candidates: int
    best_us: float
    default_us: float
    left_s: float | None


@dataclass(frozen=True)
class Found:
    """A result. `is_known`: of an earlier search."""

    subject: Subject
    entry: Entry
    is_known: bool


class OutOfTime(Exception):
    """The budget ended within a key."""


def search(
    range_: Range,
    subjects: Sequence[Subject],
    path: Path,
    *,
    budget_s: float = math.inf,
    again: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Found]:
    """Tune one subject after the other into the database at `path`, and give each once it is written.

    What the database has already, for these sources, is given as it is unless `again`. It ends
    when the budget does: a subject that is not done by then is left as it was. Raises RequestError where
    the database cannot be written.
    """
    start_s = clock()
    database = tuned.read_to_change(path, range_.target, range_.triton)
    # Found out before the work rather than after it.
    tuned.write(path, database)
    worked, spent_s = 0, 0.0
    for done, subject in enumerate(subjects):
        key = subject.key
        held = database.entries.get(key)
        if held and not again and held.sources == range_.sources(key) and held.status == range_.status:
            yield Found(subject, held, True)
            continue
        left_s = budget_s - (clock() - start_s)
        if left_s <= 0:
            return
        began_s = clock()
        to_do = len(subjects) - done

        def tell(doing: str, tried: int, candidates: int, best_us: float, default_us: float) -> None:
            of_all_s = spent_s / worked * to_do if worked else math.inf
            guess_s = min(of_all_s, budget_s - (clock() - start_s))
            left = guess_s if math.isfinite(guess_s) else None
            report(Progress(done, len(subjects), key, doing, tried, candidates, best_us, default_us, left))

        try:
            entry = _best(range_, key, tell, lambda: clock() - start_s >= budget_s)
        except OutOfTime:
            return
        except Unfit as error:  # the default itself: nothing to compare with
            log.warning("%s is left out: %s", key, error)
            continue
        worked, spent_s = worked + 1, spent_s + clock() - began_s
        # Another process may have written meanwhile: its entries stay.
        database = tuned.merged(tuned.read_to_change(path, range_.target, range_.triton), [entry])
        tuned.write(path, database)
        yield Found(subject, entry, False)


def _best(range_: Range, key: Key, tell: Callable, is_over: Callable[[], bool]) -> Entry:
    """The entry for a key: the default, unless another is faster by what counts and computes the same."""
    tiles = range_.candidates(key)
    default = tiles[0]
    medians = medians_us(range_, key, tiles, _worth_timing(range_, key, tiles, tell, is_over), tell, is_over)
    best = min(medians, key=medians.get)
    if medians[0] / medians[best] < tuned.LEAST_GAIN[range_.status]:
        best = 0
    return Entry(
        *key, tile=tiles[best], default=default, time_us=round(medians[best], 3), default_us=round(medians[0], 3),
        status=range_.status, sources=range_.sources(key), device=range_.device, driver=range_.driver,
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )  # fmt: skip


def medians_us(
    range_: Range, key: Key, tiles: list[Tile], chosen: Iterable[int], tell: Callable, is_over: Callable[[], bool]
) -> dict[int, float]:
    """The times of the `chosen` tiles, by their indices, the default's 0 first; without those that compute something else or
    cannot be launched. Raises Unfit for the default, OutOfTime as soon as `is_over`."""
    rounds = 1 if range_.status == tuned.PREDICTED else ROUNDS
    times: dict[int, list[float]] = {}
    for tried, i in enumerate(chosen):
        if is_over():
            raise OutOfTime
        try:
            fault = range_.fault(key, tiles[i]) if i else None
            if fault:
                log.warning("%s: %s computes something else: %s", key, words(tiles[i]), fault)
                continue
            times[i] = [range_.time_us(key, tiles[i])]
        except Unfit as error:
            if i == 0:
                raise
            log.info("%s: %s: %s", key, words(tiles[i]), error)
            continue
        tell(TIMING, tried + 1, len(tiles), min(t[0] for t in times.values()), times[0][0])
    for _ in range(rounds - 1):
        for i, measured in times.items():
            if is_over():
                raise OutOfTime
            measured.append(range_.time_us(key, tiles[i]))
    return {i: statistics.median(measured) for i, measured in times.items()}


def _worth_timing(range_: Range, key: Key, tiles: list[Tile], tell: Callable, is_over: Callable[[], bool]) -> list[int]:
    """Indices of the tiles that the cost model leaves in the race, the default first. Raises Unfit for the default."""
    predicted: dict[int, float | None] = {}
    for i, tile in enumerate(tiles):
        if is_over():
            raise OutOfTime
        if (known := [us for us in predicted.values() if us is not None]) and predicted[0] is not None:
            tell(COMPILING, i + 1, len(tiles), min(known), predicted[0])
        try:
            predicted[i] = range_.predict_us(key, tile)
        except Unfit as error:
            if i == 0:
                raise
            log.info("%s: %s: %s", key, words(tile), error)
    known = [us for us in predicted.values() if us is not None]
    limit = PRUNE * min(known) if known else math.inf
    return [i for i, us in predicted.items() if i == 0 or us is None or us <= limit]
