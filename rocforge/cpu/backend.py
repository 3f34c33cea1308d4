"""What the runner asks of a room: memory, weights, launchers, and a step recorded as one program."""

import contextlib
import logging
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rocforge.cpu import compiling, pages, threads, tuning
from rocforge.cpu.activation import swiglu
from rocforge.cpu.attention import attention
from rocforge.cpu.clock import stamp
from rocforge.cpu.embed import embed
from rocforge.cpu.gather import gather
from rocforge.cpu.layout import Matrix, matrix
from rocforge.cpu.matmul import linear
from rocforge.cpu.norm import rms_norm
from rocforge.cpu.quantize import quantize
from rocforge.cpu.rope import rope_store, rope_table
from rocforge.cpu.sample import penalize, sample
from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8_SUM_BLOCK, Format, Q8Cache
from rocforge.probe import book

log = logging.getLogger(__name__)

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

# Bytes between two reports of progress while the file is read; while it is copied, what memory holds twice.
_PIECE_BYTES = 16 << 20
# Of copied weights, the share that the system puts into huge pages at the least, or it is told of.
_MOSTLY = 0.9
# Times that the clock is read before a profile's first launch: in the first of them threads still wake.
_CLOCKS = 17


class Backend:
    """The CPU: `n_threads` threads and the process's own memory. With `huge_pages` weights are copied into such.

    `team` runs the programs; another may take its place between two of them.
    """

    # Sizes of prompts that launch kernels which neither one token nor a full chunk does.
    prompts: tuple[int, ...] = ()

    def __init__(self, n_threads: int, huge_pages: bool = False):
        self.team, self._pool = threads.Team(n_threads), threads.Pool()
        self._pages = pages.Pages() if huge_pages else None
        # By the address of a tensor's bytes in the file: these, and where a step reads them.
        self._pending: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    # ---- weights

    def matrices(self, sources: Sequence[tuple[np.ndarray, Format, tuple[int, int]]]) -> tuple[Matrix, ...]:
        """Matrices one below the other, of the file's (data, format, shape): where it is mapped, or copies that `load` fills."""
        return tuple(matrix(self._home(data.reshape(-1)), format, *shape) for data, format, shape in sources)

    def _home(self, data: np.ndarray) -> np.ndarray:
        """Where a step reads these bytes of the file."""
        address = data.__array_interface__["data"][0]
        if address not in self._pending:
            self._pending[address] = data, data if self._pages is None else self._pages.take(len(data))
        return self._pending[address][1]

    def load(self, report: Callable[[int, int], None]) -> None:
        """Touch every page of all matrices, so that no step waits for one, or copy them; report(bytes done, bytes in all)."""
        total, done = sum(len(data) for data, _ in self._pending.values()), 0
        for data, home in self._pending.values():
            for start in range(0, len(data), _PIECE_BYTES):
                part = data[start : start + _PIECE_BYTES]
                if home is data:
                    part[:: mmap.PAGESIZE].max()
                else:
                    home[start : start + _PIECE_BYTES] = part
                    pages.drop(part)
                done += len(part)
                report(done, total)
        if self._pages is not None and (huge := pages.huge_bytes(home for _, home in self._pending.values())) < _MOSTLY * total:
            log.warning("of %d MiB of weights the system has put %d MiB into huge pages", total >> 20, huge >> 20)
        self._pending.clear()

    def constant(self, array: np.ndarray) -> np.ndarray:
        """A small array made at load (norm weights, biases, frequencies), in this device's memory."""
        return array

    # ---- memory

    def empty(self, n_bytes: int) -> np.ndarray:
        """uint8 [n_bytes] of any content, aligned to 64 bytes."""
        return threads.aligned(n_bytes)

    def clear(self, buffer: np.ndarray) -> None:
        buffer.fill(0)

    def view(self, buffer: np.ndarray, offset: int, shape: tuple[int, ...], dtype: str) -> Any:
        """An array of `shape` at `offset` bytes of the buffer; a Q8 or Q8Cache where dtype is q8 or q8_0."""
        if dtype == "q8":
            rows, columns = shape
            values = _view(buffer, offset, shape, np.int8)
            offset += values.nbytes
            scales = _view(buffer, offset, (rows, columns // Q8_BLOCK), np.float32)
            return Q8(values, scales, _view(buffer, offset + scales.nbytes, (rows, columns // Q8_SUM_BLOCK), np.int16))
        if dtype == "q8_0":
            values = _view(buffer, offset, shape, np.int8)
            blocks = (*shape[:-1], shape[-1] // Q8_BLOCK)
            return Q8Cache(values, _view(buffer, offset + values.nbytes, blocks, np.float16))
        return _view(buffer, offset, shape, _DTYPES[dtype])

    def inputs(self, arena: np.ndarray, n_bytes: int) -> np.ndarray:
        """uint8 [n_bytes] that a step reads its inputs from: here the arena's own beginning."""
        return arena[:n_bytes]

    def ready(self) -> None:
        """Nothing to wait for: `run` returns when a step has read its inputs."""

    def to_host(self, array: np.ndarray) -> np.ndarray:
        """The array, which is in the host's memory; it holds until the next step."""
        return array

    # ---- steps

    def padded(self, n_tokens: int, n_rows: int, max_tokens: int) -> tuple[int, int]:
        """The (T, R) to run a step as: here the step's own."""
        return n_tokens, n_rows

    def page_counts(self, most: int) -> tuple[int, ...]:
        """The pages that steps see of a sequence, ascending up to `most`: here always as many."""
        return (most,)

    @contextlib.contextmanager
    def record(self, n_bytes: int = 0) -> Iterator[threads.Program]:
        """Within it, launches are recorded into the program it gives, blocked as the caller's book says, or this user's.

        The inputs are where the step reads them: n_bytes, of a device that copies them, does not matter here.
        """
        with book.use(book.current() or tuning.own_book()), threads.record(self._pool) as program:
            yield program

    def launch_each(self, ops: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[int]:
        """Ops one after the other, (kind, its launcher's keywords) each. Gives how many were launched each time: one."""
        for kind, given in ops:
            LAUNCHERS[kind](**given)
            yield 1

    def is_kept(self, what: Any) -> bool:
        """Whether no kernels of this need be compiled before the first launch: here they are loaded before it, at the least."""
        return False

    def compile(
        self, kernels: Iterable[threads.Kernel], report: Callable[[int, int], None] | None = None, what: Any = None
    ) -> None:
        """Now, rather than with their first launch; report(done, total)."""
        compiling.compile_all(kernels, self.team.n, report)

    def run(self, program: threads.Program) -> None:
        """Run it to its end."""
        self.team.run(program)

    def profile(self, launches: Sequence[Callable[[], None]]) -> Callable[[], np.ndarray]:
        """-> run(): all `launches`, one behind the other in one program, and the seconds that each took, float64.

        Each call of `launches` makes what one op launches. The clock is read between them by a launch of its
        own, whose time is read from launches of nothing else and taken off.
        """
        moments = np.zeros((len(launches) + _CLOCKS, 2), np.int64)
        with self.record() as program:
            for moment in moments[:_CLOCKS]:
                stamp(moment)
            for make, moment in zip(launches, moments[_CLOCKS:], strict=True):
                make()
                stamp(moment)

        def run() -> np.ndarray:
            self.run(program)
            times_s = np.diff(moments @ (1_000_000_000, 1)) * 1e-9
            clock_s = np.median(times_s[: _CLOCKS - 1])
            return np.maximum(times_s[_CLOCKS - 1 :] - clock_s, 0.0)

        return run

    def penalize(self, logits: np.ndarray, *parameters: Any) -> None:
        """See cpu/sample.py."""
        penalize(logits, *parameters)

    def sample(self, logits: np.ndarray, *parameters: np.ndarray) -> list[int]:
        """One id for each row: see cpu/sample.py."""
        out = np.empty(len(logits), np.int32)
        sample(logits, *parameters, out)
        return out.tolist()

    def sampling(self, logits: np.ndarray) -> threads.Program:
        """What `sample` runs for these logits, recorded."""
        zero = np.zeros(len(logits))
        with self.record() as program:
            self.sample(logits, zero, zero, zero, zero, zero)
        return program

    def synchronize(self) -> None:
        """Nothing to wait for: `run` returns when it is done."""

    def close(self) -> None:
        """End the threads, and let go of memory, once the runner has let go of its own."""
        self.team.close()
        self._pages = None
        self._pending.clear()


def _view(buffer: np.ndarray, offset: int, shape: tuple[int, ...], dtype) -> np.ndarray:
    n_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return buffer[offset : offset + n_bytes].view(dtype).reshape(shape)
