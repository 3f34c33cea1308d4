"""What the runner asks of a room: memory, weights, launchers, and a step recorded as one program. Mirrors cpu/backend.py."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from rocforge.errors import CapacityError
from rocforge.gguf.formats import Q8, Q8_BLOCK, Q8_SUM_BLOCK, Format, Q8Cache
from rocforge.kernels import durations, gemm, gemv, kept, launch, layout, target, tuning
from rocforge.kernels.activation import swiglu
from rocforge.kernels.attention import attention
from rocforge.kernels.chain import Bound, launch_each
from rocforge.kernels.early import EARLY_TOKENS
from rocforge.kernels.embed import embed
from rocforge.kernels.gather import gather
from rocforge.kernels.matmul import linear
from rocforge.kernels.norm import rms_norm
from rocforge.kernels.quantize import quantize
from rocforge.kernels.rope import rope_store, rope_table
from rocforge.kernels.sample import penalize, sample
from rocforge.kernels.upload import Pinned, Source, upload
from rocforge.probe import book

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

_DTYPES = {"f32": torch.float32, "f16": torch.float16, "i32": torch.int32}

# Sizes that a step of decoding is filled up to: one recorded graph serves all batches between two of them.
BUCKETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Pages of a sequence, likewise: from the first on by this factor.
FIRST_PAGES, MORE_PAGES = 8, 4


def weights_bytes(weights: Iterable[Any]) -> int:
    """Device memory that tensors (`plan.ir.Weight`) take: matrices in their planes, vectors as float32."""
    return sum(layout.n_bytes(w.format, *w.shape) if len(w.shape) == 2 else 4 * w.shape[0] for w in weights)


def scratch_bytes(weights: Iterable[Any], tokens: int) -> int:
    """Device memory that a step of `tokens` tokens takes beside the plan's values.

    A matrix that only a few rows of x are multiplied by (the output's) is counted along.
    """
    matrices = [tuple(w.shape) for w in weights if len(w.shape) == 2 and not w.format.is_float]
    return gemm.scratch_bytes(tokens, matrices)


class Draw(NamedTuple):
    """Drawing an id for each of R rows: parameters float64 [5, R] in the order of `sample`, and ids int32 [R], of the host."""

    program: launch.Program
    parameters: np.ndarray
    ids: np.ndarray


class Backend:
    """One GPU: its memory, and its current stream. `device` is torch's name or number for it."""

    @property
    def prompts(self) -> tuple[int, ...]:
        """Sizes of prompts that launch kernels which neither one token nor a full chunk does."""
        with self._chosen():
            return gemv.most_tokens(), *gemm.sizes()

    def __init__(self, device: "str | int"):
        self._device = torch.device(device)
        self._pool = launch.Pool()
        self._pending: list[Source] = []
        self._buffers: Pinned | None = None  # what they pass through
        self._mirror: torch.Tensor | None = None
        self._is_busy = False  # since the last run nobody has waited
        self._draws: dict[tuple[int, int], Draw] = {}

    def _chosen(self) -> contextlib.AbstractContextManager:
        """Within it this device is the current one, which is a matter of each thread."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()

    # ---- weights

    def matrices(self, sources: Sequence[tuple[np.ndarray, Format, tuple[int, int]]]) -> tuple[layout.Matrix, ...]:
        """Matrices one below the other, of the file's (data, format, shape); `load` fills them.

        Neighbours of one format become one matrix: one launch multiplies by all of them.
        """
        runs: list[list[tuple[np.ndarray, Format, tuple[int, int]]]] = []
        for source in sources:
            if not runs or runs[-1][0][1] is not source[1]:
                runs.append([])
            runs[-1].append(source)
        if self._buffers is None and self._device.type == "cuda":
            self._buffers = Pinned(self._device)
        made = []
        for run in runs:
            _, format, (_, columns) = run[0]
            with _no_room():
                matrix = layout.empty(format, sum(rows for _, _, (rows, _) in run), columns, self._device)
            first = 0
            for data, _, (rows, _) in run:
                self._pending.append((matrix, first, data.reshape(rows, format.row_bytes(columns))))
                first += rows
            made.append(matrix)
        return tuple(made)

    def load(self, report: Callable[[int, int], None]) -> None:
        """Copy the file's blocks into all matrices; report(bytes done, bytes in all)."""
        total, done = sum(data.nbytes for _, _, data in self._pending), 0

        def add(n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            report(done, total)

        with self._chosen(), _no_room():
            upload(self._pending, self._device, add, self._buffers)
        self._pending.clear()
        self._buffers = None
        self.synchronize()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # what pieces took on their way
            launch.hashing().join()  # or the first launch would do it once more

    def constant(self, array: np.ndarray) -> torch.Tensor:
        """A small array made at load (norm weights, biases, frequencies), in this device's memory."""
        return torch.from_numpy(np.array(array)).to(self._device)

    # ---- memory

    def empty(self, n_bytes: int) -> torch.Tensor:
        """uint8 [n_bytes] of any content, aligned to 64 bytes."""
        with _no_room():
            return torch.empty(n_bytes, dtype=torch.uint8, device=self._device)

    def clear(self, buffer: torch.Tensor) -> None:
        buffer.zero_()

    def view(self, buffer: torch.Tensor, offset: int, shape: tuple[int, ...], dtype: str) -> Any:
        """An array of `shape` at `offset` bytes of the buffer; a Q8 or Q8Cache where dtype is q8 or q8_0."""
        if dtype == "q8":
            rows, columns = shape
            values = _view(buffer, offset, shape, torch.int8)
            offset += values.nbytes
            scales = _view(buffer, offset, (rows, columns // Q8_BLOCK), torch.float32)
            return Q8(values, scales, _view(buffer, offset + scales.nbytes, (rows, columns // Q8_SUM_BLOCK), torch.int16))
        if dtype == "q8_0":
            values = _view(buffer, offset, shape, torch.int8)
            blocks = (*shape[:-1], shape[-1] // Q8_BLOCK)
            return Q8Cache(values, _view(buffer, offset + values.nbytes, blocks, torch.float16))
        return _view(buffer, offset, shape, _DTYPES[dtype])

    def inputs(self, arena: torch.Tensor, n_bytes: int) -> np.ndarray:
        """uint8 [n_bytes] of the host, of which each step copies what it was recorded with to the arena's beginning first.

        They may be changed when `ready` has returned.
        """
        self._mirror, self._arena = self._pinned((n_bytes,), torch.uint8), arena[:n_bytes]
        return self._mirror.numpy()

    def ready(self) -> None:
        """Returns when no step is going to read the inputs any more."""
        if self._is_busy:
            self.synchronize()

    def _pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Zeros in the host's memory, where a GPU reads and writes by itself."""
        with self._chosen():
            return torch.zeros(shape, dtype=dtype, pin_memory=self._device.type == "cuda")

    def to_host(self, array: torch.Tensor) -> np.ndarray:
        """A copy in the host's memory, once all that was launched is done."""
        made = array.cpu().numpy()
        self._is_busy = False
        return made

    # ---- steps

    def padded(self, n_tokens: int, n_rows: int, max_tokens: int) -> tuple[int, int]:
        """The (T, R) to run a step as: one of decoding is filled up with padding to the next bucket."""
        if n_tokens != n_rows:
            return n_tokens, n_rows
        size = next((b for b in BUCKETS if b >= n_tokens), n_tokens)
        return (size, size) if size <= max_tokens else (n_tokens, n_rows)

    def page_counts(self, most: int) -> tuple[int, ...]:
        """The pages that steps see of a sequence, ascending up to `most`: attention splits the keys of a long one more."""
        counts = [FIRST_PAGES]
        while counts[-1] < most:
            counts.append(MORE_PAGES * counts[-1])
        return (*counts[:-1], most)

    @contextlib.contextmanager
    def record(self, n_bytes: int = 0) -> Iterator[launch.Program]:
        """Within it, launches are recorded into the program it gives, with the tiles that the tuning databases know.

        The program begins by copying the first n_bytes of the inputs.
        """
        with self._chosen(), _no_room(), book.use(self._book()), launch.record(self._pool) as program:
            if n_bytes:
                program.before.append(launch.Copy(self._arena[:n_bytes], self._mirror[:n_bytes]))
            yield program

    def launch_each(self, ops: Sequence[Bound]) -> Iterator[int]:
        """Ops one after the other, (kind, its launcher's keywords) each: with fewer launches where one can do several's work.
        Gives how many ops were launched each time."""
        if (program := launch.recording()) and ops:
            program.begins_early = len(ops[0][1]["out"]) <= EARLY_TOKENS
        return launch_each(LAUNCHERS, ops)

    def _book(self) -> "book.Book | book.Tried | None":
        """What the caller looks up in, if it said so; else a GPU's databases. Elsewhere nothing is tuned."""
        if (given := book.current()) is not None or self._device.type != "cuda":
            return given
        return tuning.book_for(target.current())

    def _keeps(self) -> bool:
        """Whether kernels are what the databases make of them, in Triton's cache."""
        return self._device.type == "cuda" and book.current() is None

    def is_kept(self, what: Any) -> bool:
        """Whether `compile` has left all kernels of this in a cache, and so none need be compiled before its first launch."""
        with self._chosen():
            return self._keeps() and kept.is_kept(what)

    def compile(
        self, kernels: Iterable[launch.Kernel], report: Callable[[int, int], None] | None = None, what: Any = None
    ) -> None:
        """Now, rather than with their first launch; report(done, total). They are all that `what` launches, if it is given."""
        kernels = list(kernels)
        launch.compile_all(kernels, report)
        hashes = [kernel.hash for kernel in kernels]
        if what is not None and None not in hashes and self._keeps():
            with self._chosen():
                kept.keep(what, hashes)

    def run(self, program: launch.Program) -> None:
        """Launch it; nothing is waited for."""
        self._is_busy = True
        with self._chosen():
            program.run()

    def profile(self, launches: Sequence[Callable[[], None]]) -> Callable[[], np.ndarray]:
        """-> run(): all `launches`, one behind the other in one graph, and the seconds that each took, float64.

        Each call of `launches` makes what one op launches. Here each launch waits for the one before, also where it
        would begin early otherwise: an op's time is its own. See kernels/durations.py.
        """
        counts = []
        with self.record() as program:
            for make in launches:
                before = len(program)
                make()
                counts.append(len(program) - before)
        program.launches = [made.apart() for made in program.launches]
        return lambda: durations.measure(lambda: self.run(program), self.synchronize, program.launches, counts)

    def penalize(self, logits: torch.Tensor, *parameters: Any) -> None:
        """See kernels/sample.py."""
        with self._chosen():
            penalize(logits, *parameters)

    def sample(self, logits: torch.Tensor, *parameters: np.ndarray) -> list[int]:
        """One id for each row: kernels/sample.py, of which only the ids come back."""
        draw = self._draw(logits)
        for to, given in zip(draw.parameters, parameters, strict=True):
            to[:] = given
        self.run(draw.program)
        self.synchronize()
        return draw.ids.tolist()

    def sampling(self, logits: torch.Tensor) -> launch.Program:
        """What `sample` runs for these logits, recorded."""
        return self._draw(logits).program

    def _draw(self, logits: torch.Tensor) -> "Draw":
        key = (logits.data_ptr(), len(logits))
        if key not in self._draws:
            R = len(logits)
            given, found = self._pinned((5, R), torch.float64), self._pinned((R,), torch.int32)
            with self.record() as program:
                parameters = torch.empty_like(given, device=self._device)
                out = torch.empty_like(found, device=self._device)
                sample(logits, *parameters, out)
            program.before.append(launch.Copy(parameters, given))
            program.after.append(launch.Copy(found, out))
            self._draws[key] = Draw(program, given.numpy(), found.numpy())
        return self._draws[key]

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._is_busy = False

    def close(self) -> None:
        """Let go of the device's memory, once the runner has let go of its own."""
        self._mirror = self._arena = self._pool = None
        self._draws.clear()
        self._pending.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """What torch says when the device's memory is full, as the user's fault that it is."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        first = str(error).partition(". ")[0]
        raise CapacityError(
            f"the GPU's memory is full ({first}); close what else uses it, lower the context (--context), or take another device (--device)"
        ) from None


def _view(buffer: torch.Tensor, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    n_bytes = math.prod(shape) * dtype.itemsize
    return buffer[offset : offset + n_bytes].view(dtype).view(shape)
