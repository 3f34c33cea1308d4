"""Weights from the mapped file to the device: through pinned buffers, repacked where they arrive (repack.py). Decides no layout.

All of torch's threads copy a piece into pinned memory, since one reads slower than a bus carries. Pieces take turns on two
streams, so that one is copied to the device while another is repacked.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from rocforge.kernels import layout, repack

# Bytes of a file's blocks in a piece, pieces on their way at once, and streams. Pinned memory is slow to get: 0.8 ms for a MB.
PIECE_BYTES, PIECES, STREAMS = 16 << 20, 4, 2

# Rows of blocks, uint8 [n, row bytes], and where they go: the matrix's rows from `first` on.
Source = tuple[layout.Matrix, int, np.ndarray]


class _Buffer:
    """Pinned memory for one piece on its way, and then for the next."""

    def __init__(self, stream: torch.cuda.Stream):
        self._stream, self._copied = stream, torch.cuda.Event()
        self._memory = torch.empty(0, dtype=torch.uint8)

    def send(self, matrix: layout.Matrix, first: int, data: np.ndarray) -> None:
        """Rows of the file to the matrix's rows from `first` on. Waits for the piece before, not for this one."""
        self._copied.synchronize()
        if data.nbytes > len(self._memory):  # a row may be longer than a piece
            self._memory = torch.empty(max(data.nbytes, PIECE_BYTES), dtype=torch.uint8, pin_memory=True)
        held = self._memory[: data.nbytes].view(data.shape)
        held.copy_(_tensor(data))
        with torch.cuda.stream(self._stream):
            raw = held.to(self._stream.device, non_blocking=True)
            self._copied.record()
            repack.fill(matrix, raw, first)


def upload(sources: Iterable[Source], device: torch.device, done: Callable[[int], None]) -> None:
    """Fill the matrices, which are on `device`; done(bytes of the file) after each piece. The last ones may be on their way
    still when it returns."""
    if device.type != "cuda":
        for matrix, first, data in _pieces(sources):
            layout.fill(matrix, _tensor(data), first)
            done(data.nbytes)
        return
    torch.cuda.synchronize(device)  # whatever had the matrices' memory before
    streams = [torch.cuda.Stream(device) for _ in range(STREAMS)]
    buffers = [_Buffer(streams[i % STREAMS]) for i in range(PIECES)]
    for i, (matrix, first, data) in enumerate(_pieces(sources)):
        buffers[i % len(buffers)].send(matrix, first, data)
        done(data.nbytes)


def _pieces(sources: Iterable[Source]) -> Iterator[Source]:
    for matrix, first, data in sources:
        rows = max(1, PIECE_BYTES // data.shape[1])
        for start in range(0, len(data), rows):
            yield matrix, first + start, data[start : start + rows]


def _tensor(data: np.ndarray) -> torch.Tensor:
    """The mapped file's bytes themselves, which nothing here writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(data)
