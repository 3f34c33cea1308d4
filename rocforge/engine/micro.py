"""Each op by itself: how long it takes, beside the device's limits and what else could compute it. Prints nothing.

An op is launched again and again in one program, over copies of its weights and of its KV cache that
together are larger than any cache; the values that it reads and writes are the same each time, since in a
step the op before has just made them.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rocforge.engine import peers
from rocforge.engine.operands import ROTATED_BYTES, Operands, copies_for, sizes_for, streamed_bytes
from rocforge.engine.profile import limits, working_sets
from rocforge.plan import explain, roofline
from rocforge.plan.ir import Op, Plan, Value

# How long one repetition takes at least, so that waking the threads or starting a graph does not count, and
# how many launches of an op make it up at the most.
LEAST_S, MOST_LAUNCHES = 4e-3, 4096

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Case:
    """One op of a plan for a step of `tokens` tokens behind `depth`; `row` is explain's, and names it."""

    op: Op
    plan: Plan
    tokens: int
    depth: int
    row: dict[str, Any]

    @property
    def key(self) -> tuple:
        row = self.row
        return row["op"], row["format"], tuple(row["shape"]), row["tokens"], row["depth"]

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.row["shape"]))
        return f"{self.row['op']} {self.row['format']} {shape}, {self.row['tokens']} tokens"


def cases(plans: Sequence[Plan], kind: str, tokens: Sequence[int], depths: Sequence[int]) -> list[Case]:
    """Every op x format x shape of the plans once for each number of tokens; attention for each depth too.

    The format of an op without matrices is its KV cache's, else that of what it writes.
    """
    found: dict[tuple, Case] = {}
    for n in tokens:
        for depth in depths:
            sizes = sizes_for(n, depth)
            for plan in plans:
                for op, row in zip(plan.ops, explain.rows(plan, sizes, depth), strict=True):
                    caches = [v for v in op.reads if v in plan.states]
                    row |= {
                        "device": kind, "format": row["format"] or (caches or op.writes)[0].dtype,
                        "shape": [sizes[a] if isinstance(a, str) else a for a in row["shape"]],
                        "tokens": n if _takes_tokens(op) else 1, "depth": depth if op.kind == "attention" else 0,
                    }  # fmt: skip
                    case = Case(op, plan, n, depth, row)
                    found.setdefault(case.key, case)
    return list(found.values())


def _takes_tokens(op: Op) -> bool:
    """False for what works on rows whose logits are wanted."""
    return any("T" in v.shape for v in (*op.reads, *op.writes) if isinstance(v, Value))


def run(
    selected: Sequence[Case], backend: Any, launchers: dict[str, Callable], kind: str, threads: int, repetitions: int,
    with_peers: bool = True, progress: Progress | None = None,
) -> Iterator[dict[str, Any]]:
    """First the limits as {"roofline": ...}, then a result for each case as it is measured, then the limits once more.

    What is measured of limits at the end may be better: `hold_against` is then for the results before. A result names op, format, shape, tokens and depth, and has time_s (the median), times_s, bytes, flops,
    bytes_per_s, ops_per_s, bound_s, limit, of_bound, error, peer, peer_s; what is not known is None.
    """  # fmt: skip
    measure = lambda: limits(backend, kind, ROTATED_BYTES, max(working_sets([case.row])[1] for case in selected), progress)
    found = measure()
    yield {"roofline": found}
    for done, case in enumerate(selected):
        if progress:
            progress("timing ops", done, len(selected))
        times_s, error = time_case(case, backend, launchers, repetitions)
        time_s, row = statistics.median(times_s), case.row
        peer = peers.run(case, kind, threads, repetitions) if with_peers else None
        result = {
            **{name: row[name] for name in ("op", "format", "shape", "tokens", "depth", "device", "bytes", "memory_bytes", "flops")},
            "time_s": time_s, "times_s": times_s, "bytes_per_s": row["bytes"] / time_s, "ops_per_s": row["flops"] / time_s,
            "unit": roofline.unit(row), "error": error, "peer": peer and peer[0], "peer_s": peer and peer[1],
        }  # fmt: skip
        hold_against(found, [result])
        yield result
    yield {"roofline": found.better(measure())}


def hold_against(found: roofline.Roofline, results: Sequence[dict[str, Any]]) -> None:
    """Set each result's bound_s, limit and of_bound by these limits."""
    for result in results:
        bound_s, limit = roofline.bound(found, result)
        result.update(bound_s=bound_s, limit=limit, of_bound=bound_s / result["time_s"])


def time_case(case: Case, backend: Any, launchers: dict[str, Callable], repetitions: int) -> tuple[list[float], float | None]:
    """(seconds of a launch in each repetition, the error against float64)."""
    op, sizes = case.op, sizes_for(case.tokens, case.depth)
    copies = copies_for(streamed_bytes(op, case.plan, sizes), case.row["flops"])
    operands = Operands(op, case.plan, sizes, case.depth, backend, copies)

    def record(n: int) -> Any:
        with backend.record() as program:
            for i in range(n):
                launchers[op.kind](**operands.sets[i % copies], **op.attrs)
        backend.compile(program.kernels)
        return program

    once = record(1)
    backend.run(once)
    backend.synchronize()
    error = operands.error()
    n = copies
    program = record(n)
    for _ in range(3):  # a GPU's first two runs load and record; what they take is no measure
        duration_s = timed(backend, program)
    if duration_s < LEAST_S:
        n = min(MOST_LAUNCHES, copies * math.ceil(LEAST_S / duration_s))
        program = record(n)
        for _ in range(2):
            timed(backend, program)
    return [timed(backend, program) / n for _ in range(repetitions)], error


def timed(backend: Any, program: Any) -> float:
    """Seconds of one run, until the device is done with it."""
    start_s = time.perf_counter()
    backend.run(program)
    backend.synchronize()
    return time.perf_counter() - start_s
