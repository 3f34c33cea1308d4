"""Where a CPU's settings and its kernels' blocking are tried. Searches nothing.

CPURange is a Range, as kernels/ranges.py has them for GPUs. What it tunes are two parts with the same questions,
each for keys of its own: a model's steps under each setting, and kernels by themselves.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rocforge.cpu.backend import LAUNCHERS, Backend
from rocforge.cpu.candidates import candidates
from rocforge.cpu.threads import Team
from rocforge.cpu.tuning import sources
from rocforge.engine import tiles
from rocforge.engine.measure import Workload, once
from rocforge.engine.micro import timed
from rocforge.engine.operands import Operands, copies_for, sizes_for, streamed_bytes
from rocforge.engine.tune import Subject
from rocforge.engine.tuned_settings import Settings, step_key
from rocforge.errors import CapacityError
from rocforge.plan import explain
from rocforge.plan.ir import Op, Plan, Value
from rocforge.probe import book, cpu, tuned
from rocforge.probe.book import Choice, as_dict
from rocforge.probe.tuned import Key, Tile, Unfit

# A measurement of decoding.
TEXT = Workload(prompt=0, text=16)
# Numbers of threads that are tried.
MOST = 8


class CPURange:
    """This host's CPU."""

    status, triton, driver = tuned.MEASURED, None, None

    def __init__(self, parts: "Sequence[Steps | Kernels]"):
        self.target = self.device = cpu.describe().name
        self._parts, self._at_work = parts, parts[0]
        self.subjects = [subject for part in parts for subject in part.subjects]

    def sources(self, key: Key) -> str:
        return sources()

    def candidates(self, key: Key) -> list[Tile]:
        return self._part(key).candidates(key)

    def predict_us(self, key: Key, tile: Tile) -> float | None:
        return None

    def fault(self, key: Key, tile: Tile) -> str | None:
        return self._part(key).fault(key, tile)

    def time_us(self, key: Key, tile: Tile) -> float:
        return self._part(key).time_us(key, tile)

    def _part(self, key: Key) -> "Steps | Kernels":
        """The part whose key it is. The one before gives its memory back."""
        part = next(part for part in self._parts if any(key == subject.key for subject in part.subjects))
        if part is not self._at_work:
            self._at_work.close()
            self._at_work = part
        return part

    def close(self) -> None:
        self._at_work.close()


class Steps:
    """A token of text, under each setting. At most two models are open, and run by one team of threads after the other.

    `open_model(huge_pages)` gives what has a `runner`, a `config` and `close()`: an LLM.
    """

    def __init__(self, model: str, open_model: Callable[[bool], Any], with_huge_pages: bool):
        self.subjects = [Subject(step_key(model), "step")]
        self._open_model, self._choices = open_model, (0, 1) if with_huge_pages else (0,)
        self._models: dict[int, Any] = {}
        self._teams: dict[int, Team] = {}
        self._warm: set[Settings] = set()

    def candidates(self, key: Key) -> list[Tile]:
        host = cpu.describe()
        return [as_dict(Settings(n, huge)) for huge in self._choices for n in counts(host.cores, host.threads)]

    def fault(self, key: Key, tile: Tile) -> str | None:
        return None  # a step's bits depend neither on who computes it nor on where weights are: tests hold that

    def time_us(self, key: Key, tile: Tile) -> float:
        settings = Settings(**tile)
        model = self._model(settings.huge_pages)
        if settings.threads not in self._teams:
            self._teams[settings.threads] = Team(settings.threads)
        own, model.runner.backend.team = model.runner.backend.team, self._teams[settings.threads]
        run = lambda: once(model.runner, model.config.vocab_size, TEXT)
        try:
            if settings not in self._warm:
                run()
                self._warm.add(settings)
            return 1e6 / run()
        finally:
            model.runner.backend.team = own

    def _model(self, huge_pages: int) -> Any:
        if huge_pages not in self._models:
            try:
                self._models[huge_pages] = self._open_model(bool(huge_pages))
            except CapacityError as error:
                raise Unfit(str(error)) from None
        return self._models[huge_pages]

    def close(self) -> None:
        for each in (*self._models.values(), *self._teams.values()):
            each.close()
        self._models, self._teams, self._warm = {}, {}, set()


