"""Weights as this room holds them: GGUF's own blocks, where the file map has them. Copies nothing."""

from typing import NamedTuple

import numpy as np

from rocforge.gguf.formats import Format


class Matrix(NamedTuple):
    """A weight matrix: `rows` (N, outputs) of `columns` (K, inputs) values in blocks of `format`.

    `data` is uint8 [N, row_bytes], rows contiguous.
    """

    data: np.ndarray
    format: Format
    rows: int
    columns: int


def matrix(data: np.ndarray, format: Format, rows: int, columns: int) -> Matrix:
    """The uint8 bytes of a GGUF tensor as a Matrix, without a copy."""
    data = data.reshape(rows, format.row_bytes(columns))
    assert data.dtype == np.uint8 and data.strides[1] == 1, (data.dtype, data.strides)
    return Matrix(data, format, rows, columns)
