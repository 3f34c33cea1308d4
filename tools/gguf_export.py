"""Weights to GGUF: block quantisers (Q8_0, Q6_K, Q4_K) and the container. Reads nothing back.

Block layouts are those of ggml (`ggml-common.h`: block_q8_0, block_q6_K, block_q4_K); the container
is GGUF version 3 (ggml's docs/gguf.md). Every quantiser takes float32 [blocks, block] and gives
uint8 [blocks, block_bytes].
"""

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

ALIGNMENT = 32
# How far the scale search looks to both sides of "the largest value just fits", in steps of the grid.
SEARCH = np.linspace(-1.5, 1.5, 31)


def quantize_q8_0(x: np.ndarray) -> np.ndarray:
    """Blocks of 32: x = d * q, q in -127..127, d fp16."""
    d = _fp16(np.abs(x).max(axis=1, keepdims=True) / 127)
    q = np.clip(np.rint(x * _inverse(d)), -127, 127).astype(np.int8)
    return np.concatenate([_bytes(d), q.view(np.uint8)], axis=1)


def quantize_q6_k(x: np.ndarray) -> np.ndarray:
    """Blocks of 256 = 16 x 16: x = d * scale * q, q in -32..31, scale int8 of each 16, d fp16."""
    x = x.reshape(-1, 16, 16)
    scale = _search_symmetric(x, 32)
    # The largest scale takes -128, the one end of int8 that reaches further.
    largest = np.take_along_axis(scale, np.abs(scale).argmax(axis=1)[:, None], axis=1)
    d = _fp16(largest / -128)
    sc = np.clip(np.rint(scale * _inverse(d)), -128, 127).astype(np.int8)
    q = np.clip(np.rint(x * _inverse(d * sc)[..., None]), -32, 31) + 32
    # Of each half of 128 values, four groups of 32: low nibbles of groups 0 1 share bytes with 2 3;
    # the upper two bits of all four share a byte.
    g = q.astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (g[:, :, :2] & 15) | (g[:, :, 2:] & 15) << 4
    high = g[:, :, 0] >> 4 | g[:, :, 1] >> 4 << 2 | g[:, :, 2] >> 4 << 4 | g[:, :, 3] >> 4 << 6
    n = len(g)
    return np.concatenate([low.reshape(n, 128), high.reshape(n, 64), sc.view(np.uint8), _bytes(d)], axis=1)


def quantize_q4_k(x: np.ndarray) -> np.ndarray:
    """Blocks of 256 = 8 x 32: x = d * scale * q - dmin * min, q in 0..15, scale and min 6 bits of each 32."""
    x = x.reshape(-1, 8, 32)
    scale, minimum = _search_affine(x, 15)
    d = _fp16(scale.max(axis=1, keepdims=True) / 63)
    dmin = _fp16(minimum.max(axis=1, keepdims=True) / 63)
    sc = np.clip(np.rint(scale * _inverse(d)), 0, 63).astype(np.uint8)
    m = np.clip(np.rint(minimum * _inverse(dmin)), 0, 63).astype(np.uint8)
    q = np.clip(np.rint((x + (dmin * m)[..., None]) * _inverse(d * sc)[..., None]), 0, 15).astype(np.uint8)
    # Groups 0..3 keep their six bits in one byte; the upper two bits of these bytes are those of groups 4..7.
    scales = np.concatenate(
        [sc[:, :4] | sc[:, 4:] >> 4 << 6, m[:, :4] | m[:, 4:] >> 4 << 6, (sc[:, 4:] & 15) | (m[:, 4:] & 15) << 4],
        axis=1,
    )
    # Of each 64 values, the first 32 are the low nibbles.
    g = q.reshape(-1, 4, 2, 32)
    return np.concatenate([_bytes(d), _bytes(dmin), scales, (g[:, :, 0] | g[:, :, 1] << 4).reshape(-1, 128)], axis=1)


def _search_symmetric(x: np.ndarray, reach: int) -> np.ndarray:
    """The scale of each group [..., n] with the least squared error of scale * q, q in -reach..reach-1."""
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)
    best = np.zeros(x.shape[:-1], np.float32)
    least = np.full(x.shape[:-1], np.inf, np.float32)
    for step in SEARCH:
        q = np.clip(np.rint(x * (-(reach + step) * _inverse(largest))), -reach, reach - 1)
        # Least squares: scale = <x, q> / <q, q>.
        scale = (x * q).sum(axis=-1) * _inverse((q * q).sum(axis=-1))
        best, least = _keep_better(best, least, scale, ((x - scale[..., None] * q) ** 2).sum(axis=-1))
    return best


