"""What a model file writes its forward pass with: each call appends one op. Optimises nothing."""

from collections.abc import Mapping

from rocforge.errors import ModelError
from rocforge.gguf.formats import SUPPORTED
from rocforge.gguf.reader import Tensor
from rocforge.models.config import ModelConfig
from rocforge.plan.ir import PAGE, Frequencies, Op, Plan, Value, Weight


class Builder:
    """Builds the Plan of one model from its config and the tensors of its file.

    A weight is called by GGUF's name without `blk.N.` and `.weight`; the layer is the one that
    `layer()` opened last. A tensor that is missing, of a wrong shape or of a format without
    kernels raises ModelError; so does, at the end, one that nothing used.
    """

    def __init__(self, config: ModelConfig, tensors: Mapping[str, Tensor], path, kv_format: str = "f16"):
        self.config, self.tensors, self.path, self.kv_format = config, tensors, path, kv_format
        self._ops: list[Op] = []
        self._used: set[str] = set()
        self._names: set[str] = set()
        self._layer: int | None = None
        self._states: list[Value] = []
        self.tokens = Value("tokens", ("T",), "i32")
        self.rows = Value("rows", ("R",), "i32")
        self._cache = {
            "positions": Value("positions", ("T",), "i32"),
            "sequences": Value("sequences", ("T",), "i32"),
            "page_table": Value("page_table", ("S", "P"), "i32"),
        }

    # ---- weights

    def layer(self, index: int | None) -> None:
        """The layer that the following calls belong to; None outside of the blocks."""
        self._layer = index

    def has(self, name: str, suffix: str = "weight") -> bool:
        return self._full(name, suffix) in self.tensors

    def _full(self, name: str, suffix: str) -> str:
        prefix = "" if self._layer is None else f"blk.{self._layer}."
        return f"{prefix}{name}.{suffix}"

    def weight(self, name: str, shape: tuple[int, ...], suffix: str = "weight") -> Weight:
        """The tensor of that name, checked against the shape that the architecture wants."""
        full = self._full(name, suffix)
        tensor = self.tensors.get(full)
        if tensor is None:
            raise ModelError(f"{self.path}: tensor {full} is missing; architecture {self.config.architecture} needs it")
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"{self.path}: tensor {full} has shape {list(tensor.shape)}, "
                f"the {self.config.architecture} architecture of this file's metadata wants {list(shape)}"
            )
        if tensor.format not in SUPPORTED:
            names = " ".join(f.name for f in SUPPORTED)
            raise ModelError(f"{self.path}: tensor {full} is {tensor.format}, which has no kernel; supported: {names}")
        if len(shape) == 1 and not tensor.format.is_float:
            raise ModelError(f"{self.path}: tensor {full} is a vector in {tensor.format}; F32, F16 or BF16 is wanted")
        self._used.add(full)
        return Weight(full, shape, tensor.format)

    # ---- ops

    def _value(self, role: str, shape, dtype: str = "f32") -> Value:
        name = role if self._layer is None else f"{role}.{self._layer}"
        unique, n = name, 2
        while unique in self._names:
            unique, n = f"{name}.{n}", n + 1
        self._names.add(unique)
        return Value(unique, shape, dtype)

    def _append(self, kind: str, out: Value | None, attrs=None, **operands):
        if out is not None:
            operands["out"] = out
        self._ops.append(Op(kind, operands, attrs or {}, self._layer))
        return out

    def embed(self, name: str) -> Value:
        """-> [T, d_model]"""
        table = self.weight(name, (self.config.vocab_size, self.config.d_model))
        return self._append("embed", self._value("x", ("T", self.config.d_model)), tokens=self.tokens, table=table)

    def rope_table(self) -> Value:
        """cos | sin of this step's positions, made once and read by all layers -> [T, rope dimensions]"""
        rope = self.config.rope
        factors = self.weight("rope_freqs", (rope.dim // 2,)) if self.has("rope_freqs") else None
        return self._append(
            "rope_table", self._value("rope_table", ("T", rope.dim)), {"scale": rope.attention_factor},
            positions=self._cache["positions"], inv_freq=Frequencies(rope, factors),
        )

    def rms_norm(self, x: Value, name: str) -> Value:
        weight = self.weight(name, (x.shape[-1],))
        return self._append("rms_norm", self._value(name, x.shape), {"eps": self.config.eps}, x=x, weight=weight)

    def linear(self, x: Value, name: str, n: int, bias: bool = False, tied_to: str | None = None) -> Value:
        """x [.., K] -> [.., n]. `bias`: the tensor NAME.bias is wanted; it is used where present anyway.
        `tied_to` names the tensor that stands in for an absent one."""
        stored = name if tied_to is None or self.has(name) else tied_to
        weight = self.weight(stored, (n, x.shape[-1]))
        vector = self.weight(name, (n,), "bias") if bias or self.has(name, "bias") else None
        return self._append(
            "linear", self._value(name, (*x.shape[:-1], n)),
            x=x, weights=(weight,), bias=(vector,) if vector else None, residual=None,
        )

    def head_norm(self, x: Value, name: str) -> Value:
        weight = self.weight(name, (self.config.head_dim,))
        attrs = {"head_dim": self.config.head_dim, "eps": self.config.eps}
        return self._append("head_norm", self._value(name, x.shape), attrs, x=x, weight=weight)

    def rope(self, x: Value, table: Value) -> Value:
        attrs = {"head_dim": self.config.head_dim, "layout": self.config.rope.layout}
        return self._append("rope", self._value("rope", x.shape), attrs, x=x, table=table)

    def attention(self, q: Value, k: Value, v: Value) -> Value:
        """Store k and v [T, G*D], attend with q [T, H*D] -> [T, H*D]; causal, over the paged cache."""
        c = self.config
        shape = ("B", c.n_kv_heads, PAGE, c.head_dim)
        caches = {n: Value(f"{n}.{self._layer}", shape, self.kv_format) for n in ("k_cache", "v_cache")}
        self._states += caches.values()
        heads = {"kv_heads": c.n_kv_heads, "head_dim": c.head_dim}
        self._append("store_kv", None, heads, k=k, v=v, **self._cache, **caches)
        attrs = {"heads": c.n_heads, **heads, "scale": c.attention_scale, "window": c.window}
        return self._append("attention", self._value("attention", q.shape), attrs, qkv=q, **self._cache, **caches)

    def silu_mul(self, gate: Value, up: Value) -> Value:
        return self._append("silu_mul", self._value("ffn_act", gate.shape), gate=gate, up=up)

    def add(self, x: Value, y: Value) -> Value:
        return self._append("add", self._value("x", x.shape), x=x, y=y)

    def gather(self, x: Value) -> Value:
        """The rows of x whose logits are wanted -> [R, d_model]"""
        return self._append("gather", self._value("x_out", ("R", x.shape[-1])), x=x, rows=self.rows)

    def finish(self, logits: Value) -> Plan:
        """The Plan, after a check that every tensor of the file had its place in it."""
        unused = [name for name in self.tensors if name not in self._used]
        if unused:
            shown = ", ".join(unused[:4]) + (f" and {len(unused) - 4} more" if len(unused) > 4 else "")
            raise ModelError(
                f"{self.path}: architecture {self.config.architecture} has no place for the tensors {shown}; "
                "the file is of another architecture or of a variant that is not supported"
            )
        # The page table last: of it a step has the beginning only (engine/runner.py).
        positions, sequences, page_table = self._cache.values()
        inputs = (self.tokens, positions, sequences, self.rows, page_table)
        return Plan(tuple(self._ops), inputs, tuple(self._states), logits).check()
