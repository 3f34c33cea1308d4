"""The standard set: the ops of a Llama layer in each format, as a plan each. Reads no file."""

from types import SimpleNamespace

from rocforge.gguf.formats import F32, SUPPORTED, Format
from rocforge.models import llama
from rocforge.models.builder import Builder
from rocforge.models.config import ModelConfig
from rocforge.plan.fuse import fuse
from rocforge.plan.ir import Plan
from rocforge.plan.rope import Rope

# By kind of device: the layers of Llama 3.2 1B and Llama 3 8B, with fewer rows in the vocabulary's matrix.
SHAPES = {
    "cpu": {"d_model": 2048, "n_heads": 32, "n_kv_heads": 8, "head_dim": 64, "d_ff": 8192},
    "gpu": {"d_model": 4096, "n_heads": 32, "n_kv_heads": 8, "head_dim": 128, "d_ff": 14336},
}
VOCAB = 16384
NAME = "standard set"


def plans(kind: str, kv_format: str = "f16") -> list[Plan]:
    """A fused plan of one layer for each supported format, all matrices in that format."""
    return [plan_of(kind, format, kv_format) for format in SUPPORTED]


def plan_of(kind: str, format: Format, kv_format: str = "f16") -> Plan:
    """The fused plan of one layer with all matrices in `format`."""
    shape = SHAPES[kind]
    rope = Rope(dim=shape["head_dim"], theta=500_000.0, layout=llama.ROPE_LAYOUT)
    config = ModelConfig("llama", NAME, n_layers=1, vocab_size=VOCAB, context=1 << 17, eps=1e-5, rope=rope, **shape)
    d, ff, q, kv = config.d_model, config.d_ff, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    shapes = {
        "token_embd": (VOCAB, d), "output_norm": (d,), "output": (VOCAB, d), "blk.0.attn_norm": (d,), "blk.0.attn_q": (q, d),
        "blk.0.attn_k": (kv, d), "blk.0.attn_v": (kv, d), "blk.0.attn_output": (d, q), "blk.0.ffn_norm": (d,),
        "blk.0.ffn_gate": (ff, d), "blk.0.ffn_up": (ff, d), "blk.0.ffn_down": (d, ff),
    }  # fmt: skip
    tensors = {
        f"{name}.weight": SimpleNamespace(shape=shape, format=F32 if len(shape) == 1 else format) for name, shape in shapes.items()
    }
    return fuse(llama.build(Builder(config, tensors, NAME, kv_format), config))
