"""Where tiles of the Triton kernels are tried: a GPU that is here, or a target that is not. Searches nothing.

Both are Ranges (engine/tune.py). Nothing here has run on an AMD card.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import triton

from rocforge.errors import DeviceError
from rocforge.kernels import assembly, cost, trials, tuning
from rocforge.kernels.candidates import candidates
from rocforge.kernels.assembly import Loop
from rocforge.kernels.cards import CARDS, card
from rocforge.kernels.cases import Case
from rocforge.kernels.inspect import Row, compile_for, compile_here, read
from rocforge.kernels.launch import Launch, Pool, Program, record
from rocforge.kernels.target import Target, current, use
from rocforge.probe import book, tuned
from rocforge.probe.gpu import AMD as AMD_VENDOR
from rocforge.probe.gpu import NVIDIA, driver_version
from rocforge.probe.tuned import Key, Tile, Unfit

# Seconds of one run of a Program.
Timer = Callable[[Program], float]
# A measurement is at least this long, so that the clock's steps and the start do not count.
LEAST_S = 3e-3


def device_seconds(program: Program) -> float:
    """By the device's own clock, over as many runs as fill LEAST_S."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    runs = 1
    while True:
        start.record()
        for _ in range(runs):
            program.run()
        end.record()
        end.synchronize()
        took_s = start.elapsed_time(end) / 1e3
        if took_s >= LEAST_S or runs >= 1024:
            return took_s / runs
        runs = min(1024, max(2 * runs, math.ceil(1.2 * LEAST_S / max(took_s, 1e-7) * runs)))


class _Kernels:
    """What both ranges share: candidates, sources, and the cost model's opinion by the machine code. `device` is the
    name of the one that is here; `card` what the model takes it to be, None where it knows none of the target."""

    def __init__(self, target: Target, choices: Iterable[book.Choice], device: str = ""):
        self.target, self.triton = target.arch, triton.__version__
        self._for, self.card = target, card(target.arch, device)
        self._choices = {choice.key: choice for choice in choices}
        self._codes: dict[tuple, "tuple[Row, Loop] | str"] = {}  # a str: why there is none
        self._meta: dict[Key, trials.Trial] = {}

    def sources(self, key: Key) -> str:
        return tuning.source_hash(self._choices[key].kernel, key.format)

    def candidates(self, key: Key) -> list[Tile]:
        return [book.as_dict(tile) for tile in candidates(key, self._choices[key].default, self._for)]

    def predict_us(self, key: Key, tile: Tile) -> float | None:
        """By the cost model. None where it knows no card, or the machine code cannot be read."""
        return self.model_us(key, tile) if self.card and assembly.is_readable(self._for.backend) else None

    def model_us(self, key: Key, tile: Tile) -> float:
        """What the cost model says of the card. Raises Unfit for what spills or does not fit."""
        total_s = 0.0
        for made in trials.launches_of(key, self._recorded(key, tile)):
            if made.kernel.__name__ == key.kernel:
                total_s += cost.seconds(key, made, *self._code(key, made), self._for, self.card)
            else:
                total_s += cost.JOIN_S
        if math.isinf(total_s):
            raise Unfit("its registers do not suffice, or the shared memory")
        return 1e6 * total_s

    def _recorded(self, key: Key, tile: Tile) -> Program:
        if key not in self._meta:
            self._meta = {key: trials.make(key, "meta")}
        with use(self._for), book.use(book.Tried(key, tile)), record() as program:
            self._meta[key].call(0)
        return program

    def _code(self, key: Key, made: Launch) -> tuple[Row, Loop]:
        """Shapes share it: of many launches few have machine code of their own."""
        if made.key not in self._codes:
            try:
                self._codes[made.key] = read(Case(key.kernel, key.format, made), self._compiled(made))
            except DeviceError as error:
                self._codes[made.key] = str(error)
        code = self._codes[made.key]
        if isinstance(code, str):
            raise Unfit(code)
        return code


