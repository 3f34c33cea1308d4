"""A plan in words and numbers: what runs where, and what it costs. Prints nothing, measures nothing."""

from collections.abc import Iterable, Mapping
from typing import Any

from rocforge.plan.allocate import Memory
from rocforge.plan.ir import PAGE, Op, Plan, Value, Weight


def rows(plan: Plan, sizes: Mapping[str, int], depth: int = 0) -> list[dict[str, Any]]:
    """One row an op: layer, op, weights, format, shape, bytes moved, FLOPs, device.

    `sizes` are the symbols' values in the step asked about ({"T": 1, "R": 1, ...} is decode): T tokens
    of one sequence that has `depth` tokens in the cache. `shape` is N x K for a matrix product, else the
    shape of what is written. `bytes` are the weights, the part of the KV cache that is seen or filled, and
    the values read and written, each once. `memory_bytes` of them are weights and cache: what no
    earlier op has just made.
    """
    return [_row(op, plan, sizes, depth) for op in plan.ops]


def _row(op: Op, plan: Plan, sizes: Mapping[str, int], depth: int) -> dict[str, Any]:
    weights = op.weights
    values = [v for v in dict.fromkeys((*op.reads, *op.writes)) if v not in plan.states]
    matrices = [w for w in weights if len(w.shape) == 2]
    if op.kind == "embed":
        table = op.operands["table"]
        memory_bytes = sizes["T"] * table.format.row_bytes(table.shape[-1])
    else:
        memory_bytes = sum(w.n_bytes for w in weights) + _cache_bytes(op, plan, sizes["T"], depth)
    return {
        "layer": op.layer,
        "op": op.kind,
        "weights": [short(w) for w in weights],
        "format": "+".join(dict.fromkeys(w.format.name for w in matrices)) or None,
        "shape": _shape(op, matrices),
        "bytes": memory_bytes + (_gathered_bytes(op, sizes) if op.kind == "gather" else sum(v.n_bytes(sizes) for v in values)),
        "memory_bytes": memory_bytes,
        "flops": op.contract.flops(op, sizes) + _attention_flops(op, sizes["T"], depth),
        "device": op.device,
    }


def _gathered_bytes(op: Op, sizes: Mapping[str, int]) -> int:
    """Of x only the rows that are wanted are read."""
    return 2 * op.operands["out"].n_bytes(sizes) + op.operands["rows"].n_bytes(sizes)


def _cache_bytes(op: Op, plan: Plan, tokens: int, depth: int) -> int:
    """Bytes of the KV cache that the op reads, or writes: each of its rows once, for all tokens."""
    caches = [v for v in dict.fromkeys(op.reads) if v in plan.states]
    if not caches:
        return 0
    if op.kind == "attention":
        window = op.attrs["window"]
        n_rows = depth + tokens - (max(0, depth - window + 1) if window else 0)
    else:
        n_rows = tokens  # those that rope_store fills
    return n_rows * sum(_row_bytes(cache) for cache in caches)


def _row_bytes(cache: Value) -> int:
    """Bytes of one token in a cache [B, G, PAGE, D]."""
    return cache.n_bytes({"B": 1}) // PAGE


def _attention_flops(op: Op, tokens: int, depth: int) -> int:
    """Two products of a head's size for each key that each token sees; 0 for other ops."""
    if op.kind != "attention":
        return 0
    most = op.attrs["window"] or depth + tokens
    seen = sum(min(depth + t + 1, most) for t in range(tokens))
    return 4 * op.attrs["heads"] * op.attrs["head_dim"] * seen


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
