"""Block formats: what a tensor type weighs and how its blocks are laid out. Decodes nothing.

Type ids, block sizes and bytes are those of ggml (`ggml-common.h`, `gguf.GGML_QUANT_SIZES`).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass(frozen=True)
class Format:
    """One tensor type: `block` values are stored in `block_bytes` bytes."""

    name: str
    type_id: int
    block: int
    block_bytes: int
    is_float: bool = False

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row of `columns` values; `columns` is a multiple of `block`."""
        assert columns % self.block == 0, (self.name, columns)
        return columns // self.block * self.block_bytes

    def __str__(self) -> str:
        return self.name


class Q8(NamedTuple):
    """Activations in 8 bits: blocks of 32 along K, each with its own scale.

    `values` int8 [T, K]; `scales` float32 [T, K/32], amax/127 of the block;
    `sums` int16 [T, K/16], the sum of each 16 values (what minimums multiply).
    x[t, k] is about scales[t, k // 32] * values[t, k].
    """

    values: Any
    scales: Any
    sums: Any


class Q8Cache(NamedTuple):
    """Keys or values in 8 bits, GGUF's Q8_0 in two arrays: blocks of 32 along the head, a half each.

    `values` int8 [pages, G, PAGE, D]; `scales` float16 [pages, G, PAGE, D/32], amax/127 of the block
    rounded to nearest; x is about scale * value, value = x * (127/amax) rounded half to even.
    """

    values: Any
    scales: Any


Q8_BLOCK = 32
Q8_SUM_BLOCK = 16

F32 = Format("F32", 0, 1, 4, is_float=True)
F16 = Format("F16", 1, 1, 2, is_float=True)
BF16 = Format("BF16", 30, 1, 2, is_float=True)
Q4_0 = Format("Q4_0", 2, 32, 18)
Q4_1 = Format("Q4_1", 3, 32, 20)
Q5_0 = Format("Q5_0", 6, 32, 22)
Q5_1 = Format("Q5_1", 7, 32, 24)
Q8_0 = Format("Q8_0", 8, 32, 34)
Q2_K = Format("Q2_K", 10, 256, 84)
Q3_K = Format("Q3_K", 11, 256, 110)
Q4_K = Format("Q4_K", 12, 256, 144)
Q5_K = Format("Q5_K", 13, 256, 176)
Q6_K = Format("Q6_K", 14, 256, 210)
IQ4_NL = Format("IQ4_NL", 20, 32, 18)
IQ4_XS = Format("IQ4_XS", 23, 256, 136)

# What both rooms have kernels for.
SUPPORTED = (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS)

# What a reader must be able to measure, so that a file is refused by the name of its format.
KNOWN = SUPPORTED + (
    Format("Q8_1", 9, 32, 36),
    Format("Q8_K", 15, 256, 292),
    Format("IQ2_XXS", 16, 256, 66),
    Format("IQ2_XS", 17, 256, 74),
    Format("IQ3_XXS", 18, 256, 98),
    Format("IQ1_S", 19, 256, 50),
    Format("IQ3_S", 21, 256, 110),
    Format("IQ2_S", 22, 256, 82),
    Format("I8", 24, 1, 1),
    Format("I16", 25, 1, 2),
    Format("I32", 26, 1, 4),
    Format("I64", 27, 1, 8),
    Format("F64", 28, 1, 8, is_float=True),
    Format("IQ1_M", 29, 256, 56),
    Format("TQ1_0", 34, 256, 54),
    Format("TQ2_0", 35, 256, 66),
    Format("MXFP4", 39, 32, 17),
    Format("NVFP4", 40, 64, 36),
    Format("Q1_0", 41, 128, 18),
)

BY_ID = {f.type_id: f for f in KNOWN}
BY_NAME = {f.name: f for f in KNOWN}


def float_values(data: np.ndarray, format: Format) -> np.ndarray:
    """The values of a float tensor's bytes (uint8, any shape) as float32, flat."""
    if format is F32:
        return data.reshape(-1).view(np.float32)
    if format is F16:
        return data.reshape(-1).view(np.float16).astype(np.float32)
    assert format is BF16, format
    return (data.reshape(-1).view(np.uint16).astype(np.uint32) << 16).view(np.float32)
