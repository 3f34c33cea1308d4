"""Weights from the mapped file to the device: through pinned buffers, repacked where they arrive. Decides no layout."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch

from rocforge.gguf.formats import Format
from rocforge.kernels import layout

# Bytes of a file's blocks that are copied at once. What repacking takes beside them is about ten times as much.
PIECE_BYTES = 8 << 20
# Threads that read the file, at the most: one alone copies a tenth of what a pinned copy to the device does.
READERS = 8


class Rows(NamedTuple):
    """The blocks `data`, uint8 [n, row bytes], that become the rows of a matrix from `first` on."""

    matrix: layout.Matrix
    first: int
    data: np.ndarray
    format: Format


class Uploader:
    """Fills matrices piece by piece: while one piece is copied to the device and repacked, others are read from the file."""

    def __init__(self, device: torch.device):
        self._device = device

    def fill(self, all_rows: Iterable[Rows], done: Callable[[int], None]) -> None:
        """done(bytes) after each piece."""
        all_rows, pinned = list(all_rows), self._device.type == "cuda"
        readers = min(READERS, os.cpu_count() or 1)
        # A row is a piece at the least.
        size = max((PIECE_BYTES, *(rows.data.shape[1] for rows in all_rows)))
        buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2 * readers if pinned else 1)]
        free: deque[_Buffer] = deque(_Buffer(buffer, torch.cuda.Event() if pinned else None) for buffer in buffers)
        under_way: deque[tuple[Rows, _Buffer, Future]] = deque()

        def deliver() -> None:
            piece, buffer, read = under_way.popleft()
            read.result()
            raw = buffer.memory[: piece.data.nbytes].to(self._device, non_blocking=True).view(piece.data.shape)
            if buffer.copied is not None:
                buffer.copied.record()
            free.append(buffer)
            layout.fill(piece.matrix, raw, piece.first)
            done(piece.data.nbytes)

        with ThreadPoolExecutor(readers) as pool:
            for piece in _pieces(all_rows, size):
                if not free:
                    deliver()
                buffer = free.popleft()
                under_way.append((piece, buffer, pool.submit(buffer.read, piece.data)))
            while under_way:
                deliver()


class _Buffer(NamedTuple):
    memory: torch.Tensor
    copied: "torch.cuda.Event | None"

    def read(self, data: np.ndarray) -> None:
        """Take over the data, once what was there has been copied."""
        if self.copied is not None:
            self.copied.synchronize()
        np.copyto(self.memory[: data.nbytes].numpy().reshape(data.shape), data)


def _pieces(all_rows: list[Rows], size: int) -> Iterator[Rows]:
    for rows in all_rows:
        n = max(1, size // rows.data.shape[1])
        for start in range(0, len(rows.data), n):
            yield rows._replace(first=rows.first + start, data=rows.data[start : start + n])
