"""Passes Plan -> Plan: fewer launches for the same numbers. Chooses no device and no tile.

`fuse` runs them in order; what it returns holds only op kinds that the rooms have kernels for.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace

from rocforge.gguf.formats import Q8_BLOCK
from rocforge.plan.ir import Columns, Op, Plan, Value, Weight


def fuse(plan: Plan) -> Plan:
    """The plan as it is launched: all passes below, checked after each."""
    for rewrite in PASSES:
        plan = rewrite(plan).check()
    kinds = {op.kind for op in plan.ops if not op.contract.launched}
    assert not kinds, f"no kernel for {kinds}"
    for before, op in itertools.pairwise(plan.ops):
        # A GPU may read the table before the launch before is done (kernels/early.py): that must not be what writes it.
        assert op.kind != "rope_store" or op.operands["table"] not in before.writes, "make the RoPE table before the layers"
    return plan


def fuse_attention_input(plan: Plan) -> Plan:
    """q, k and v from one linear; head norm, RoPE and the write to the cache in one rope_store."""

    def rewrite(store: Op) -> tuple[dict[int, list[Op]], set[int]]:
        attention = next(op for op in plan.ops if op.kind == "attention" and op.layer == store.layer)
        gone, norms, projections = {id(store)}, [], []
        for rotated in (attention.operands["qkv"], store.operands["k"]):
            rope = plan.producer(rotated)
            source = plan.producer(rope.operands["x"])
            norm = source if source.kind == "head_norm" else None
            linear = plan.producer(norm.operands["x"]) if norm else source
            gone |= {id(rope), id(norm)}
            norms.append(norm)
            projections.append(linear)
        projections.append(plan.producer(store.operands["v"]))
        table = rope.operands["table"]
        linears, qkv = _merge(projections, "attn_qkv")
        gone |= {id(p) for p in projections}
        cache = {n: store.operands[n] for n in ("positions", "sequences", "page_table", "k_cache", "v_cache")}
        heads = {n: attention.attrs[n] for n in ("heads", "kv_heads", "head_dim")}
        eps = norms[0].attrs["eps"] if norms[0] else 0.0
        rope_store = Op(
            "rope_store",
            {
                "qkv": qkv,
                "table": table,
                **cache,
                "q_norm": norms[0] and norms[0].operands["weight"],
                "k_norm": norms[1] and norms[1].operands["weight"],
            },
            {**heads, "layout": rope.attrs["layout"], "eps": eps},
            store.layer,
        )
        return {
            id(projections[0]): linears,
            id(store): [rope_store],
            id(attention): [attention.with_operands(qkv=qkv)],
        }, gone

    return _rewrite(plan, lambda op: op.kind == "store_kv", rewrite)


def fuse_swiglu(plan: Plan) -> Plan:
    """gate and up from one linear; silu(gate) * up in one swiglu over its halves."""

    def rewrite(act: Op):
        projections = [plan.producer(act.operands[name]) for name in ("gate", "up")]
        linears, gate_up = _merge(projections, "ffn_gate_up")
        swiglu = Op("swiglu", {"gate_up": gate_up, "out": act.operands["out"]}, {}, act.layer)
        return {id(projections[0]): linears, id(act): [swiglu]}, {id(p) for p in projections}

    return _rewrite(plan, lambda op: op.kind == "silu_mul", rewrite)


def fuse_residual(plan: Plan) -> Plan:
    """A linear whose only reader adds something to it does the addition itself."""

    def rewrite(add: Op):
        linear = plan.producer(add.operands["x"])
        assert linear.kind == "linear" and plan.consumers(add.operands["x"]) == [add], add
        merged = linear.with_operands(residual=add.operands["y"], out=add.operands["out"])
        return {id(add): [merged]}, {id(linear)}

    return _rewrite(plan, lambda op: op.kind == "add", rewrite)


def quantize_activations(plan: Plan) -> Plan:
    """Each linear over block formats reads its input in 8 bits, quantised once for all its readers.

    A norm, a swiglu or an attention (over heads of whole blocks) that only such linears read writes 8 bits itself;
    else a quantize op is put after the producer.
    """
    quantized: dict[Value, Value] = {}
    wanted: dict[Value, bool] = {}  # value -> read as float32 too
    for op in plan.ops:
        if op.kind == "linear" and not op.operands["weights"][0].format.is_float:
            x = op.operands["x"]
            quantized.setdefault(x, replace(x, name=f"{x.name}.q8", dtype="q8"))
    for x in quantized:
        wanted[x] = any(not _reads_q8(op, x) for op in plan.consumers(x))

    ops: list[Op] = []
    for op in plan.ops:
        if _reads_q8(op, op.operands.get("x")):
            op = op.with_operands(x=quantized[op.operands["x"]])
        out = op.operands.get("out")
        if out not in quantized or isinstance(out, Columns):
            ops.append(op)
        elif _quantizes(op) and not wanted[out]:
            ops.append(op.with_operands(out=quantized[out]))
        else:
            ops += [op, Op("quantize", {"x": out, "out": quantized[out]}, {}, op.layer)]
    return replace(plan, ops=tuple(ops))


PASSES: tuple[Callable[[Plan], Plan], ...] = (fuse_attention_input, fuse_swiglu, fuse_residual, quantize_activations)


def _reads_q8(op: Op, x: Value | None) -> bool:
    return op.kind == "linear" and op.operands["x"] == x and not op.operands["weights"][0].format.is_float


def _quantizes(op: Op) -> bool:
    """Whether an op's kernels can write 8 bits."""
    return op.kind in ("rms_norm", "swiglu") or (op.kind == "attention" and op.attrs["head_dim"] % Q8_BLOCK == 0)


