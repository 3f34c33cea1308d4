"""From a model file to its plan: the table of families. A family is a file here and a line in FAMILIES."""

from collections.abc import Callable
from typing import NamedTuple

from rocforge.errors import ModelError
from rocforge.gguf.reader import GGUFFile
from rocforge.models import llama, qwen
from rocforge.models.config import ModelConfig, read_config
from rocforge.models.builder import Builder
from rocforge.plan.ir import Plan


class Family(NamedTuple):
    build: Callable[[Builder, ModelConfig], Plan]
    rope_layout: str


# By GGUF's general.architecture. Mistral and Yi files say "llama".
FAMILIES = {
    "llama": Family(llama.build, llama.ROPE_LAYOUT),
    "qwen2": Family(qwen.build_qwen2, qwen.ROPE_LAYOUT),
    "qwen3": Family(qwen.build_qwen3, qwen.ROPE_LAYOUT),
}


def build_plan(file: GGUFFile, kv_format: str = "f16") -> tuple[ModelConfig, Plan]:
    """The config and the unfused plan of a model file; the KV cache holds `kv_format` (f16 or f32).

    Raises ModelError for an architecture that is not supported, metadata that is missing or out of
    range, and tensors that are missing, superfluous, misshapen or in a format without kernels.
    """
    architecture = file.get("general.architecture", str)
    family = FAMILIES.get(architecture)
    if family is None:
        raise ModelError(
            f"{file.path}: architecture {architecture!r} is not supported; supported are {', '.join(sorted(FAMILIES))}"
        )
    config = read_config(file, family.rope_layout)
    return config, family.build(Builder(config, file.tensors, file.path, kv_format), config)
