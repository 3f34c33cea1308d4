"""Launches: run at once, or recorded as a Program that is run whole. Knows no op.

The mirror of cpu/threads.py: a step is recorded once, and replayed as one graph of the driver's
(`torch.cuda.CUDAGraph`, which is a HIP graph on ROCm) without Python or allocations in between.
"""

import contextlib
import contextvars
import functools
import logging
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple

import torch
import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from rocforge.kernels import target

log = logging.getLogger(__name__)


class Launch(NamedTuple):
    """A kernel with everything that it is launched with.

    `args` are its positional arguments (tensors, ints, floats), `constants` its constexprs by name,
    `options` num_warps and num_stages.
    """

    kernel: Any
    grid: tuple[int, ...]
    args: tuple
    constants: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> None:
        self.kernel[self.grid](*self.args, **self.constants, **self.options)

    def compiled(self) -> Any:
        """What `run` runs on the current device: compiled now, or found in Triton's cache."""
        return self.kernel.warmup(*self.args, grid=self.grid, **self.constants, **self.options)

    def apart(self) -> "Launch":
        """The same, beginning when all before it has ended."""
        if not self.constants.get("EARLY"):
            return self
        options = {name: value for name, value in self.options.items() if name != "launch_pdl"}
        return self._replace(constants={**self.constants, "EARLY": False}, options=options)

    @property
    def key(self) -> tuple:
        """Launches of one key are one piece of machine code (or two, where an int is 1 in one of them)."""
        types = tuple(_type(argument) for argument in self.args)
        constants = tuple((k, getattr(v, "__name__", v)) for k, v in self.constants.items())
        return (self.kernel.__name__, types, constants, tuple(self.options.items()))


def _type(argument: Any) -> Any:
    """What of an argument machine code depends on."""
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.data_ptr() % 16
    if isinstance(argument, TensorDescriptor):
        return argument.base.dtype, *argument.block_shape
    return type(argument)


def descriptor(array: torch.Tensor, box: tuple[int, int]) -> TensorDescriptor:
    """An array of two dimensions as what boxes of it are copied to shared memory by, zeros where they reach beyond it.

    For targets that has_tma is true of; rows are a multiple of 16 bytes, and so are a box's.
    """
    return TensorDescriptor.from_tensor(array, list(box))


def box_bytes(argument: Any) -> int:
    """Bytes of a descriptor's box; 0 for what is none."""
    return argument.base.itemsize * math.prod(argument.block_shape) if isinstance(argument, TensorDescriptor) else 0


class Copy(NamedTuple):
    """An array's bytes to another of its shape, on the device or in the host's pinned memory."""

    to: torch.Tensor
    source: torch.Tensor

    def run(self) -> None:
        self.to.copy_(self.source, non_blocking=True)


class Kernel:
    """One kernel as one Launch has it compiled: what `prepare` counts and waits for."""

    def __init__(self, launch: Launch):
        self._launch = launch
        self.__name__ = launch.kernel.__name__

    @property
    def is_compiled(self) -> bool:
        return self._launch.key in _compiled

    def compile(self) -> None:
        """Compile now, or load from Triton's cache, what the first launch would."""
        launch, made = self._launch, None
        if not _interprets():
            device = next(a.device for a in launch.args if isinstance(a, torch.Tensor))
            with torch.cuda.device(device):  # which target it is for
                made = launch.compiled()
        _compiled[launch.key] = getattr(made, "hash", None)

    @property
    def hash(self) -> str | None:
        """What Triton keeps it by in its cache, once it is compiled; None where it is interpreted."""
        return _compiled[self._launch.key]


_compiled: dict[tuple, str | None] = {}


@functools.cache
def hashing() -> threading.Thread:
    """A thread in which Triton hashes its own library, begun by the first call.

    It does so once a process, before it compiles or finds anything in its cache, and takes half a second: a model that
    is opened has other things to do meanwhile.
    """

    def hash_triton() -> None:
        with contextlib.suppress(ImportError):  # where it is elsewhere, it is done when it is needed
            from triton.runtime.cache import triton_key

            triton_key()

    thread = threading.Thread(target=hash_triton, daemon=True)
    thread.start()
    return thread