def _rewrite(plan: Plan, matches: Callable[[Op], bool], rewrite) -> Plan:
    """Apply `rewrite(op) -> ({id of an op: ops in its place}, ids of ops that go)` to every match."""
    placed: dict[int, list[Op]] = {}
    gone: set[int] = set()
    for op in plan.ops:
        if matches(op):
            new, old = rewrite(op)
            placed |= new
            gone |= old
    ops: list[Op] = []
    for op in plan.ops:
        if id(op) in placed:
            ops += placed[id(op)]
        elif id(op) not in gone:
            ops.append(op)
    return replace(plan, ops=tuple(ops))


def _merge(linears: list[Op], name: str) -> tuple[list[Op], Value]:
    """Linears of one input as few as possible, side by side in one output.

    Float and block formats read their input in different types: each run of one sort is an op of
    its own, over its columns of the output.
    """
    x, layer = linears[0].operands["x"], linears[0].layer
    assert all(op.operands["x"] == x and op.operands["residual"] is None for op in linears), linears
    width = sum(op.operands["out"].shape[-1] for op in linears)
    out = Value(f"{name}.{layer}", (*x.shape[:-1], width))
    runs: list[tuple[int, list[Weight], list[Weight | int]]] = []
    start = 0
    for op in linears:
        (weight,), bias = op.operands["weights"], op.operands["bias"]
        if not runs or runs[-1][1][0].format.is_float != weight.format.is_float:
            runs.append((start, [], []))
        runs[-1][1].append(weight)
        runs[-1][2].append(bias[0] if bias else weight.shape[0])
        start += weight.shape[0]
    merged = []
    for start, weights, biases in runs:
        stop = start + sum(w.shape[0] for w in weights)
        operands = {
            "x": x,
            "weights": tuple(weights),
            "bias": tuple(biases) if any(isinstance(b, Weight) for b in biases) else None,
            "residual": None,
            "out": out if len(runs) == 1 else Columns(out, start, stop),
        }
        merged.append(Op("linear", operands, {}, layer))
    return merged, out
