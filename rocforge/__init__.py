"""RocForge: GGUF language models on AMD GPUs, with a CPU fallback that says why."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["LLM", "Chunk", "Completion", "RocForgeError", "Sampling"]

_HOMES = {
    "LLM": "rocforge.llm",
    "Chunk": "rocforge.llm",
    "Completion": "rocforge.engine.request",
    "Sampling": "rocforge.engine.request",
    "RocForgeError": "rocforge.errors",
}


def __getattr__(name: str) -> Any:
    # Imported on use: the command line answers --help without Numba.
    if name not in _HOMES:
        raise AttributeError(f"module 'rocforge' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