def _search_affine(x: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """(scale, min) of each group [..., n], both >= 0, with the least squared error of scale * q - min, q in 0..top."""
    low = np.minimum(x.min(axis=-1, keepdims=True), 0)
    span = x.max(axis=-1, keepdims=True) - low
    best = np.zeros((2, *x.shape[:-1]), np.float32)
    least = np.full(x.shape[:-1], np.inf, np.float32)
    n, sum_x = x.shape[-1], x.sum(axis=-1)
    for step in SEARCH:
        q = np.clip(np.rint((x - low) * ((top + step) * _inverse(span))), 0, top)
        sum_q, sum_qq, sum_xq = q.sum(axis=-1), (q * q).sum(axis=-1), (x * q).sum(axis=-1)
        # Least squares for a line through (q, x); where it would start above zero, a line through zero.
        scale = (n * sum_xq - sum_x * sum_q) * _inverse(n * sum_qq - sum_q**2)
        minimum = (scale * sum_q - sum_x) / n
        scale = np.where(minimum < 0, sum_xq * _inverse(sum_qq), scale)
        fit = np.stack([np.maximum(scale, 0), np.maximum(minimum, 0)])
        error = ((x - fit[0][..., None] * q + fit[1][..., None]) ** 2).sum(axis=-1)
        best, least = _keep_better(best, least, fit, error)
    return best[0], best[1]


def _keep_better(best, least, fit, error):
    better = error < least
    return np.where(better, fit, best), np.where(better, error, least)


def _fp16(d: np.ndarray) -> np.ndarray:
    """float32, rounded to what the file can hold."""
    return d.astype(np.float16).astype(np.float32)


def _bytes(d: np.ndarray) -> np.ndarray:
    return d.astype("<f2").view(np.uint8)


def _inverse(d: np.ndarray) -> np.ndarray:
    """1/d, and 0 where d is 0: a block of zeros stays one."""
    return np.divide(1, d, out=np.zeros_like(d, np.float32), where=d != 0)


# name -> (ggml's type id, values in a block, quantiser of [blocks, block])
QUANTIZERS = {
    "F32": (0, 1, lambda x: x.astype("<f4").view(np.uint8)),
    "Q8_0": (8, 32, quantize_q8_0),
    "Q4_K": (12, 256, quantize_q4_k),
    "Q6_K": (14, 256, quantize_q6_k),
}

# Python type of a metadata value -> (GGUF's type id, packer). Counts are unsigned, array items signed.
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


def _string(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _array(values: list) -> bytes:
    kind, pack = (_STRING, _string) if isinstance(values[0], str) else (_I32, lambda v: struct.pack("<i", v))
    return struct.pack("<IQ", kind, len(values)) + b"".join(map(pack, values))


_PACKERS = {
    bool: (_BOOL, lambda v: struct.pack("<?", v)),
    int: (_U32, lambda v: struct.pack("<I", v)),
    float: (_F32, lambda v: struct.pack("<f", v)),
    str: (_STRING, _string),
    list: (_ARRAY, _array),
}


def write_gguf(
    path: "str | Path", metadata: Mapping[str, object], tensors: Mapping[str, np.ndarray], formats: Mapping[str, str]
) -> None:
    """Write a model file. `tensors` are float32, outermost axis first; `formats` names each one's QUANTIZERS entry.

    A row's length must be a multiple of its format's block.
    """
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        kind, pack = _PACKERS[type(value)]
        head += [_string(key), struct.pack("<I", kind), pack(value)]
    body, offset = [], 0
    for name, x in tensors.items():
        type_id, block, quantize = QUANTIZERS[formats[name]]
        assert x.shape[-1] % block == 0, (name, x.shape, block)
        data = quantize(np.ascontiguousarray(x, np.float32).reshape(-1, block)).tobytes()
        head += [_string(name), struct.pack(f"<I{x.ndim}QIQ", x.ndim, *reversed(x.shape), type_id, offset)]
        body.append(data + bytes(-len(data) % ALIGNMENT))
        offset += len(body[-1])
    head = b"".join(head)
    Path(path).write_bytes(head + bytes(-len(head) % ALIGNMENT) + b"".join(body))
