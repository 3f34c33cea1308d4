"""What the runner asks of a room: memory, weights, launchers, and a step recorded as one program."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rocforge.cpu import threads
from rocforge.cpu.activation import swiglu
from rocforge.cpu.attention import attention
from rocforge.cpu.embed import embed
from rocforge.cpu.gather import gather
from rocforge.cpu.layout import Matrix, matrix
from rocforge.cpu.matmul import linear
from rocforge.cpu.norm import rms_norm
from rocforge.cpu.quantize import quantize
from rocforge.cpu.rope import rope_store, rope_table
from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8_SUM_BLOCK, Format

# By op kind of plan/ir.py; the keywords of each are its contract's names.
LAUNCHERS: dict[str, Callable[..., None]] = {
    "embed": embed,
    "rope_table": rope_table,
    "rms_norm": rms_norm,
    "quantize": quantize,
    "linear": linear,
    "rope_store": rope_store,
    "attention": attention,
    "swiglu": swiglu,
    "gather": gather,
}

_DTYPES = {"f32": np.float32, "f16": np.float16, "i32": np.int32}


class Backend:
    """The CPU: `n_threads` threads and the process's own memory."""

    def __init__(self, n_threads: int):
        self._team = threads.Team(n_threads)

    def matrix(self, data: np.ndarray, format: Format, shape: tuple[int, int]) -> Matrix:
        """A matrix of the file, where it is mapped."""
        return matrix(data, format, *shape)

    def constant(self, array: np.ndarray) -> np.ndarray:
        """A small array made at load (norm weights, biases, frequencies), in this device's memory."""
        return array

    def empty(self, n_bytes: int) -> np.ndarray:
        """uint8 [n_bytes] of any content, aligned to 64 bytes."""
        raw = np.empty(n_bytes + 64, np.uint8)
        start = -raw.__array_interface__["data"][0] % 64
        return raw[start : start + n_bytes]

    def view(self, buffer: np.ndarray, offset: int, shape: tuple[int, ...], dtype: str) -> Any:
        """An array of `shape` at `offset` bytes of the buffer; a Q8 where dtype is q8."""
        if dtype != "q8":
            return _view(buffer, offset, shape, _DTYPES[dtype])
        rows, columns = shape
        values = _view(buffer, offset, shape, np.int8)
        offset += values.nbytes
        scales = _view(buffer, offset, (rows, columns // Q8_BLOCK), np.float32)
        return Q8(values, scales, _view(buffer, offset + scales.nbytes, (rows, columns // Q8_SUM_BLOCK), np.int16))

    @contextlib.contextmanager
    def record(self) -> Iterator[threads.Program]:
        """Within it, launches are recorded into the program it gives."""
        with threads.record() as program:
            yield program

    def run(self, program: threads.Program) -> None:
        self._team.run(program)

    def close(self) -> None:
        self._team.close()


def _view(buffer: np.ndarray, offset: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return buffer[offset : offset + n_bytes].view(dtype).reshape(shape)
