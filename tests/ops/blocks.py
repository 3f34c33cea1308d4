"""Random and extreme blocks of every format, what they mean in float64, and activations in 8 bits."""

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from rocforge.gguf.formats import Q8, SUPPORTED, Format

BLOCK_FORMATS = tuple(f for f in SUPPORTED if not f.is_float)
FLOAT_FORMATS = tuple(f for f in SUPPORTED if f.is_float)

# Where a block's halves are: d, and dmin or m. All its other bytes may take any value.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip

# Zeros of either sign, the smallest subnormal, the largest half, and one like any other.
EXTREME_HALVES = (0.0, -0.0, 2.0**-24, -(2.0**-24), 65504.0, -65504.0, -0.37)


def random_blocks(format: Format, rows: int, columns: int, rng) -> np.ndarray:
    """uint8 [rows, row bytes]: any bytes, halves between -1 and 1; float formats: normal values."""
    if format.is_float:
        x = rng.standard_normal((rows, columns)).astype(np.float32)
        if format.name == "BF16":
            return np.ascontiguousarray((x.view(np.uint32) >> 16).astype(np.uint16)).view(np.uint8)
        return x.astype({"F32": np.float32, "F16": np.float16}[format.name]).view(np.uint8)
    data = rng.integers(0, 256, (rows, format.row_bytes(columns)), dtype=np.uint8)
    for which in range(len(HALVES[format.name])):
        with_halves(data, format, which, rng.uniform(-1, 1, (rows, columns // format.block)))
    return data


def extreme_blocks(format: Format, columns: int) -> np.ndarray:
    """uint8 [rows, row bytes]: every pattern of bytes with every extreme half, a row each."""
    patterns = [0x00, 0xFF, 0x80, 0x7F, 0x0F, 0xF0]
    data = np.empty((len(patterns) * len(EXTREME_HALVES), format.row_bytes(columns)), np.uint8)
    data[:] = np.repeat(patterns, len(EXTREME_HALVES))[:, None]
    halves = np.tile(EXTREME_HALVES, len(patterns))[:, None]
    for which in range(len(HALVES[format.name])):
        # dmin other than d, so that both kinds of extremes meet
        with_halves(data, format, which, np.roll(halves, 3 * which, axis=0))
    return data


def with_halves(data: np.ndarray, format: Format, which: int, values) -> np.ndarray:
    """Write `values` as the blocks' d (which 0) or dmin or m (which 1), in place where there is one."""
    offsets = HALVES[format.name]
    if which < len(offsets):
        blocks = data.reshape(len(data), -1, format.block_bytes)
        halves = np.broadcast_to(np.asarray(values, np.float16), blocks.shape[:2])
        at = offsets[which]
        blocks[:, :, at : at + 2] = np.ascontiguousarray(halves)[:, :, None].view(np.uint8)
    return data


def weights(data: np.ndarray, format: Format) -> np.ndarray:
    """float64 [rows, columns]: what the blocks mean, by gguf's own dequantisation."""
    return np.asarray(dequantize(data, GGMLQuantizationType[format.name]), np.float64).reshape(len(data), -1)


def magnitudes(data: np.ndarray, format: Format) -> np.ndarray:
    """float64 [rows, columns]: |part that d scales| + |part that dmin or m scales| of each weight."""
    if format.is_float:
        return np.abs(weights(data, format))
    parts = (with_halves(data.copy(), format, which, 0.0) for which in (1, 0)[: len(HALVES[format.name])])
    return sum(np.abs(weights(part, format)) for part in parts)


def q8_of(values: np.ndarray, scales: np.ndarray) -> Q8:
    """A Q8 of int8 [T, K] and float32 [T, K/32]."""
    T, K = values.shape
    return Q8(values, scales, values.reshape(T, K // 16, 16).sum(axis=2, dtype=np.int16))


def random_q8(T: int, K: int, rng) -> Q8:
    """Values of the whole range -127 .. 127, scales of either small or large size."""
    values = rng.integers(-127, 128, (T, K), dtype=np.int8)
    return q8_of(values, (10.0 ** rng.uniform(-3, 1, (T, K // 32))).astype(np.float32))


def activations(x: Q8) -> np.ndarray:
    """float64 [T, K]: what a Q8 means."""
    return x.values.astype(np.float64) * np.repeat(x.scales.astype(np.float64), 32, axis=1)
