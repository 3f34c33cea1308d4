"""Weights from the mapped file to the device: through two pinned buffers, repacked where they arrive. Decides no layout."""

from collections.abc import Callable

import numpy as np
import torch

from rocforge.gguf.formats import Format
from rocforge.kernels import layout

# Bytes of a file's blocks in flight at once. What repacking takes beside them is about ten times as much.
PIECE_BYTES = 8 << 20


class Uploader:
    """Fills matrices piece by piece: while one piece is copied and repacked, the next is read from the file."""

    def __init__(self, device: torch.device):
        pinned = device.type == "cuda"
        self._staging = [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
        self._arrived = [torch.cuda.Event() if pinned else None for _ in range(2)]
        self._device, self._turn = device, 0

    def fill(
        self, matrix: layout.Matrix, first: int, data: np.ndarray, format: Format, done: Callable[[int], None]
    ) -> None:
        """The rows `data`, uint8 [n, row bytes], to those of the matrix from `first` on; done(bytes) after each piece."""
        row_bytes = data.shape[1]
        if row_bytes > PIECE_BYTES:  # one row is a piece of its own, at its own cost
            self._staging = [torch.empty(row_bytes, dtype=torch.uint8, pin_memory=s.is_pinned()) for s in self._staging]
        rows = max(1, len(self._staging[0]) // row_bytes)
        for start in range(0, len(data), rows):
            part = data[start : start + rows]
            staging, arrived = self._staging[self._turn], self._arrived[self._turn]
            if arrived is not None:
                arrived.synchronize()
            held = staging[: part.nbytes]
            np.copyto(held.numpy().reshape(part.shape), part)
            raw = held.to(self._device, non_blocking=True).view(part.shape)
            if arrived is not None:
                arrived.record()
            layout.fill(matrix, raw, first + start)
            self._turn ^= 1
            done(part.nbytes)
