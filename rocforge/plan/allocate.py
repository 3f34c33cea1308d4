"""Where each value lives: lifetimes packed into one arena, the KV cache into pages. Allocates nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rocforge.errors import CapacityError
from rocforge.plan.ir import PAGE, Columns, Plan, Value

# A cache line, and the widest vector register: no value shares one with another.
ALIGN = 64


@dataclass(frozen=True)
class Memory:
    """What a run needs, in bytes, and where each value starts in the arena.

    `sizes` gives the symbols of ir.py their largest values; the first `inputs_bytes` of the arena are
    the plan's inputs, which the host writes; `scratch_bytes` is what kernels take beside their operands;
    `runtime_bytes` is what the process held before the model was opened (Python, Numba and their
    code), 0 where the model's memory is a GPU's own.
    """

    sizes: Mapping[str, int]
    offsets: Mapping[str, int]
    inputs_bytes: int
    arena_bytes: int
    weights_bytes: int
    kv_bytes: int
    runtime_bytes: int = 0
    scratch_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return self.arena_bytes + self.weights_bytes + self.kv_bytes + self.scratch_bytes + self.runtime_bytes


def allocate(
    plan: Plan,
    *,
    tokens: int,
    rows: int,
    sequences: int,
    context: int,
    weights_bytes: int,
    runtime_bytes: int = 0,
    scratch_bytes: int = 0,
    available_bytes: int | None = None,
    weights_are_mapped: bool = True,
) -> Memory:
    """The Memory of a plan for steps of at most `tokens` tokens and `rows` rows of logits.

    The KV cache holds `context` tokens: those of one sequence, or of up to `sequences` together.

    Raises CapacityError when KV cache and arena do not fit into `available_bytes`, together with the
    weights unless these are mapped (a mapped file's pages can be dropped and read again).
    """
    pages = math.ceil(context / PAGE)
    sizes = {"T": tokens, "R": rows, "S": sequences, "P": pages, "B": pages}
    offsets, arena_bytes = pack(plan, sizes)
    kv_bytes = sum(state.n_bytes(sizes) for state in plan.states)
    resident_bytes = 0 if weights_are_mapped else weights_bytes
    buffers_bytes = arena_bytes + scratch_bytes
    if available_bytes is not None and resident_bytes + kv_bytes + buffers_bytes > available_bytes:
        weights = f"{_mib(weights_bytes)} of weights, " if resident_bytes else ""
        if resident_bytes + buffers_bytes < available_bytes:
            remedy = "lower the context (--context)"
        else:
            remedy = "take a smaller model or format, or another device (--device)"
        raise CapacityError(
            f"a context of {context} tokens needs {weights}{_mib(kv_bytes)} of KV cache and {_mib(buffers_bytes)} of buffers, "
            f"{_mib(available_bytes)} are free; {remedy}"
        )
    return Memory(sizes, offsets, inputs_bytes(plan, sizes), arena_bytes, weights_bytes, kv_bytes, runtime_bytes, scratch_bytes)


def inputs_bytes(plan: Plan, sizes: Mapping[str, int]) -> int:
    """Bytes of the plan's inputs, each on cache lines of its own."""
    return sum(-(-v.n_bytes(sizes) // ALIGN) * ALIGN for v in plan.inputs)


def _mib(n: int) -> str:
    return f"{n / 2**20:,.0f} MiB"


def pack(plan: Plan, sizes: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """-> (offset of each value by name, bytes of the arena).

    The inputs come first, one behind the other: the host writes them in one piece. A value lives from
    the op that first writes it to the last that reads it; inputs and output live through the whole step.
    Values are placed largest first at the lowest offset that is free for their whole life, and for one op more: a
    room may launch an op and the next as one, whose programs write while others still read. An output that may take over
    its input's memory does so when the input dies there.
    """
    lives = lifetimes(plan)
    offsets: dict[str, int] = {}
    total = 0
    for value in plan.inputs:
        offsets[value.name] = total
        total += -(-value.n_bytes(sizes) // ALIGN) * ALIGN
    home = _shared_homes(plan, lives)
    groups: dict[Value, list[Value]] = {}
    for value in lives:
        if value not in plan.inputs:
            groups.setdefault(_root(home, value), []).append(value)
    spans = {
        root: (min(lives[v][0] for v in members), max(lives[v][1] for v in members) + 1, max(v.n_bytes(sizes) for v in members))
        for root, members in groups.items()
    }
    placed: list[tuple[int, int, int, int]] = [(0, len(plan.ops), 0, total)]  # first, last, start, stop
    for root in sorted(spans, key=lambda v: (-spans[v][2], spans[v][0], v.name)):
        first, last, n_bytes = spans[root]
        start = 0
        for _, _, a, b in sorted((p for p in placed if p[0] <= last and first <= p[1]), key=lambda p: p[2]):
            if start + n_bytes <= a:
                break
            start = max(start, b)
        stop = -(-(start + n_bytes) // ALIGN) * ALIGN
        placed.append((first, last, start, stop))
        total = max(total, stop)
        for value in groups[root]:
            offsets[value.name] = start
    return offsets, total


def lifetimes(plan: Plan) -> dict[Value, tuple[int, int]]:
    """value -> (index of the op that first writes it, index of the last op that touches it)."""
    end = len(plan.ops)
    lives = {value: (0, end) for value in plan.inputs}
    elsewhere = {*plan.states, *plan.inputs}
    for i, op in enumerate(plan.ops):
        for value in (*op.reads, *op.writes):
            if value not in elsewhere:
                lives[value] = (lives.get(value, (i, i))[0], i)
    lives[plan.output] = (lives[plan.output][0], end)
    return lives


def _shared_homes(plan: Plan, lives) -> dict[Value, Value]:
    home: dict[Value, Value] = {}
    for i, op in enumerate(plan.ops):
        for out_name, in_name in op.contract.in_place.items():
            out, source = op.operands[out_name], op.operands[in_name]
            if source is None or isinstance(out, Columns) or source in plan.inputs:
                continue
            if lives[source][1] == i and out.shape == source.shape and out.dtype == source.dtype:
                home[out] = source
    return home


def _root(home: dict[Value, Value], value: Value) -> Value:
    while value in home:
        value = home[value]
    return value
