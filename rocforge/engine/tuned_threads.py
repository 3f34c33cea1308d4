"""How many threads decode a model best here, as `rocforge tune --cpu` found it. Times nothing; every start asks."""

import functools
from pathlib import Path

from rocforge.probe import cpu, tuned
from rocforge.probe.cache import hash_of
from rocforge.probe.tuned import THREADS, Key


def best_threads(model: str) -> int | None:
    """How many threads decode this model (`ModelConfig.name`) best here, by the user's database; None where it has
    no entry that is better than all of them, or one of other sources or for more threads than may run now."""
    host = cpu.describe()
    if tuned.user_dir() is None or not (database := tuned.read_or_none(tuned.user_path(host.name, None))):
        return None
    entry = database.entries.get(Key(THREADS, model, (), 1))
    if entry is None or not entry.is_better or entry.sources != sources() or entry.default[THREADS] != host.cores:
        return None
    return entry.tile[THREADS]


@functools.cache
def sources() -> str:
    """The hash of the CPU's kernels: an entry made for others is stale."""
    return hash_of(sorted((Path(__file__).parents[1] / "cpu").glob("*.py")))
