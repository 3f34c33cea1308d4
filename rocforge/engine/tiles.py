"""Which tile each launch of a plan gets, and where it comes from: recorded, on a GPU over arrays without memory. Runs nothing.

Of a GPU it needs torch and triton, and no GPU; never in a process in which Triton interprets.
"""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

from rocforge.engine.runner import Runner
from rocforge.engine.tune import Subject
from rocforge.gguf.reader import GGUFFile
from rocforge.plan.allocate import Memory
from rocforge.plan.ir import Op, Plan
from rocforge.probe.book import Book, bucket, use, watch

# Of ops that are launched together, those whose tile it is.
_LARGE = {"linear", "attention"}

# (backend, launchers, what gives the databases that hold there, what to record within)
_Room = tuple[Any, dict[str, Callable], Callable[[], Book], AbstractContextManager]


def choices(
    plan: Plan, memory: Memory, file: GGUFFile, tokens: int, rows: int = 1, target: Any = None,
    book: Book | None = None, kind: str = "gpu",
) -> list[tuple[Op, list]]:  # fmt: skip
    """For each op of a step of `tokens` tokens, what its launchers were answered (`probe.book.Choice`).

    `kind` is the device's; `target` is a `kernels.target.Target`, None for the GPU that is current; `book` None
    takes the databases that hold there. An op whose kernels have no tile has an empty list, and so has one that is launched
    along with a larger one.
    """
    backend, launchers, own_book, within = {"cpu": _cpu_room, "gpu": _gpu_room}[kind](target)
    found = []
    with closing(Runner(plan, memory, file, backend, launchers)) as runner:
        with within, use(book or own_book()), backend.record():
            steps = runner.launch_each(tokens, rows)
            while True:
                with watch() as answers:
                    together = next(steps, None)
                if together is None:
                    break
                first = max(together, key=lambda op: op.kind in _LARGE)
                found += [(op, answers if op is first else []) for op in together]
    return found


def _gpu_room(target: Any) -> _Room:
    from rocforge.kernels import target as targets
    from rocforge.kernels import tuning
    from rocforge.kernels.backend import LAUNCHERS, Backend

    at = target or targets.current()
    return Backend("meta"), LAUNCHERS, lambda: tuning.book_for(at), targets.use(at)


def _cpu_room(_target: None) -> _Room:
    from rocforge.cpu import tuning
    from rocforge.cpu.backend import LAUNCHERS, Backend

    return Backend(1), LAUNCHERS, tuning.own_book, nullcontext()


def rows(found: Iterable[tuple[Op, list]]) -> list[dict[str, Any]]:
    """`choices` as rows for a table or JSON: layer, op, kernel, format, shape, tokens, tile, origin."""
    return [
        {
            "layer": op.layer, "op": op.kind, "kernel": choice.key.kernel, "format": choice.key.format or None,
            "shape": list(choice.key.shape), "tokens": choice.key.tokens, "tile": choice.tile, "origin": choice.origin,
        }
        for op, answers in found
        for choice in {choice.key: choice for choice in answers}.values()
    ]  # fmt: skip


def predicted_us(found: Iterable[tuple[Op, list]], target: Any) -> dict[Any, float]:
    """Of each key of `choices`, what the cost model takes its launch to last, in microseconds; compiles each kernel.

    Raises DeviceError for a target of which the model knows no card.
    """
    from rocforge.kernels.ranges import PredictedRange

    answers = {choice.key: choice for _, choices in found for choice in choices}
    range_ = PredictedRange(target, answers.values())
    return {key: range_.model_us(key, choice.tile) for key, choice in answers.items()}


def subjects(found: Iterable[tuple[Op, list]]) -> tuple[list[Subject], list]:
    """(what to tune, one Choice for each): the keys of a step, those with the most to read or multiply first."""
    counts: dict[Any, int] = {}
    first: dict[Any, tuple[Op, Any]] = {}
    for op, answers in found:
        for choice in answers:
            counts[choice.key] = counts.get(choice.key, 0) + 1
            first.setdefault(choice.key, (op, choice))
    order = sorted(counts, key=lambda key: (-counts[key] * math.prod(key.shape), key))
    return [Subject(key, first[key][0].kind, counts[key]) for key in order], [first[key][1] for key in order]


def every(target: Any, tokens: Iterable[int]) -> tuple[list[Subject], list]:
    """As `subjects`, of all kernels, formats and kinds of cache, for steps that fall into these tokens' buckets."""
    from rocforge.kernels import target as targets
    from rocforge.kernels.cases import watched

    found = {choice.key: (op, choice) for op, choice in watched(target or targets.current())}
    buckets = {bucket(n) for n in tokens}
    kept = [(op, choice) for key, (op, choice) in sorted(found.items()) if key.tokens in buckets]
    return [Subject(choice.key, op) for op, choice in kept], [choice for _, choice in kept]


def random_blocks(format: Any, rows: int, columns: int) -> Any:
    """uint8 [rows, row bytes] of GGUF blocks, the same each time."""
    import numpy as np

    from rocforge.engine.selftest_cases import blocks

    return blocks(np.random.default_rng(0), format, rows, columns).data
