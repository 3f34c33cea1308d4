"""What a device's limits allow: the least time of an op, and where measured times lose most. Measures nothing.

The bound of an op is the longest of three, which can go on at once:

    memory    weights and KV cache / bandwidth over as many bytes as the step reads
    cache     values that ops hand to each other / bandwidth over as many bytes as the op has of them
    compute   operations / peak of the unit that the op's kernel multiplies with

Values get a bandwidth of their own: what the op before has just written is still in a cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any

from rocforge.gguf.formats import BY_NAME


@dataclass(frozen=True)
class Roofline:
    """Limits of a device, measured. The bandwidth of memory over `memory_working_set_bytes`; `caches` are
    (bytes, bytes a second) of smaller working sets. An operation is a multiplication or an addition, of
    floats or integers; `matrix_unit` and `vector_unit` say what the peaks are of."""

    memory_bytes_per_s: float
    memory_working_set_bytes: int
    caches: tuple[tuple[int, float], ...]
    matrix_ops_per_s: float
    matrix_unit: str
    vector_ops_per_s: float
    vector_unit: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def better(self, other: "Roofline") -> "Roofline":
        """The faster of two measurements of the same limits: what disturbs one makes it slower."""
        caches = tuple((size, max(rate, again)) for (size, rate), (_, again) in zip(self.caches, other.caches, strict=True))
        rates = ("memory_bytes_per_s", "matrix_ops_per_s", "vector_ops_per_s")
        return replace(self, caches=caches, **{name: max(getattr(self, name), getattr(other, name)) for name in rates})

    def cache_bytes_per_s(self, n_bytes: int) -> float:
        """The bandwidth over n_bytes: that of the next larger working set, or a larger one that was read faster."""
        rates = [rate for size, rate in self.caches if size >= n_bytes]
        return max(rates) if rates else self.caches[-1][1]

    def peak(self, unit: str) -> float:
        """Operations a second of "matrix" or "vector"."""
        return {"matrix": self.matrix_ops_per_s, "vector": self.vector_ops_per_s}[unit]


def unit(row: Mapping[str, Any]) -> str:
    """The peak that binds a row: "matrix" where its kernel multiplies matrices in the device's fastest
    precision, else "vector": float32 arithmetic.

    `row` is of explain.rows. The CPU multiplies block formats in 8 bits, floats and attention in float32; a GPU all three in its
    matrix instructions where there are many tokens.
    """
    if row["op"] == "linear":
        is_float = BY_NAME[row["format"].split("+")[0]].is_float
        return "vector" if row["device"] == "cpu" and is_float else "matrix"
    return "matrix" if row["op"] == "attention" and row["device"] != "cpu" else "vector"


def bound(roofline: Roofline, row: Mapping[str, Any]) -> tuple[float, str]:
    """(the least seconds that a row's op takes, which limit it is: memory, cache or compute)."""
    value_bytes = row["bytes"] - row["memory_bytes"]
    limits_s = {
        "memory": row["memory_bytes"] / roofline.memory_bytes_per_s,
        "cache": value_bytes / roofline.cache_bytes_per_s(value_bytes),
        "compute": row["flops"] / roofline.peak(unit(row)),
    }
    limit = max(limits_s, key=limits_s.get)
    return limits_s[limit], limit


def groups(rows: Sequence[Mapping[str, Any]]) -> dict[tuple, list[int]]:
    """(op, format, shape) -> the places of its rows, in order of first use."""
    found: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        found.setdefault((row["op"], row["format"], tuple(row["shape"])), []).append(i)
    return found


def analyse(
    rows: Sequence[Mapping[str, Any]], roofline: Roofline, times_s: Sequence[Sequence[float]], steps_s: Sequence[float]
) -> dict[str, Any]:
    """Measured beside allowed: a line for each op x format x shape, largest loss first, and the totals.

    `times_s` [repetitions][rows] are the ops' times in passes through the step, `steps_s` those of whole
    steps. Of both medians are taken, of a group that of its sums. `between_s` is what the step took beyond
    its ops, so that both together are the step. It is less than 0 where launches overlap in a step, or one
    launch does two ops: each is timed by itself.
    """
    lines = []
    for (op, format, shape), places in groups(rows).items():
        members = [rows[i] for i in places]
        bounds = [bound(roofline, row) for row in members]
        time_s, bound_s = median(sum(one[i] for i in places) for one in times_s), sum(b for b, _ in bounds)
        lines.append(
            {
                "op": op, "format": format, "shape": list(shape), "launches": len(places),
                "bytes": sum(m["bytes"] for m in members), "memory_bytes": sum(m["memory_bytes"] for m in members),
                "flops": sum(m["flops"] for m in members), "limit": max(bounds)[1], "time_s": time_s, "bound_s": bound_s,
                "loss_s": time_s - bound_s,
            }
        )  # fmt: skip
    lines.sort(key=lambda line: -line["loss_s"])
    ops_s, step_s = sum(line["time_s"] for line in lines), median(steps_s)
    return {
        "groups": lines,
        "ops_s": ops_s,
        "between_s": step_s - ops_s,
        "step_s": step_s,
        "bound_s": sum(line["bound_s"] for line in lines),
    }