class Kernels:
    """Kernels over arrays of their own, on a thread a core. `found` is `engine.tiles.choices` of the plan's steps."""

    def __init__(self, plan: Plan, found: Iterable[tuple[Op, list[Choice]]]):
        found = list(found)
        self._plan, self._threads = plan, cpu.describe().cores
        self._ops = {choice.key: op for op, answers in found for choice in answers}
        subjects, choices = tiles.subjects(found)
        self._defaults = {choice.key: choice.default for choice in choices}
        # Without what comes to the same however it is blocked, as attention does for one token.
        self.subjects = [subject for subject in subjects if len(self.candidates(subject.key)) > 1]
        self._backend: Backend | None = None
        self._key: Key | None = None
        self._programs: dict[tuple, Any] = {}

    def candidates(self, key: Key) -> list[Tile]:
        return [as_dict(tile) for tile in candidates(key, self._defaults[key], self._threads)]

    def fault(self, key: Key, tile: Tile) -> str | None:
        """An element's bits do not depend on blocking: one that differs is wrong."""
        self._turn_to(key)
        out = self._run_once(key, tile)
        differ = out.view(np.uint32) != self._expected.view(np.uint32)
        return f"{differ.sum()} of {differ.size} results are not the default's to the last bit" if differ.any() else None

    def time_us(self, key: Key, tile: Tile) -> float:
        """Of one launch of the op, with what prepares its activations."""
        self._turn_to(key)
        words = tuple(tile.items())
        if words not in self._programs:
            self._programs[words] = self._recorded(key, tile, self._copies)
            self._backend.run(self._programs[words])
        return 1e6 * timed(self._backend, self._programs[words]) / self._copies

    def _turn_to(self, key: Key) -> None:
        """Another key's arrays take the place of the last one's, and the default's results are computed."""
        if key == self._key:
            return
        self._backend = self._backend or Backend(self._threads)
        self._key = self._operands = self._expected = None
        self._programs = {}
        self._op, sizes = _narrowed(self._ops[key], key), sizes_for(key.tokens, 0)
        plan = replace(self._plan, ops=(self._op,))
        (row,) = explain.rows(plan, sizes)
        self._copies = copies_for(streamed_bytes(self._op, plan, sizes), row["flops"])
        self._operands = Operands(self._op, plan, sizes, 0, self._backend, self._copies)
        self._expected = self._run_once(key, as_dict(self._defaults[key]))
        self._key = key

    def _run_once(self, key: Key, tile: Tile) -> np.ndarray:
        """The op's results; what is left unwritten is no number."""
        out = self._operands.sets[0]["out"]
        out.fill(np.nan)
        self._backend.run(self._recorded(key, tile, 1))
        return out.copy()

    def _recorded(self, key: Key, tile: Tile, n: int) -> Any:
        """The op, a copy after the other."""
        with book.use(book.Tried(key, tile)), self._backend.record() as program:
            for operands in self._operands.sets[:n]:
                LAUNCHERS[self._op.kind](**operands, **self._op.attrs)
        return program

    def close(self) -> None:
        self._key = self._operands = self._expected = None
        self._programs = {}
        if self._backend:
            self._backend.close()
            self._backend = None


def _narrowed(op: Op, key: Key) -> Op:
    """Of a product by several matrices, one that has the key's format and shape, and nothing added. Results are float32."""
    if op.kind != "linear":
        return op.with_operands(out=replace(op.operands["out"], dtype="f32"))
    matrix = next(w for w in op.operands["weights"] if (w.format.name, w.shape) == (key.format, key.shape))
    out = Value("out", (op.operands["x"].shape[0], matrix.shape[0]))
    return op.with_operands(weights=(matrix,), bias=None, residual=None, out=out)


def counts(cores: int, threads: int) -> list[int]:
    """Numbers of threads worth trying: one a core, the default; siblings too; then fewer and fewer, down to one."""
    if cores <= MOST:
        fewer = list(range(cores - 1, 0, -1))
    else:
        shares = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
        fewer = sorted({max(1, round(cores * share)) for share in shares}, reverse=True)
    return list(dict.fromkeys([cores, threads, *fewer]))
