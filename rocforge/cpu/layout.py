"""Weights and activations as this room holds them: GGUF's own blocks, as the file has them, and records of
activations for many tokens. Copies nothing; imports no Numba, for it is asked before anything is compiled.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from rocforge.gguf.formats import Format

# For many tokens (tiles.py), activations are kept by strip, those of a strip's tokens one behind the other, a
# record for each: [T / TOKENS][8][depth][TOKENS]. Strip j is at [j % 8][j // 8], where its partial sum wants it.
X_VALUES = 0  # int8 [32]
X_SCALE = 32  # float32
# Of either half, or first of the whole strip: for formats with minimums float32 [2], the sums times the scale; for
# others int32 [2], what integer sums begin with: tiles.BIAS_BITS less what the weights' offset gives too much.
X_SUMS = 36
RECORD = 48
# Tokens that pass by a strip before the next one: their partial sums stay in a first-level cache.
TOKENS = 32


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


def records_bytes(tokens: int, columns: int) -> int:
    """What records of activations [tokens, columns] take: whole blocks of TOKENS, eight equally long runs of strips."""
    return RECORD * -(-tokens // TOKENS) * TOKENS * -(-columns // 256) * 8


def bfloats_bytes(tokens: int, columns: int) -> int:
    """What the same take in bfloat16: whole blocks of TOKENS."""
    return 2 * -(-tokens // TOKENS) * TOKENS * columns


def scratch_bytes(weights: Iterable[Any], tokens: int) -> int:
    """Memory that a step of `tokens` tokens by these weights (`plan.ir.Weight`) takes beside the plan's values, at most."""
    columns = [w.shape[1] for w in weights if len(w.shape) == 2 and not w.format.is_float]
    return max((max(records_bytes(tokens, n), bfloats_bytes(tokens, n)) for n in columns), default=0)
