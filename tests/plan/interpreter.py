"""A plan in float64, op by op, fused or not: the oracle of the passes and of whole models.

Activations in 8 bits are kept exact here: what is compared is what a plan means, not how it rounds.
"""

import numpy as np

from rocforge.plan.ir import Columns, Frequencies, Op, Plan, Value, Weight
from tests import reference


class Interpreter:
    """Runs a plan over dequantised weights (name -> float64 array), keeping the KV cache between steps."""

    def __init__(self, plan: Plan, weights: dict[str, np.ndarray], sizes: dict[str, int]):
        self.plan, self.weights = plan, weights
        self.states = {s: np.zeros([sizes[a] if isinstance(a, str) else a for a in s.shape]) for s in plan.states}

    def run(self, **inputs: np.ndarray) -> np.ndarray:
        """The plan's output for one step; `inputs` by name: tokens, positions, sequences, page_table, rows."""
        self.values = {v: inputs[v.name] for v in self.plan.inputs} | self.states
        for op in self.plan.ops:
            OPS[op.kind](self, op)
        return self.values[self.plan.output]

    def read(self, operand):
        if isinstance(operand, Value):
            return self.values[operand]
        if isinstance(operand, Weight):
            return self.weights[operand.name]
        if isinstance(operand, Frequencies):
            return operand.rope.inv_freq(None if operand.factors is None else self.weights[operand.factors.name])
        assert operand is None, operand
        return None

    def write(self, operand, array: np.ndarray) -> None:
        if isinstance(operand, Columns):
            shape = (len(array), operand.value.shape[-1])
            whole = self.values.setdefault(operand.value, np.full(shape, np.nan))
            whole[:, operand.start : operand.stop] = array
        else:
            self.values[operand] = array

    def keywords(self, op: Op) -> dict:
        names = set(op.operands) - set(op.contract.outputs)
        return {name: self.read(op.operands[name]) for name in names} | dict(op.attrs)


def _call(function):
    """An op whose reference function takes the contract's keywords and returns its output."""

    def run(self: Interpreter, op: Op) -> None:
        self.write(op.operands["out"], function(**self.keywords(op)))

    return run


def _update(function):
    """An op whose reference function changes arrays in place."""
    return lambda self, op: function(**self.keywords(op))


def _linear(self: Interpreter, op: Op) -> None:
    weights = np.concatenate([self.read(w) for w in op.operands["weights"]])
    bias = op.operands["bias"]
    if bias is not None:
        bias = np.concatenate([np.zeros(b) if isinstance(b, int) else self.read(b) for b in bias])
    x, residual = self.read(op.operands["x"]), self.read(op.operands["residual"])
    out = x @ weights.T
    out = out if bias is None else out + bias
    self.write(op.operands["out"], out if residual is None else out + residual)


def _head_norm(x, weight, head_dim, eps):
    heads = x.reshape(len(x), -1, head_dim)
    return (heads / np.sqrt(np.mean(heads**2, axis=-1, keepdims=True) + eps) * weight).reshape(x.shape)


def _rope(x, table, head_dim, layout):
    heads = x.reshape(len(x), -1, head_dim).copy()
    half = table.shape[1] // 2
    cos, sin = table[:, None, :half], table[:, None, half:]
    a, b = (slice(0, 2 * half, 2), slice(1, 2 * half, 2)) if layout == "interleaved" else (slice(0, half), slice(half, 2 * half))
    first, second = heads[..., a].copy(), heads[..., b].copy()
    heads[..., a], heads[..., b] = first * cos - second * sin, second * cos + first * sin
    return heads.reshape(x.shape)


def _store_kv(k, v, positions, sequences, page_table, k_cache, v_cache, kv_heads, head_dim):
    for cache, x in ((k_cache, k), (v_cache, v)):
        page = cache.shape[2]
        for t, row in enumerate(x.reshape(len(x), kv_heads, head_dim)):
            cache[page_table[sequences[t], positions[t] // page], :, positions[t] % page] = row


OPS = {
    "embed": _call(lambda tokens, table: table[tokens]),
    "rope_table": _call(reference.rope_table),
    "rms_norm": _call(reference.rms_norm),
    "quantize": _call(lambda x: x),
    "linear": _linear,
    "rope_store": _update(reference.rope_store),
    "attention": _call(reference.attention),
    "swiglu": _call(reference.swiglu),
    "gather": _call(reference.gather),
    "head_norm": _call(_head_norm),
    "rope": _call(_rope),
    "store_kv": _update(_store_kv),
    "silu_mul": _call(lambda gate, up: gate / (1 + np.exp(-gate)) * up),
    "add": _call(lambda x, y: x + y),
}
