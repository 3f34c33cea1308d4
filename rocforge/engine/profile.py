"""Where a step's time goes: each op measured in its place, beside what the device's limits allow. Prints nothing.

Whole steps as they are always run, and passes that read the clock after each op, take turns, so that
both see the same machine. The limits are measured before and after, and the better counts.
"""

import importlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rocforge.engine.measure import Steps, Workload
from rocforge.engine.runner import Runner
from rocforge.plan import explain, roofline
from rocforge.plan.roofline import Roofline

# By kind of device: what measures its limits.
PEAKS = {"cpu": "rocforge.cpu.peaks", "gpu": "rocforge.kernels.peaks"}
WARM_UPS = 3
# No bandwidth is measured over more than this.
MOST_BYTES = 1 << 30

Progress = Callable[[str, int, int], None]


def limits(backend: Any, kind: str, memory_bytes: int, cache_bytes: int, progress: Progress | None = None) -> Roofline:
    """The device's limits, measured now: both peaks, bandwidth over `memory_bytes`, and over less, up to `cache_bytes`."""
    peaks = importlib.import_module(PEAKS[kind])
    memory_bytes, cache_bytes = (min(max(n, peaks.LEAST_BYTES), MOST_BYTES) for n in (memory_bytes, cache_bytes))
    sizes = [peaks.LEAST_BYTES]
    while sizes[-1] < cache_bytes:
        sizes.append(min(4 * sizes[-1], MOST_BYTES))
    total = 3 + len(sizes)

    def measured(done: int, measurement: Callable, *args: int) -> Any:
        if progress:
            progress("measuring the limits", done, total)
        return measurement(backend, *args)

    matrix, vector = measured(0, peaks.matrix_peak), measured(1, peaks.vector_peak)
    memory = measured(2, peaks.bandwidth, memory_bytes)
    caches = tuple((size, measured(3 + i, peaks.bandwidth, size)) for i, size in enumerate(sizes))
    return Roofline(memory, memory_bytes, caches, *matrix, *vector)


def working_sets(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """(bytes of weights and cache that a step reads, the most bytes of values that one op has)."""
    return sum(r["memory_bytes"] for r in rows), max(r["bytes"] - r["memory_bytes"] for r in rows)


def profile(
    runner: Runner, kind: str, vocab_size: int, tokens: int, depth: int, repetitions: int, progress: Progress | None = None
) -> dict[str, Any]:
    """A step of `tokens` tokens of one sequence behind `depth` in the cache, taken apart.

    -> {"ops": explain's rows, each with time_s and bound_s, "roofline", and what roofline.analyse gives}.
    The runner's memory must hold depth + tokens; `kind` is the device's.
    """
    rows = explain.rows(runner.plan, {**runner.memory.sizes, "T": tokens, "R": 1}, depth)
    measure = lambda: limits(runner.backend, kind, *working_sets(rows), progress)
    before = measure()
    steps = Steps(runner, vocab_size, Workload(tokens, 0, depth))
    steps.compute(depth)
    (batch,) = steps.batches(tokens)
    run_ops = None
    times_s, steps_s = [], []
    for i in range(WARM_UPS + repetitions):
        if progress:
            progress("profiling the step", i, WARM_UPS + repetitions)
        start_s = time.perf_counter()
        runner.run(batch)
        runner.synchronize()
        steps_s.append(time.perf_counter() - start_s)
        # After the first step, which leaves the inputs where the ops find them.
        run_ops = run_ops or runner.profile(tokens)
        times_s.append(run_ops())
    found = before.better(measure())
    times_s, steps_s = np.array(times_s[WARM_UPS:]), steps_s[WARM_UPS:]
    for row, time_s in zip(rows, np.median(times_s, axis=0).tolist(), strict=True):
        bound_s, limit = roofline.bound(found, row)
        row.update(time_s=time_s, bound_s=bound_s, limit=limit)
    return {
        "ops": rows, "roofline": found.as_dict(), "repetitions": repetitions,
        **roofline.analyse(rows, found, times_s.tolist(), steps_s),
    }  # fmt: skip
