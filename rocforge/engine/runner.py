"""From a Batch to its logits: binds the plan to memory, records it as a program, replays it.

Knows no requests and no text. There is one program for each (T, R, P) of ir.py, recorded when first needed: P is the pages
that the longest sequence of a batch may have, so that a short one pays nothing for a long context.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from rocforge.engine.scheduler import Batch
from rocforge.gguf.formats import float_values
from rocforge.gguf.reader import GGUFFile
from rocforge.plan.allocate import Memory
from rocforge.plan.ir import PADDING, PAGE, Columns, Frequencies, Op, Plan, Value, Weight

# Programs kept: decode at a few batch sizes and the prefill chunks of recent prompts.
_PROGRAMS = 64

Progress = Callable[[str, int, int], None]


class Runner:
    """Runs a fused plan on a backend: `rocforge.cpu.backend.Backend` or its mirror in `rocforge.kernels`."""

    def __init__(self, plan: Plan, memory: Memory, file: GGUFFile, backend, launchers: dict[str, Callable]):
        self.plan, self.memory, self.backend, self._launchers = plan, memory, backend, launchers
        self._file = file
        self._matrices: dict[tuple[str, ...], tuple] = {}
        self._constants: dict[Any, Any] = {}
        for op in plan.ops:
            for operand in op.operands.values():
                if matrices := _matrices(operand):
                    self._bind_matrices(matrices)
        self._arena = backend.empty(memory.arena_bytes)
        self._cache = backend.empty(memory.kv_bytes)
        self._states, offset = {}, 0
        for state in plan.states:
            self._states[state] = backend.view(self._cache, offset, self._shape(state, memory.sizes), state.dtype)
            offset += state.n_bytes(memory.sizes)
        # The plan's inputs where the host writes them, flat, at their largest. The page table is the last.
        buffer = backend.inputs(self._arena, memory.inputs_bytes)
        self._inputs = {value.name: self._input(buffer, value) for value in plan.inputs}
        self._programs: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._logits: dict[tuple[int, int], Any] = {}
        self._page_counts = backend.page_counts(memory.sizes["P"])
        self._pages = memory.sizes["P"]  # of the last run

    def prepare(self, progress: Progress | None = None) -> None:
        """Record the programs of decode and of a full chunk, and compile what they and all between launch. Where that is known to
        be compiled, what lies between is recorded when it is needed."""
        most, rows, pages = (self.memory.sizes[name] for name in "TRP")
        sizes = [(1, 1, self._page_counts[0]), (most, rows, pages)]
        what = self.plan.ops, self.memory.sizes
        if not (is_kept := self.backend.is_kept(what)):
            tokens = [1, *(n for n in self.backend.prompts if n < most)]
            # Of one token or a few the keys are split, into as many parts as their pages have use for.
            few = [(n, 1, p) for n in tokens[:2] for p in self._page_counts]
            sizes = dict.fromkeys([*few, *((n, 1, pages) for n in tokens[2:]), *sizes])
        programs = [*(self.program(*size) for size in sizes), self.backend.sampling(self._logits_of(1, 1))]
        if not is_kept:
            kernels = list(dict.fromkeys(k for program in programs for k in program.kernels))
            self.backend.compile(kernels, lambda done, total: progress and progress("compile", done, total), what)

    def load(self, progress: Progress | None = None) -> None:
        """Bring the weights to where a step reads them, and touch all memory that it writes."""
        self.backend.clear(self._arena)
        self.backend.clear(self._cache)
        self.backend.load(lambda done, total: progress and progress("load", done, total))

    def run(self, batch: Batch) -> Any:
        """The logits of the batch's rows, float32 [R, V], in the backend's memory: a view that holds until
        the next run."""
        n_tokens, n_rows, sizes = len(batch.tokens), len(batch.rows), self.memory.sizes
        assert 1 <= n_tokens <= sizes["T"] and n_rows <= sizes["R"], (n_tokens, n_rows)
        T, R = self.backend.padded(n_tokens, n_rows, min(sizes["T"], sizes["R"]))
        self._pages = P = next(n for n in self._page_counts if n * PAGE >= batch.length)
        program, inputs = self.program(T, R, P), self._inputs
        self.backend.ready()
        inputs["tokens"][:n_tokens] = batch.tokens
        inputs["positions"][:n_tokens] = batch.positions
        inputs["positions"][n_tokens:T] = PADDING
        inputs["sequences"][:n_tokens] = batch.sequences
        inputs["rows"][:n_rows] = batch.rows
        table = batch.page_table[:, :P]
        inputs["page_table"][: table.size].reshape(-1, P)[:] = table
        self.backend.run(program)
        return self._logits_of(T, R)[:n_rows]

    def profile(self, n_tokens: int) -> Callable[[], np.ndarray]:
        """-> run(): seconds, float64, of each op of a step of n_tokens with one row of logits, over the inputs of the last run.

        Each op by itself, also where a step launches two together.
        """
        sizes = self._sizes(n_tokens, 1, self._pages)
        return self.backend.profile([partial(self._launch, op, sizes) for op in self._ops(1)])

    def synchronize(self) -> None:
        """Returns when all that was run is done."""
        self.backend.synchronize()

    def close(self) -> None:
        """Give back memory and threads. A closed runner runs nothing."""
        self._programs.clear()
        self._inputs, self._logits = {}, {}
        self._matrices = self._states = self._arena = self._cache = self._constants = None
        self.backend.close()

    # ---- binding

    def _sizes(self, n_tokens: int, n_rows: int, n_pages: int | None = None) -> dict[str, int]:
        return {**self.memory.sizes, "T": n_tokens, "R": n_rows, "P": n_pages or self.memory.sizes["P"]}

    def _view(self, value: Value, sizes) -> Any:
        return self.backend.view(self._arena, self.memory.offsets[value.name], self._shape(value, sizes), value.dtype)

    def _input(self, buffer: np.ndarray, value: Value) -> np.ndarray:
        start = self.memory.offsets[value.name]
        return buffer[start : start + value.n_bytes(self.memory.sizes)].view(np.int32)

    def _logits_of(self, n_tokens: int, n_rows: int) -> Any:
        if (n_tokens, n_rows) not in self._logits:
            self._logits[n_tokens, n_rows] = self._view(self.plan.output, self._sizes(n_tokens, n_rows))
        return self._logits[n_tokens, n_rows]

    @staticmethod
    def _shape(value: Value, sizes) -> tuple[int, ...]:
        return tuple(sizes[a] if isinstance(a, str) else a for a in value.shape)

    def program(self, n_tokens: int, n_rows: int, n_pages: int | None = None) -> Any:
        """The step of so many tokens, rows of logits and pages of a sequence (None: as many as there are), recorded and
        not run."""
        key = (n_tokens, n_rows, n_pages or self.memory.sizes["P"])
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        sizes = self._sizes(*key)
        # Of the page table, which ends the inputs, only the pages that this step may see.
        table = self.plan.inputs[-1]
        with self.backend.record(self.memory.offsets[table.name] + table.n_bytes(sizes)) as program:
            for _ in self.launch_each(n_tokens, n_rows, n_pages):
                pass
        self._programs[key] = program
        if len(self._programs) > _PROGRAMS:
            self._programs.popitem(last=False)
        return program

    def launch_each(self, n_tokens: int, n_rows: int, n_pages: int | None = None) -> Iterator[list[Op]]:
        """Launch the ops of such a step; gives those that were launched together, each time."""
        sizes, ops = self._sizes(n_tokens, n_rows, n_pages), self._ops(n_rows)
        for n in self.backend.launch_each([(op.kind, self._arguments(op, sizes)) for op in ops]):
            yield ops[:n]
            ops = ops[n:]

    def _ops(self, n_rows: int) -> list[Op]:
        """Of a step: one that only fills the cache has no row to make logits of."""
        return [op for op in self.plan.ops if n_rows or "R" not in op.writes[0].shape]

    def _launch(self, op: Op, sizes) -> None:
        self._launchers[op.kind](**self._arguments(op, sizes))

    def _arguments(self, op: Op, sizes) -> dict[str, Any]:
        return {**{name: self._bind(operand, sizes) for name, operand in op.operands.items()}, **op.attrs}

    def _bind(self, operand, sizes) -> Any:
        if operand is None:
            return None
        if isinstance(operand, Value):
            return self._states[operand] if operand in self._states else self._view(operand, sizes)
        if isinstance(operand, Columns):
            return self._view(operand.value, sizes)[:, operand.start : operand.stop]
        if matrices := _matrices(operand):
            bound = self._bind_matrices(matrices)
            return bound if isinstance(operand, tuple) else bound[0]
        if isinstance(operand, Weight):
            return self._constant(operand, lambda: self._floats(operand))
        if isinstance(operand, Frequencies):
            return self._constant(operand, lambda: operand.rope.inv_freq(self._factors(operand)))
        assert isinstance(operand, tuple), operand
        return self._constant(operand, lambda: self._joined(operand))

    def _constant(self, key, make) -> Any:
        if key not in self._constants:
            self._constants[key] = self.backend.constant(make())
        return self._constants[key]

    def _factors(self, operand: Frequencies) -> np.ndarray | None:
        return None if operand.factors is None else self._floats(operand.factors)

    def _joined(self, biases: tuple[Weight | int, ...]) -> np.ndarray:
        """Biases one behind the other; a number stands for that many zeros."""
        return np.concatenate([np.zeros(b, np.float32) if isinstance(b, int) else self._floats(b) for b in biases])

    def _floats(self, weight: Weight) -> np.ndarray:
        return float_values(self._file.data(weight.name), weight.format)

    def _bind_matrices(self, weights: tuple[Weight, ...]) -> tuple:
        key = tuple(w.name for w in weights)
        if key not in self._matrices:
            sources = [(self._file.data(w.name), w.format, w.shape) for w in weights]
            self._matrices[key] = self.backend.matrices(sources)
        return self._matrices[key]


def _matrices(operand: Any) -> tuple[Weight, ...]:
    """The matrices that an operand is: one, several one below the other, or none."""
    several = operand if isinstance(operand, tuple) else (operand,)
    return several if all(isinstance(w, Weight) and len(w.shape) == 2 for w in several) else ()
