"""Weights from the mapped file to the device: through pinned buffers, repacked where they arrive (repack.py). Decides no layout.

Three hands pass each piece on: threads have the system map what comes next, for a page that is not mapped yet costs more than
its copy (an H100's host: 27 GB/s, 60 where it is), and one thread maps no faster; others copy pieces into pinned memory, each one at
a time, since a single one reads slower than a bus carries; and the caller's sends them and has them repacked, on two streams in turn.
"""

import ctypes
import mmap
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from rocforge.kernels import layout, repack

# Bytes of a file's blocks in a piece at the most, pieces on their way at once, and streams.
PIECE_BYTES, PIECES, STREAMS = 16 << 20, 8, 2
MAPPERS, READERS = 4, 8  # threads that map, and that copy
# Linux' madvise(2): map the pages now. Systems that do not know it map them when they are read.
_MADV_POPULATE_READ = 22

# Rows of blocks, uint8 [n, row bytes], and where they go: the matrix's rows from `first` on.
Source = tuple[layout.Matrix, int, np.ndarray]


class Pinned:
    """Buffers of pinned memory, which takes 0.8 ms for a MB to get: got in a thread from now on."""

    def __init__(self, device: torch.device):
        self._thread = ThreadPoolExecutor(1)
        self._buffers = self._thread.submit(lambda: [_Buffer(device) for _ in range(PIECES)])

    def take(self) -> "list[_Buffer]":
        """The buffers, when they are there."""
        self._thread.shutdown(wait=False)
        return self._buffers.result()


class _Buffer:
    """Pinned memory for one piece on its way, and then for the next."""

    def __init__(self, device: torch.device):
        with torch.cuda.device(device):
            self._memory = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
            self._copied = torch.cuda.Event()

    def read(self, data: np.ndarray) -> torch.Tensor:
        """The file's bytes in this buffer, once it has been sent what it held before."""
        self._copied.synchronize()
        if data.nbytes > len(self._memory):  # a row may be longer than a piece
            self._memory = torch.empty(data.nbytes, dtype=torch.uint8, pin_memory=True)
        held = self._memory[: data.nbytes].view(data.shape)
        assert data.flags.c_contiguous
        ctypes.memmove(held.data_ptr(), data.ctypes.data, data.nbytes)  # without Python's lock
        return held

    def send(self, held: torch.Tensor, matrix: layout.Matrix, first: int, stream: torch.cuda.Stream) -> None:
        """What `read` gave to the matrix's rows from `first` on. Waits for nothing."""
        with torch.cuda.stream(stream):
            raw = held.to(stream.device, non_blocking=True)
            self._copied.record()
            repack.fill(matrix, raw, first)


def upload(sources: Iterable[Source], device: torch.device, done: Callable[[int], None], pinned: Pinned | None = None) -> None:
    """Fill the matrices, which are on `device`; done(bytes of the file) after each piece. The last ones may be on their way
    still when it returns."""
    if device.type != "cuda":
        for matrix, first, data in _pieces(sources):
            layout.fill(matrix, _tensor(data), first)
            done(data.nbytes)
        return
    torch.cuda.synchronize(device)  # whatever had the matrices' memory before
    sources = list(sources)
    streams = [torch.cuda.Stream(device) for _ in range(STREAMS)]
    buffers = (pinned or Pinned(device)).take()
    mapper, readers = ThreadPoolExecutor(MAPPERS), ThreadPoolExecutor(READERS)
    try:
        for _, _, data in sources:
            mapper.submit(populate, data)
        waiting: deque[tuple[int, layout.Matrix, int, Future]] = deque()

        def send() -> None:
            i, matrix, first, coming = waiting.popleft()
            held = coming.result()
            buffers[i % PIECES].send(held, matrix, first, streams[i % STREAMS])
            done(held.nbytes)

        for i, (matrix, first, data) in enumerate(_pieces(sources)):
            if len(waiting) == PIECES:
                send()
            waiting.append((i, matrix, first, readers.submit(buffers[i % PIECES].read, data)))
        while waiting:
            send()
    finally:  # also where the user has had enough
        mapper.shutdown(cancel_futures=True)
        readers.shutdown(cancel_futures=True)


def populate(data: np.ndarray) -> None:
    """Have the system map the pages of an array of a mapped file, if it can; nothing is read that is in memory."""
    if sys.platform != "linux":
        return
    first = data.__array_interface__["data"][0]
    start = first // mmap.PAGESIZE * mmap.PAGESIZE
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    madvise(start, first + data.nbytes - start, _MADV_POPULATE_READ)


def _pieces(sources: Iterable[Source]) -> Iterator[Source]:
    for matrix, first, data in sources:
        rows = -(-len(data) // -(-len(data) // max(1, PIECE_BYTES // data.shape[1])))  # in each of as few as can be
        for start in range(0, len(data), rows):
            yield matrix, first + start, data[start : start + rows]


def _tensor(data: np.ndarray) -> torch.Tensor:
    """The mapped file's bytes themselves, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(data)
