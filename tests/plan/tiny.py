"""Model files for plan tests, without a file: a directory of tensors, metadata, random weights."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from rocforge.errors import ModelError
from rocforge.gguf import formats
from rocforge.gguf.reader import Tensor


def metadata(architecture="llama", **changes):
    """Keys of a small model; a change to None removes the key."""
    keys = {
        "block_count": 2, "context_length": 128, "embedding_length": 64, "feed_forward_length": 96,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 32,
        "attention.value_length": 32, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e4,
        "vocab_size": 50,
    }  # fmt: skip
    keys |= {k.replace("__", "."): v for k, v in changes.items()}
    found = {f"{architecture}.{k}": v for k, v in keys.items() if v is not None}
    return {"general.architecture": architecture, **found}


def shapes(architecture="llama", tied=False, layers=2):
    """name -> shape of every tensor of that model."""
    d, q, kv, ff, vocab = 64, 4 * 32, 2 * 32, 96, 50
    found = {"token_embd.weight": (vocab, d), "output_norm.weight": (d,)}
    if not tied:
        found["output.weight"] = (vocab, d)
    for i in range(layers):
        block = {
            "attn_norm": (d,), "attn_q": (q, d), "attn_k": (kv, d), "attn_v": (kv, d), "attn_output": (d, q),
            "ffn_norm": (d,), "ffn_gate": (ff, d), "ffn_up": (ff, d), "ffn_down": (d, ff),
        }  # fmt: skip
        if architecture == "qwen3":
            block |= {"attn_q_norm": (32,), "attn_k_norm": (32,)}
        found |= {f"blk.{i}.{n}.weight": s for n, s in block.items()}
        if architecture == "qwen2":
            found |= {f"blk.{i}.attn_{n}.bias": (s,) for n, s in (("q", q), ("k", kv), ("v", kv))}
    return found


def model_file(architecture="llama", *, keys=None, tied=False, layers=2, formats_of=None, drop=(), extra=None):
    """What models.build_plan wants of a GGUFFile. Matrices are Q8_0 unless `formats_of(name)` says else."""
    data = metadata(architecture, block_count=layers) if keys is None else keys
    tensors = {}
    for name, shape in {**shapes(architecture, tied, layers), **(extra or {})}.items():
        if name not in drop:
            fmt = formats.F32 if len(shape) == 1 else (formats_of or (lambda _: formats.Q8_0))(name)
            tensors[name] = Tensor(name, shape, fmt, Path("tiny.gguf"), 0, 0)

    def get(key, kind, default=None):
        if key not in data:
            if default is not None:
                return default
            raise ModelError(f"tiny.gguf: metadata {key} is missing")
        return kind(data[key])

    return SimpleNamespace(path=Path("tiny.gguf"), metadata=data, tensors=tensors, get=get)


def random_weights(file, seed=0):
    """name -> float64 array of about unit gain; norms near one."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, tensor in file.tensors.items():
        scale = tensor.shape[-1] ** -0.5 if len(tensor.shape) == 2 else 0.1
        offset = 1.0 if "norm" in name else 0.0
        found[name] = offset + scale * rng.standard_normal(tensor.shape)
    return found
