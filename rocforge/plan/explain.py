"""A plan in words and numbers: what runs where, and what it costs. Prints nothing, measures nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from rocforge.plan.allocate import Memory
from rocforge.plan.ir import Op, Plan, Weight


def rows(plan: Plan, sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """One row a launch: layer, op, weights, format, shape, bytes moved, FLOPs, device.

    `sizes` are the symbols' values in the step asked about ({"T": 1, "R": 1, ...} is decode).
    `shape` is N x K for a matrix product, else the shape of what is written. `bytes` are the
    weights read once and the values read and written; the KV cache that attention reads depends
    on the context and is not in it.
    """
    return [_row(op, plan, sizes) for op in plan.ops]


def _row(op: Op, plan: Plan, sizes: Mapping[str, int]) -> dict[str, Any]:
    weights = op.weights
    values = [v for v in dict.fromkeys((*op.reads, *op.writes)) if v not in plan.states]
    matrices = [w for w in weights if len(w.shape) == 2]
    moved = sum(v.n_bytes(sizes) for v in values)
    if op.kind == "embed":
        table = op.operands["table"]
        moved += sizes["T"] * table.format.row_bytes(table.shape[-1])
    else:
        moved += sum(w.n_bytes for w in weights)
    return {
        "layer": op.layer,
        "op": op.kind,
        "weights": [short(w) for w in weights],
        "format": "+".join(dict.fromkeys(w.format.name for w in matrices)) or None,
        "shape": _shape(op, matrices),
        "bytes": moved,
        "flops": op.contract.flops(op, sizes),
        "device": op.device,
    }


def short(weight: Weight) -> str:
    """A tensor's name without its block and `.weight`."""
    name = weight.name.removesuffix(".weight")
    return name.split(".", 2)[2] if name.startswith("blk.") else name


def _shape(op: Op, matrices: Iterable[Weight]) -> list[int | str]:
    matrices = list(matrices)
    if matrices:
        return [sum(m.shape[0] for m in matrices), matrices[0].shape[1]]
    written = op.writes[0]
    return list(written.shape)


def memory(memory: Memory) -> dict[str, int]:
    """The memory plan in bytes, largest duty first as it is shown."""
    return {
        "weights_bytes": memory.weights_bytes,
        "kv_bytes": memory.kv_bytes,
        "arena_bytes": memory.arena_bytes,
        "scratch_bytes": memory.scratch_bytes,
        "runtime_bytes": memory.runtime_bytes,
        "total_bytes": memory.total_bytes,
    }
