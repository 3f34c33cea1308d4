"""The plan: a straight line of ops over values, and the contract of each op kind. Runs nothing.

Shapes hold two symbols that change from step to step, T (tokens in the step) and R (rows of x
whose logits are wanted), and three that are fixed when memory is allocated: B (KV pages), S
(sequences at once) and P (pages of one sequence). Axes: H heads, G kv-heads, D head size, N rows
out (outputs of a matrix), K columns in.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from rocforge.gguf.formats import Q8_BLOCK, Q8_SUM_BLOCK, Format
from rocforge.plan.rope import Rope

Shape = tuple["int | str", ...]

ELEMENT_BYTES = {"f32": 4, "f16": 2, "i32": 4}

# What a KV cache may hold.
KV_FORMATS = ("f16", "f32", "q8_0")
# Tokens of a KV page. Attention walks pages, so it is also the unit of its inner loop.
PAGE = 32
# The position of a token that only fills a step up to a recorded size: nothing is stored for it, and
# its results mean nothing.
PADDING = -1


@dataclass(frozen=True)
class Value:
    """An array that the step makes or is given. `dtype` is f32, f16, i32, q8 (see formats.Q8), or, for a
    KV cache, q8_0 (see formats.Q8Cache)."""

    name: str
    shape: Shape
    dtype: str = "f32"

    def n_bytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes when the symbols have these sizes."""
        count = 1
        for axis in self.shape:
            count *= sizes[axis] if isinstance(axis, str) else axis
        if self.dtype == "q8":
            return count + count // Q8_BLOCK * 4 + count // Q8_SUM_BLOCK * 2
        if self.dtype == "q8_0":
            return count + count // Q8_BLOCK * 2
        return count * ELEMENT_BYTES[self.dtype]


@dataclass(frozen=True)
class Columns:
    """The columns [start, stop) of a value: what one of several linear ops writes."""

    value: Value
    start: int
    stop: int


@dataclass(frozen=True)
class Weight:
    """A tensor of the model file; `shape` outermost axis first, (N, K) for a matrix."""

    name: str
    shape: tuple[int, ...]
    format: Format

    @property
    def n_bytes(self) -> int:
        rows = 1
        for axis in self.shape[:-1]:
            rows *= axis
        return rows * self.format.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class Frequencies:
    """RoPE's inverse frequencies: computed at load from the config and, where there are any, factors."""

    rope: Rope
    factors: Weight | None


# Value | Columns | Weight | Frequencies | None | a tuple of Weights: matrices one below the other, or
# biases one behind the other, where a number stands for that many zeros.
Operand = Any


@dataclass(frozen=True)
class Op:
    """One launch: `operands` and `attrs` are the keyword arguments of the kernel of that kind."""

    kind: str
    operands: Mapping[str, Operand]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    layer: int | None = None
    device: str | None = None

    @property
    def contract(self) -> "Contract":
        return CONTRACTS[self.kind]

    def _values(self, names) -> Iterator[Value]:
        for name in names:
            operand = self.operands.get(name)
            if isinstance(operand, Columns):
                yield operand.value
            elif isinstance(operand, Value):
                yield operand

    @property
    def reads(self) -> list[Value]:
        """The values read, those updated in place included."""
        return list(self._values(self.contract.inputs + self.contract.updates))

    @property
    def writes(self) -> list[Value]:
        """The values written, those updated in place included."""
        return list(self._values(self.contract.outputs + self.contract.updates))

    @property
    def weights(self) -> list[Weight]:
        found = []
        for operand in self.operands.values():
            for w in operand if isinstance(operand, tuple) else (operand,):
                w = w.factors if isinstance(w, Frequencies) else w
                if isinstance(w, Weight):
                    found.append(w)
        return found

    def with_operands(self, **changes: Operand) -> "Op":
        return replace(self, operands={**self.operands, **changes})


@dataclass(frozen=True)
class Plan:
    """A model as data. `inputs` are filled before each step, `states` outlive it (the KV cache)."""

    ops: tuple[Op, ...]
    inputs: tuple[Value, ...]
    states: tuple[Value, ...]
    output: Value

    @property
    def weights(self) -> list[Weight]:
        """Every tensor that the plan reads, once, in order of first use."""
        return list({w.name: w for op in self.ops for w in op.weights}.values())

    @cached_property
    def _producers(self) -> dict[Value, Op]:
        return {value: op for op in self.ops for value in op._values(op.contract.outputs)}

    @cached_property
    def _consumers(self) -> dict[Value, list[Op]]:
        found: dict[Value, list[Op]] = {}
        for op in self.ops:
            for value in op.reads:
                found.setdefault(value, []).append(op)
        return found

    def producer(self, value: Value) -> Op:
        """The op that makes `value` (the last of them, where several write columns of it)."""
        return self._producers[value]

    def consumers(self, value: Value) -> list[Op]:
        """The ops that read `value`, those that update it in place included."""
        return self._consumers.get(value, [])

    def check(self) -> "Plan":
        """Assert what every pass must leave true: known kinds, whole operands, order of definition."""
        known = set(self.inputs) | set(self.states)
        for op in self.ops:
            contract = op.contract
            names = set(contract.inputs + contract.updates + contract.weights + contract.outputs)
            assert set(op.operands) == names, (op.kind, set(op.operands) ^ names)
            assert set(op.attrs) == set(contract.attrs), (op.kind, set(op.attrs) ^ set(contract.attrs))
            for value in op.reads:
                assert value in known, f"{op.kind} reads {value.name} before it is made"
            known.update(op.writes)
        assert self.output in known, self.output
        return self


