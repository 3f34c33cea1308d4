"""Random operands for one op of a plan, in a backend's memory, as often as caches must be outrun. Times nothing."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rocforge.engine.selftest_cases import blocks, rows_of
from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8_SUM_BLOCK, Q8Cache
from rocforge.plan.ir import PAGE, Columns, Frequencies, Op, Operand, Plan, Value, Weight

# Rows that differ in a random matrix, and rows and tokens that an error is taken over.
ROWS, CHECKED_ROWS, CHECKED_TOKENS = 256, 64, 4


# What copies are together, at least, unless that takes more of them than this, or more operations for all of
# them: many tokens are bound by arithmetic, and two copies do.
ROTATED_BYTES, MOST_COPIES, MOST_OPS = 512 << 20, 4096, 20e9


def copies_for(n_bytes: int, ops: float) -> int:
    """How many copies of `n_bytes` outrun the caches, where work on one of them takes `ops` operations."""
    if not n_bytes:
        return 1
    copies = min(MOST_COPIES, math.ceil(ROTATED_BYTES / n_bytes))
    return copies if copies * ops <= MOST_OPS else min(copies, max(2, int(MOST_OPS / ops)))


def sizes_for(tokens: int, depth: int) -> dict[str, int]:
    """What the symbols of ir.py are for a step of one sequence, with logits for its last token."""
    pages = -(-(tokens + depth) // PAGE)
    return {"T": tokens, "R": 1, "S": 1, "P": pages, "B": pages}


class Operands:
    """One op's operands: values once, as the op before leaves them, weights and KV cache `copies` times.

    `sets` are as many mappings of keywords for the op's launcher.
    """

    def __init__(self, op: Op, plan: Plan, sizes: Mapping[str, int], depth: int, backend: Any, copies: int):
        self._op, self._sizes, self._depth, self._backend = op, sizes, depth, backend
        self._random = np.random.default_rng(0)
        self._host: dict[str, Any] = {}
        shared = {name: self._make(name, operand) for name, operand in op.operands.items() if not _streams(operand, plan)}
        streamed = {name: self._source(operand) for name, operand in op.operands.items() if _streams(operand, plan)}
        self.sets = [
            {**shared, **{name: self._copy(operand, streamed[name]) for name, operand in op.operands.items() if name in streamed}}
            for _ in range(copies)
        ]
        backend.load(lambda done, total: None)

    # ---- what rotates

    def _source(self, operand: Operand) -> Any:
        """What copies are made of: a cache's array, or the blocks of each matrix."""
        if isinstance(operand, Value):
            return self._array(operand)
        blocks = [_matrix_blocks(self._random, w) for w in (operand if isinstance(operand, tuple) else (operand,))]
        self._host["blocks"] = blocks
        return blocks

    def _copy(self, operand: Operand, source: Any) -> Any:
        if isinstance(operand, Value):
            return self._to_device(source)
        weights = operand if isinstance(operand, tuple) else (operand,)
        sources = [(b.data.copy(), b.format, w.shape) for b, w in zip(source, weights, strict=True)]
        bound = self._backend.matrices(sources)
        return bound if isinstance(operand, tuple) else bound[0]

    # ---- what stays

    def _make(self, name: str, operand: Operand) -> Any:
        if operand is None:
            return None
        if isinstance(operand, Columns):
            return self._to_device(self._array(operand.value))[:, operand.start : operand.stop]
        if isinstance(operand, Value):
            made = self._angles(operand) if name == "table" else self._indices(operand) if operand.dtype == "i32" else self._array(operand)
        elif isinstance(operand, Frequencies):
            factors = operand.factors
            made = operand.rope.inv_freq(None if factors is None else np.ones(factors.shape, np.float32))
        elif isinstance(operand, Weight):
            # A norm's: with others, heads that are normed in place again and again would fade to denormals.
            made = np.ones(operand.shape, np.float32)
        else:  # biases one behind the other, a number standing for as many zeros
            parts = [np.zeros(b, np.float32) if isinstance(b, int) else self._normal(b.shape) for b in operand]
            made = np.concatenate(parts)
        self._host[name] = made
        return self._to_device(made)

    def _indices(self, value: Value) -> np.ndarray:
        T, P = self._sizes["T"], self._sizes["P"]
        table = self._op.operands.get("table")
        n_ids = table.shape[0] if isinstance(table, Weight) else 1
        return {
            "tokens": lambda: self._random.integers(0, n_ids, T),
            "positions": lambda: np.arange(self._depth, self._depth + T),
            "sequences": lambda: np.zeros(T),
            "page_table": lambda: np.arange(P)[None],
            "rows": lambda: np.full(self._sizes["R"], T - 1),
        }[value.name]().astype(np.int32)

    def _angles(self, value: Value) -> np.ndarray:
        """Cosines and sines: by anything else, what is rotated in place again and again would leave float32."""
        angles = self._random.uniform(-np.pi, np.pi, (self._sizes["T"], value.shape[1] // 2))
        return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    def _array(self, value: Value) -> Any:
        shape = tuple(self._sizes[a] if isinstance(a, str) else a for a in value.shape)
        if value.dtype == "q8":
            values = self._random.integers(-127, 128, shape, dtype=np.int8)
            scales = self._random.uniform(0.005, 0.02, (shape[0], shape[1] // Q8_BLOCK)).astype(np.float32)
            return Q8(values, scales, values.reshape(shape[0], -1, Q8_SUM_BLOCK).sum(-1, dtype=np.int16))
        if value.dtype == "q8_0":
            scales = self._random.uniform(0.005, 0.02, (*shape[:-1], shape[-1] // Q8_BLOCK)).astype(np.float16)
            return Q8Cache(self._random.integers(-127, 128, shape, dtype=np.int8), scales)
        return self._normal(shape).astype({"f32": np.float32, "f16": np.float16}[value.dtype])

    def _normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Normal values: a few millions of them, again and again."""
        n = int(np.prod(shape))
        few = self._random.standard_normal(min(n, 1 << 20), dtype=np.float32)
        return np.resize(few, n).reshape(shape)

    def _to_device(self, host: Any) -> Any:
        if isinstance(host, tuple):
            return type(host)(*(self._to_device(part) for part in host))
        return self._backend.constant(host.copy())

    # ---- against float64

    def error(self) -> float | None:
        """How far a matrix product is off from float64, the largest of some elements over the root of their mean square.

        None for other ops. The op has just been launched on the first of `sets`.
        """
        if self._op.kind != "linear":
            return None
        rows = min(CHECKED_ROWS, len(self._host["blocks"][0].data))
        some = self._host["blocks"][0]
        w = rows_of(some._replace(data=some.data[:rows])).astype(np.float64)
        exact = _as_float(self._host["x"])[:CHECKED_TOKENS] @ w.T
        for name in ("bias", "residual"):
            if self._op.operands[name] is not None:
                exact = exact + self._host[name][..., :rows][: len(exact)]
        got = self._backend.to_host(self.sets[0]["out"])[: len(exact), :rows]
        return float(np.abs(got - exact).max() / np.sqrt(np.mean(exact * exact)))


def streamed_bytes(op: Op, plan: Plan, sizes: Mapping[str, int]) -> int:
    """Bytes of one copy of what rotates."""
    total = 0
    for operand in op.operands.values():
        if _streams(operand, plan):
            for part in operand if isinstance(operand, tuple) else (operand,):
                total += part.n_bytes(sizes) if isinstance(part, Value) else part.n_bytes
    return total


def _streams(operand: Operand, plan: Plan) -> bool:
    """Whether a step reads it from memory: matrices and KV caches."""
    if isinstance(operand, Value):
        return operand in plan.states
    parts = operand if isinstance(operand, tuple) else (operand,)
    return all(isinstance(p, Weight) and len(p.shape) == 2 for p in parts)


def _matrix_blocks(rng: np.random.Generator, weight: Weight) -> Any:
    """Random blocks of the matrix's shape, the same ROWS rows again and again."""
    n_rows, columns = weight.shape
    some = blocks(rng, weight.format, min(ROWS, n_rows), columns)
    data = some.data.view(np.uint8).reshape(len(some.data), -1)
    return some._replace(data=np.resize(data, (n_rows, data.shape[1])))


def _as_float(x: Any) -> np.ndarray:
    if isinstance(x, Q8):
        return x.values * np.repeat(x.scales.astype(np.float64), Q8_BLOCK, axis=1)
    return x.astype(np.float64)