def compile_all(kernels: Iterable[Kernel], report: Callable[[int, int], None] | None = None) -> None:
    """Compile what is not compiled yet, side by side: most of a compilation is outside of Python. report(done, total).

    Raises what the first failing compilation does; those that have not begun are left out then.
    """
    missing = [kernel for kernel in kernels if not kernel.is_compiled]
    if missing and not _interprets():
        hashing().join()  # or each of them would do it
    with ThreadPoolExecutor(min(MOST_COMPILERS, os.cpu_count() or 1)) as pool:
        waiting = [pool.submit(kernel.compile) for kernel in missing]
        try:
            for done, finished in enumerate(as_completed(waiting)):
                if report:
                    report(done, len(missing))
                finished.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if report and missing:
        report(len(missing), len(missing))


# Compilations at once at the most: each takes some hundred MiB, and beyond this they wait for Python's lock.
MOST_COMPILERS = 8


class Pool:
    """Device memory that launches need between them, and that nothing outlives a step in: one buffer a tag.

    Programs over one pool run one after the other, on one stream.
    """

    def __init__(self):
        self._buffers: dict[str, torch.Tensor] = {}

    def take(self, tag: str, n_bytes: int, device: torch.device) -> torch.Tensor:
        held = self._buffers.get(tag)
        if held is None or len(held) < n_bytes or held.device != device:
            held = self._buffers[tag] = torch.empty(n_bytes, dtype=torch.uint8, device=device)
        return held[:n_bytes]

    @property
    def n_bytes(self) -> int:
        return sum(len(buffer) for buffer in self._buffers.values())


class Program:
    """Launches recorded once, to be run as often as wanted over the same buffers; copies `before` and `after` them.

    `begins_early`: those recorded from now on may, where the device can."""

    def __init__(self, pool: Pool | None = None):
        self.begins_early = True
        self.launches: list[Launch] = []
        self.before: list[Copy] = []
        self.after: list[Copy] = []
        self.pool = pool or Pool()
        self._graph = None
        self._runs = 0

    @property
    def kernels(self) -> list[Kernel]:
        """One for each piece of machine code, in order of first use."""
        return [Kernel(l) for l in {l.key: l for l in self.launches}.values()]

    def run(self) -> None:
        """One after the other the first time, which loads the code; from the second on as one graph."""
        self._runs += 1
        if self._runs == 2 and not _interprets() and self.launches:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._run_each()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run_each()

    def _run_each(self) -> None:
        for each in (*self.before, *self.launches, *self.after):
            each.run()

    def __len__(self) -> int:
        return len(self.launches)


def graph_of(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """What `run` launches on the current device, as one graph; run once before, aside, where libraries set themselves up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def recording() -> Program | None:
    """The program that launches are recorded into."""
    return _recording.get()


_recording: contextvars.ContextVar[Program | None] = contextvars.ContextVar("recording", default=None)


def launch(
    kernel, grid: tuple[int, ...], *args,
    num_warps: int = 4, num_stages: int = 2, fuses: bool = True, **constants,
) -> None:  # fmt: skip
    """Launch `kernel` over `grid` programs on the current device, or record it.

    `args` in the kernel's order: tensors (the address of their first element is passed), ints,
    floats; `constants` its constexprs. `fuses`: a product and a sum may be rounded once for both. A
    kernel that has the constexpr EARLY begins early where the device can (early.py) and the recording Program lets it. A grid
    without programs launches nothing.
    """
    if 0 in grid:
        return
    # Said each time: Triton's default for the fusing is another from release to release.
    options = {} if _interprets() else {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": fuses}
    program = _recording.get()
    if "EARLY" in kernel.arg_names:
        constants["EARLY"] = early = target.current().begins_early and (program is None or program.begins_early)
        options |= {"launch_pdl": True} if early else {}
    made = Launch(kernel, grid, args, constants, options)
    if program is not None:
        program.launches.append(made)
    else:
        made.run()


@functools.cache
def _interprets() -> bool:
    return triton.knobs.runtime.interpret


def scratch(tag: str, shape: tuple[int, ...], dtype: torch.dtype, like: torch.Tensor) -> torch.Tensor:
    """An array of any content on `like`'s device, for what one launch hands to the next.

    While recording, all that ask under one tag get the same memory: it holds until the next launcher asks.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    program = _recording.get()
    if program is None:
        return torch.empty(shape, dtype=dtype, device=like.device)
    return program.pool.take(tag, n_bytes, like.device).view(dtype).view(shape)


@contextlib.contextmanager
def record(pool: Pool | None = None) -> Iterator[Program]:
    """Within it, launches are appended to the Program that it gives instead of being run."""
    program = Program(pool)
    token = _recording.set(program)
    try:
        yield program
    finally:
        _recording.reset(token)
