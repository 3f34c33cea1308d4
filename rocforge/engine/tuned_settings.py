"""The settings that decode a model best here, as `rocforge tune --cpu` found them. Times nothing; every start asks."""

from typing import NamedTuple

from rocforge.cpu.tuning import own_book
from rocforge.probe import cpu
from rocforge.probe.tuned import Key

# The "kernel" whose tile is the settings: the whole step of a model.
STEP = "step"


class Settings(NamedTuple):
    """Numbers, as tiles have them: `threads`, and 1 for weights in huge pages, 0 for the mapped file."""

    threads: int
    huge_pages: int


def step_key(model: str) -> Key:
    """A step of one token of this model (`ModelConfig.name`), on as many cores as may be used now."""
    return Key(STEP, model, (cpu.describe().cores,), 1)


def best_settings(model: str) -> Settings | None:
    """By the user's database; None where it knows none that are better than a thread a core and the mapped file."""
    found = own_book().find(step_key(model), STEP, Settings._fields)
    return Settings(**found[0]) if found else None
