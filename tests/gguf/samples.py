"""GGUF files for tests: by hand, byte by byte, or whole ones by gguf's own writer."""

import struct
from pathlib import Path

import gguf
import numpy as np
from gguf import GGUFValueType as Type

ARRAYS = {
    Type.UINT8: [0, 1, 255], Type.INT8: [-128, 0, 127], Type.UINT16: [0, 65_535], Type.INT16: [-32_768, 32_767],
    Type.UINT32: [0, 2**32 - 1], Type.INT32: [-(2**31), 2**31 - 1], Type.UINT64: [0, 2**64 - 1],
    Type.INT64: [-(2**63), 2**63 - 1], Type.FLOAT32: [0.0, -1.5, 2.0**100], Type.FLOAT64: [0.1, -1e300],
    Type.BOOL: [True, False, True],
}  # fmt: skip
TEXTS = ["", "a", "Ġthe", "naïve", "日本語", "🜚", "x" * 300, "\n\x00\t"]
VOCABULARY = [f"<{i}>" if i < 3 else f"▁w{i}" for i in range(60)]
MERGES = [f"a{i} b{i}" for i in range(40)]


def tensors() -> dict[str, tuple[np.ndarray, gguf.GGMLQuantizationType | None]]:
    """Arrays, or bytes in rows of blocks with their type: a vector, matrices, three axes of experts."""
    rng = np.random.default_rng(5)
    quantised = gguf.GGMLQuantizationType
    return {
        "token_embd.weight": (rng.standard_normal((60, 32)).astype(np.float16), None),
        "blk.0.attn_norm.weight": (rng.standard_normal(7).astype(np.float32), None),
        "blk.0.attn_q.weight": (rng.integers(0, 256, (5, 2 * 34), np.uint8), quantised.Q8_0),
        "blk.0.ffn_gate_exps.weight": (rng.integers(0, 256, (3, 2, 144), np.uint8), quantised.Q4_K),
        "blk.0.ffn_up.weight": (rng.integers(0, 256, (2, 66), np.uint8), quantised.IQ2_XXS),
    }


def write_sample(path: Path, alignment: int | None = None, split_max_tensors: int = 0) -> list[Path]:
    """A file with metadata of every type, a small vocabulary and some tensors; the paths of its parts."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    if alignment:
        writer.add_custom_alignment(alignment)
    for kind, values in ARRAYS.items():
        writer.add_key_value(f"one.{kind.name}", values[-1], kind)
        writer.add_key_value(f"many.{kind.name}", values, Type.ARRAY, kind)
    writer.add_key_value("one.STRING", "naïve", Type.STRING)
    writer.add_array("many.STRING", TEXTS)
    writer.add_array("nested", [[[1, 2], [3]], [["a", "é"]]])
    writer.add_array("tokenizer.ggml.tokens", VOCABULARY)
    writer.add_array("tokenizer.ggml.merges", MERGES)
    for name, (data, raw_dtype) in tensors().items():
        writer.add_tensor(name, data, raw_dtype=raw_dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}*.gguf"))


# ---- by hand


def u32(n: int) -> bytes:
    return struct.pack("<I", n)


def u64(n: int) -> bytes:
    return struct.pack("<Q", n)


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return u64(len(raw)) + raw


def pair(key: str | bytes, kind: Type, value: bytes) -> bytes:
    return string(key) + u32(kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    return u32(kind) + u64(count) + values


def entry(name: str | bytes, dims: tuple[int, ...] = (32,), type_id: int = 0, offset: int = 0) -> bytes:
    """A tensor's line in the directory; `dims` innermost first, as in the file."""
    return string(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(type_id) + u64(offset)


def header(pairs: list[bytes] = (), entries: list[bytes] = (), version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(len(entries)) + u64(len(pairs)) + b"".join(pairs) + b"".join(entries)


def with_data(head: bytes, n_bytes: int, alignment: int = 32) -> bytes:
    return head + bytes(-len(head) % alignment) + (bytes(range(256)) * (n_bytes // 256 + 1))[:n_bytes]
