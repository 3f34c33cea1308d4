"""Rows of a table in any format, as float32. Chooses no token."""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.decode import HALF, MINS, RAW_BYTES, SCALES, STRIP_BYTES, VALUES
from rocforge.cpu.isa import (
    load_bhalf,
    load_f32,
    load_half,
    load_i8,
    load_i32,
    stack,
    store_f32,
)
from rocforge.cpu.layout import Matrix
from rocforge.cpu.threads import inline, kernel, launch, share, words
from rocforge.gguf.formats import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
)

f32 = np.float32

_tile, _raw = stack(8 * STRIP_BYTES), stack(RAW_BYTES)


@inline
def store_strip(out, strip, layout):
    """out[k] = scale * (value - offset) + min, each step rounded, of the row in lane 0."""
    for k in range(32):
        half = k // 16 * HALF if layout.by_halves else 0
        value = (load_i8(strip + VALUES + 64 * (k // 4) + k % 4) & 255) - layout.offset
        y = load_f32(strip + SCALES + half) * f32(value)
        if layout.has_mins:
            y += load_f32(strip + MINS + half)
        store_f32(out + 4 * k, y)


@inline
def blocks(args, tid, team, unpack, layout):
    tokens, table, out, T, K, out_stride = words(args, 6)
    tile, raw, block = _tile(), _raw(), layout.block
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        row = table + K // block * layout.block_bytes * load_i32(tokens + 4 * t)
        for k in range(0, K, block):
            unpack(row + k // block * layout.block_bytes, 0, tile, STRIP_BYTES, raw)  # the same row in all 16 lanes
            for j in range(block // 32):
                store_strip(out + out_stride * t + 4 * k + 128 * j, tile + j * STRIP_BYTES, layout)


@inline
def floats(args, tid, team, load_one, size):
    tokens, table, out, T, K, out_stride = words(args, 6)
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        row = table + size * K * load_i32(tokens + 4 * t)
        for k in range(K):
            store_f32(out + out_stride * t + 4 * k, load_one(row + size * k))


EMBED = {
    F32: kernel(lambda args, tid, team: floats(args, tid, team, load_f32, 4)),
    F16: kernel(lambda args, tid, team: floats(args, tid, team, load_half, 2)),
    BF16: kernel(lambda args, tid, team: floats(args, tid, team, load_bhalf, 2)),
    Q4_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_0, decode.Q4_0)),
    Q4_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_1, decode.Q4_1)),
    Q5_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_0, decode.Q5_0)),
    Q5_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_1, decode.Q5_1)),
    Q8_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q8_0, decode.Q8_0)),
    Q2_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q2_k, decode.Q2_K)),
    Q3_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q3_k, decode.Q3_K)),
    Q4_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_k, decode.Q4_K)),
    Q5_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_k, decode.Q5_K)),
    Q6_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q6_k, decode.Q6_K)),
    IQ4_NL: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_nl, decode.IQ4_NL)),
    IQ4_XS: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_xs, decode.IQ4_XS)),
}


def embed(tokens: np.ndarray, table: Matrix, out: np.ndarray) -> None:
    """out[t] = table[tokens[t]], dequantised: the float32 values that ggml's own dequantisation gives.

    tokens int32 [T], each within the table's rows; out float32 [T, D], D the table's columns.
    """
    assert tokens.dtype == np.int32 and tokens.ndim == 1, (tokens.dtype, tokens.shape)
    assert out.shape == (len(tokens), table.columns) and out.dtype == np.float32, (out.shape, out.dtype)
    launch(EMBED[table.format], tokens, table.data, out, len(tokens), table.columns, out.strides[0])