# ---- what a kind of op means


@dataclass(frozen=True)
class Contract:
    """What an op kind computes, and the names that its two kernels share.

    `inputs` and `weights` are read, `updates` read and written in place, `outputs` written.
    `in_place` maps an output to the input whose memory it may take over. `launched` is False for
    kinds that exist only before fusion: no room has a kernel for them.
    `flops` counts floating-point (or integer multiply-add) operations for T tokens and R rows;
    the tokens of context that attention sees are not known here and are not counted.
    """

    formula: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...] = ("out",)
    weights: tuple[str, ...] = ()
    updates: tuple[str, ...] = ()
    attrs: tuple[str, ...] = ()
    in_place: Mapping[str, str] = field(default_factory=dict)
    launched: bool = True
    flops: Callable[[Op, Mapping[str, int]], int] = lambda op, sizes: 0


def _elements(value: Value, sizes: Mapping[str, int]) -> int:
    count = 1
    for axis in value.shape:
        count *= sizes[axis] if isinstance(axis, str) else axis
    return count


def _linear_flops(op: Op, sizes: Mapping[str, int]) -> int:
    x = op.operands["x"]
    return 2 * _elements(x, sizes) * sum(w.shape[0] for w in op.operands["weights"])


def _per_element(count: int, operand: str):
    return lambda op, sizes: count * _elements(op.operands[operand], sizes)


_CACHE = ("positions", "sequences", "page_table")
_HEADS = ("heads", "kv_heads", "head_dim")

CONTRACTS: dict[str, Contract] = {
    "embed": Contract(
        "out[t] = table[tokens[t]], dequantised to float32",
        inputs=("tokens",), weights=("table",),
    ),
    "rope_table": Contract(
        "out[t] = scale * (cos | sin)(positions[t] * inv_freq); angles in float64",
        inputs=("positions",), weights=("inv_freq",), attrs=("scale",),
    ),
    "rms_norm": Contract(
        "out = x / sqrt(mean(x^2) + eps) * weight; float32 sums; quantised if out is q8",
        inputs=("x",), weights=("weight",), attrs=("eps",), flops=_per_element(4, "x"),
    ),
    "quantize": Contract(
        "out = q8(x): blocks of 32, scale = amax / 127, values rounded to nearest",
        inputs=("x",), flops=_per_element(3, "x"),
    ),
    "linear": Contract(
        "out = x W^T + bias + residual; W is the rows of `weights` one below the other; block "
        "formats take x as q8 and multiply in int32 per block, float formats take x as float32",
        inputs=("x", "residual"), weights=("weights", "bias"), in_place={"out": "residual"}, flops=_linear_flops,
    ),
    "rope_store": Contract(
        "q, k, v = split(qkv); q, k = rope(norm(q), table), rope(norm(k), table) per head (norm only "
        "where its weight is given); q back into qkv; k, v into the page and row of their position",
        inputs=("table", *_CACHE), weights=("q_norm", "k_norm"), outputs=(), updates=("qkv", "k_cache", "v_cache"),
        attrs=(*_HEADS, "layout", "eps"), flops=_per_element(6, "qkv"),
    ),
    "attention": Contract(
        "out[t, h] = softmax(scale * q[t, h] K^T) V over the sequence's positions p-window+1 .. p "
        "(0 .. p if window is 0), p = positions[t]; online softmax in float32, pages ascending; "
        "q is the first H*D columns of qkv; quantised if out is q8",
        inputs=("qkv", *_CACHE, "k_cache", "v_cache"), attrs=(*_HEADS, "scale", "window"),
    ),
    "swiglu": Contract(
        "out = silu(gate) * up; gate | up = the halves of gate_up; quantised if out is q8",
        inputs=("gate_up",), flops=_per_element(3, "gate_up"),
    ),
    "gather": Contract("out[r] = x[rows[r]]", inputs=("x", "rows")),
    # Before fusion only.
    "head_norm": Contract(
        "out = rms_norm of each head of x", inputs=("x",), weights=("weight",), attrs=("head_dim", "eps"), launched=False
    ),
    "rope": Contract(
        "out = each head of x rotated by table: pairs (2i, 2i+1) if layout is interleaved, (i, i+D/2) if half",
        inputs=("x", "table"), attrs=("head_dim", "layout"), launched=False,
    ),
    "store_kv": Contract(
        "k, v into the page and row of their position",
        inputs=("k", "v", *_CACHE), outputs=(), updates=("k_cache", "v_cache"), attrs=("kv_heads", "head_dim"),
        launched=False,
    ),
    "silu_mul": Contract("out = silu(gate) * up", inputs=("gate", "up"), launched=False),
    "add": Contract("out = x + y", inputs=("x", "y"), launched=False),
}
