"""What a model file's metadata says of its shape, read once and checked. Knows no tensors.

Keys are GGUF's (`{architecture}.attention.head_count` and so on, as the GGUF specification names them).
"""

import math
from dataclasses import dataclass

from rocforge.errors import ModelError
from rocforge.gguf.reader import GGUFFile
from rocforge.plan.rope import Rope

_REQUIRED = object()


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a dense decoder-only transformer."""

    architecture: str
    name: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab_size: int
    context: int
    eps: float
    rope: Rope
    window: int = 0

    @property
    def attention_scale(self) -> float:
        return self.head_dim**-0.5

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.head_dim * element_bytes


def read_config(file: GGUFFile, rope_layout: str) -> ModelConfig:
    """The config of a file whose architecture rotates heads in `rope_layout`.

    Raises ModelError for a key that is missing, of a wrong type or out of its range.
    """
    keys = _Keys(file)
    d_model = keys.count("embedding_length")
    n_heads = keys.count("attention.head_count")
    n_kv_heads = keys.count("attention.head_count_kv", n_heads)
    if n_heads % n_kv_heads:
        keys.fail("attention.head_count_kv", f"{n_kv_heads} does not divide the {n_heads} heads")
    head_dim = keys.count("attention.key_length", d_model // n_heads)
    if keys.count("attention.value_length", head_dim) != head_dim:
        keys.fail("attention.value_length", f"differs from the key length {head_dim}; both must be equal")
    if keys.integer("expert_count", 0):
        keys.fail("expert_count", "this is a mixture of experts, which is not supported yet; dense models are")
    eps = keys.real("attention.layer_norm_rms_epsilon")
    if not 0 <= eps < 1:
        keys.fail("attention.layer_norm_rms_epsilon", f"{eps} is not in [0, 1)")
    n_tokens = len(file.get("tokenizer.ggml.tokens", list, []))
    return ModelConfig(
        architecture=keys.architecture,
        name=file.get("general.name", str, file.path.stem),
        n_layers=keys.count("block_count", limit=10_000),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        d_ff=keys.count("feed_forward_length"),
        vocab_size=n_tokens or keys.count("vocab_size"),
        context=keys.count("context_length"),
        eps=eps,
        rope=_read_rope(keys, head_dim, rope_layout),
        window=keys.integer("attention.sliding_window", 0),
    )


def _read_rope(keys: "_Keys", head_dim: int, layout: str) -> Rope:
    dim = keys.count("rope.dimension_count", head_dim)
    if dim > head_dim or dim % 2:
        keys.fail("rope.dimension_count", f"{dim} is odd or more than the head size {head_dim}")
    factor = keys.real("rope.scaling.factor", keys.real("rope.scale_linear", 0.0))
    scaling = keys.text("rope.scaling.type", "linear" if factor else "none")
    if scaling not in ("none", "linear", "yarn"):
        keys.fail("rope.scaling.type", f"{scaling!r} is not supported; none, linear and yarn are")
    for key, usual in (("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)):
        if scaling == "yarn" and keys.real(f"rope.scaling.{key}", usual) != usual:
            keys.fail(f"rope.scaling.{key}", f"only {usual} is supported")
    theta = keys.real("rope.freq_base", 10_000.0)
    if not theta > 1:
        keys.fail("rope.freq_base", f"{theta} is not above 1")
    return Rope(
        dim=dim,
        theta=theta,
        layout=layout,
        scaling=scaling if factor not in (0.0, 1.0) else "none",
        factor=factor or 1.0,
        original_context=keys.count("rope.scaling.original_context_length", keys.count("context_length")),
        attention_scale=keys.real("rope.scaling.attn_factor", 1.0),
        beta_fast=keys.real("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.real("rope.scaling.yarn_beta_slow", 1.0),
    )


class _Keys:
    """The keys under `{architecture}.`, each checked to be of the wanted type and range."""

    def __init__(self, file: GGUFFile):
        self.file = file
        self.architecture = file.get("general.architecture", str)

    def fail(self, key: str, why: str):
        raise ModelError(f"{self.file.path}: metadata {self.architecture}.{key}: {why}")

    def _get(self, key: str, kind: type, default):
        full = f"{self.architecture}.{key}"
        if default is not _REQUIRED and full not in self.file.metadata:
            return default
        return self.file.get(full, kind)

    def integer(self, key: str, default=_REQUIRED) -> int:
        value = self._get(key, int, default)
        if not 0 <= value < 2**31:
            self.fail(key, f"{value} is out of range")
        return value

    def count(self, key: str, default=_REQUIRED, limit: int = 2**31) -> int:
        value = self.integer(key, default)
        if not 1 <= value < limit:
            self.fail(key, f"{value} is not a positive number below {limit}")
        return value

    def real(self, key: str, default=_REQUIRED) -> float:
        value = self._get(key, float, default)
        if not math.isfinite(value):
            self.fail(key, f"{value} is not a finite number")
        return value

    def text(self, key: str, default=_REQUIRED) -> str:
        return self._get(key, str, default)