class PredictedRange(_Kernels):
    """A target that need not be here: compiled, read, and judged by the cost model."""

    status, driver = tuned.PREDICTED, None

    def __init__(self, target: Target, choices: Iterable[book.Choice], device: str = ""):
        super().__init__(target, choices, device)
        if not self.card:
            raise DeviceError(f"--target {target.arch}: the cost model knows no card of it; it knows {' '.join(CARDS)}")
        self.device = f"the cost model's {self.card.name}"

    def _compiled(self, made: Launch) -> Any:
        return compile_for(made, self._for)

    def fault(self, key: Key, tile: Tile) -> str | None:
        return None  # nothing runs

    def time_us(self, key: Key, tile: Tile) -> float:
        return self.model_us(key, tile)


class DeviceRange(_Kernels):
    """The current GPU. `blocks` makes random rows of a format; `timer` is another only in tests."""

    status = tuned.MEASURED

    def __init__(
        self, choices: Iterable[book.Choice], name: str, blocks: trials.Blocks, timer: Timer = device_seconds,
        device: "str | torch.device" = "cuda",
    ):  # fmt: skip
        super().__init__(current(), choices, name)
        self.device, self._blocks, self._timer, self._where = name, blocks, timer, torch.device(device)
        self.driver = driver_version(AMD_VENDOR if self._for.backend == "hip" else NVIDIA)
        self._key: Key | None = None

    def _compiled(self, made: Launch) -> Any:
        return compile_here(made)

    def fault(self, key: Key, tile: Tile) -> str | None:
        self._turn_to(key)
        self._run(key, tile)
        outputs = zip(self._trial.outputs, self._expected, self._limits, strict=True)
        for out, expected, limit in outputs:
            off = (out.double() - expected.double()).abs()
            if not bool((off <= limit).all()):  # NaN is not
                return f"off by {float(off.max()):.3g}, where the order of summing up allows {_largest(limit):.3g}"
        return None

    def time_us(self, key: Key, tile: Tile) -> float:
        self._turn_to(key)
        words = tuple(tile.items())
        if words not in self._programs:
            self._programs[words] = self._recorded_here(key, tile)
        return 1e6 * self._timer(self._programs[words]) / self._trial.copies

    def _turn_to(self, key: Key) -> None:
        """Another key's arrays take the place of the last one's, and the default's results are computed."""
        if key == self._key:
            return
        self._key, self._trial, self._programs, self._pool = None, None, {}, Pool()
        self._expected = self._limits = None
        if self._where.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._trial = trials.make(key, self._where, self._blocks)
        except torch.OutOfMemoryError:
            raise Unfit("the GPU's memory is full; close what else uses it") from None
        self._run(key, book.as_dict(self._choices[key].default))
        self._expected = [out.clone() for out in self._trial.outputs]
        self._limits = self._trial.limit()
        self._key = key

    def _run(self, key: Key, tile: Tile) -> None:
        """The op, once; what is left unwritten is no number."""
        for out in self._trial.outputs:
            out.fill_(math.nan if out.is_floating_point() else 0)
        try:
            with book.use(book.Tried(key, tile)):
                self._trial.call(0)
            if self._where.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:  # what Triton and a driver raise has no common base
            raise Unfit(_first_line(error)) from error

    def _recorded_here(self, key: Key, tile: Tile) -> Program:
        """The kernel's launches, a copy after the other; what stands before them in the op has run once."""
        self._run(key, tile)
        try:
            with book.use(book.Tried(key, tile)), record(self._pool) as whole:
                for i in range(self._trial.copies):
                    self._trial.call(i)
            made = Program(self._pool)
            made.launches = trials.launches_of(key, whole)
            whole.run()  # fills the scratch that the launches read
            for _ in range(2):  # the second run makes the graph
                made.run()
        except Exception as error:
            raise Unfit(_first_line(error)) from error
        return made


def _largest(limit: Any) -> float:
    return float(limit.max()) if isinstance(limit, torch.Tensor) else float(limit)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
