"""From a Batch to its logits: binds the plan to memory, records it as a program, replays it.

Knows no requests and no text. There is one program for each (T, R), recorded when first needed.
"""

import mmap
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from rocforge.engine.scheduler import Batch
from rocforge.gguf.formats import float_values
from rocforge.gguf.reader import GGUFFile
from rocforge.plan.allocate import Memory
from rocforge.plan.ir import Columns, Frequencies, Op, Plan, Value, Weight

# Programs kept: decode at a few batch sizes and the prefill chunks of recent prompts.
_PROGRAMS = 64
# Bytes between two reports of progress while the file is read.
_PAGE_IN_BYTES = 64 << 20

Progress = Callable[[str, int, int], None]


class Runner:
    """Runs a fused plan on a backend (`rocforge.cpu.backend.Backend` or its GPU mirror)."""

    def __init__(self, plan: Plan, memory: Memory, file: GGUFFile, backend, launchers: dict[str, Callable]):
        self.plan, self.memory, self._backend, self._launchers = plan, memory, backend, launchers
        self._file = file
        self._weights = {w.name: self._load(w) for w in plan.weights}
        self._constants: dict[Any, Any] = {}
        self._programs: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._arena = backend.empty(memory.arena_bytes)
        self._cache = backend.empty(memory.kv_bytes)
        self._states, offset = {}, 0
        for state in plan.states:
            self._states[state] = backend.view(self._cache, offset, self._shape(state, memory.sizes), state.dtype)
            offset += state.n_bytes(memory.sizes)
        self._inputs = {v.name: self._view(v, memory.sizes) for v in plan.inputs}

    def prepare(self, progress: Progress | None = None) -> None:
        """Record the programs of decode and of a full chunk, and compile what they launch."""
        largest = self.memory.sizes["T"], self.memory.sizes["R"]
        kernels = list(dict.fromkeys(k for key in {(1, 1), largest} for k in self._program(*key).kernels))
        missing = [k for k in kernels if not k.is_compiled]
        for done, kernel in enumerate(missing):
            if progress:
                progress("compile", done, len(missing))
            kernel.compile()
        if progress and missing:
            progress("compile", len(missing), len(missing))

    def page_in(self, progress: Progress | None = None) -> None:
        """Touch every page of memory that a step will use: no step waits for one or finds none left."""
        self._arena.fill(0)
        self._cache.fill(0)
        total, done = sum(w.n_bytes for w in self.plan.weights), 0
        for weight in self.plan.weights:
            flat = self._file.data(weight.name).reshape(-1)
            for start in range(0, len(flat), _PAGE_IN_BYTES):
                if progress:
                    progress("load", done, total)
                part = flat[start : start + _PAGE_IN_BYTES]
                part[:: mmap.PAGESIZE].max()
                done += len(part)
        if progress:
            progress("load", total, total)

    def run(self, batch: Batch) -> np.ndarray:
        """float32 [R, V]: the logits of the batch's rows; a view that holds until the next run."""
        n_tokens, n_rows = len(batch.tokens), len(batch.rows)
        assert 1 <= n_tokens <= self.memory.sizes["T"] and n_rows <= self.memory.sizes["R"], (n_tokens, n_rows)
        for name in ("tokens", "positions", "sequences"):
            self._inputs[name][:n_tokens] = getattr(batch, name)
        self._inputs["rows"][:n_rows] = batch.rows
        self._inputs["page_table"][: len(batch.page_table)] = batch.page_table
        self._backend.run(self._program(n_tokens, n_rows))
        return self._view(self.plan.output, self._sizes(n_tokens, n_rows))

    def close(self) -> None:
        """Give back memory and threads. A closed runner runs nothing."""
        self._programs.clear()
        self._weights = self._states = self._inputs = self._arena = self._cache = self._constants = None
        self._backend.close()

    # ---- binding

    def _sizes(self, n_tokens: int, n_rows: int) -> dict[str, int]:
        return {**self.memory.sizes, "T": n_tokens, "R": n_rows}

    def _view(self, value: Value, sizes) -> Any:
        return self._backend.view(self._arena, self.memory.offsets[value.name], self._shape(value, sizes), value.dtype)

    @staticmethod
    def _shape(value: Value, sizes) -> tuple[int, ...]:
        return tuple(sizes[a] if isinstance(a, str) else a for a in value.shape)

    def _program(self, n_tokens: int, n_rows: int) -> Any:
        key = (n_tokens, n_rows)
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        sizes = self._sizes(n_tokens, n_rows)
        with self._backend.record() as program:
            for op in self.plan.ops:
                # A step that only fills the cache has no row to make logits of.
                if n_rows or "R" not in op.writes[0].shape:
                    self._launch(op, sizes)
        self._programs[key] = program
        if len(self._programs) > _PROGRAMS:
            self._programs.popitem(last=False)
        return program

    def _launch(self, op: Op, sizes) -> None:
        operands = {name: self._bind(operand, sizes) for name, operand in op.operands.items()}
        self._launchers[op.kind](**operands, **op.attrs)

    def _bind(self, operand, sizes) -> Any:
        if operand is None:
            return None
        if isinstance(operand, Value):
            return self._states[operand] if operand in self._states else self._view(operand, sizes)
        if isinstance(operand, Columns):
            return self._view(operand.value, sizes)[:, operand.start : operand.stop]
        if isinstance(operand, Weight):
            return self._weights[operand.name]
        if isinstance(operand, Frequencies):
            return self._constant(operand, lambda: operand.rope.inv_freq(self._factors(operand)))
        assert isinstance(operand, tuple), operand
        if isinstance(operand[0], Weight) and len(operand[0].shape) == 2:
            return tuple(self._weights[w.name] for w in operand)
        return self._constant(operand, lambda: self._joined(operand))

    def _constant(self, key, make) -> Any:
        if key not in self._constants:
            self._constants[key] = self._backend.constant(make())
        return self._constants[key]

    def _factors(self, operand: Frequencies) -> np.ndarray | None:
        return None if operand.factors is None else self._floats(operand.factors)

    def _joined(self, biases: tuple[Weight | int, ...]) -> np.ndarray:
        """Biases one behind the other; a number stands for that many zeros."""
        return np.concatenate([np.zeros(b, np.float32) if isinstance(b, int) else self._floats(b) for b in biases])

    def _floats(self, weight: Weight) -> np.ndarray:
        return float_values(self._file.data(weight.name), weight.format)

    def _load(self, weight: Weight) -> Any:
        if len(weight.shape) == 1:
            return self._backend.constant(self._floats(weight))
        return self._backend.matrix(self._file.data(weight.name), weight.format, weight.shape)
