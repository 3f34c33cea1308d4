"""Rows of a table in any format, as float32."""

import numpy as np

from rocforge.cpu import decode
from rocforge.cpu.decode import A, B, CHUNK, CHUNK_BYTES, MINS
from rocforge.cpu.isa import load_bhalf, load_f32, load_half, load_i16, load_i32, stack, store_f32
from rocforge.cpu.layout import Matrix
from rocforge.cpu.matmul import fill
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
_chunk = stack(CHUNK_BYTES)


@inline
def blocks(args, tid, team, unpack, block, block_bytes):
    """out[t, k] = a_j * w[k] + b_j * min[k // 16], as decode.py has them."""
    tokens, table, out, T, K = words(args, 5)
    chunk, row_bytes = _chunk(), K // block * block_bytes
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        at, to = table + row_bytes * load_i32(tokens + 4 * t), out + 4 * K * t
        for k in range(0, K, CHUNK):
            n = min(CHUNK, K - k)
            at = fill(unpack, block, block_bytes, at, chunk, n // 32)
            for i in range(n):
                a, b = load_f32(chunk + A + i // 32 * 4), load_f32(chunk + B + i // 32 * 4)
                w, minimum = load_i16(chunk + 2 * i), load_i16(chunk + MINS + i // 16 * 2)
                store_f32(to + 4 * (k + i), a * f32(w) + b * f32(minimum))


@inline
def floats(args, tid, team, load_one, width):
    tokens, table, out, T, K = words(args, 5)
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        row = table + width * K * load_i32(tokens + 4 * t)
        for k in range(K):
            store_f32(out + 4 * (K * t + k), load_one(row + width * k))


ROWS = {
    F32: kernel(lambda args, tid, team: floats(args, tid, team, load_f32, 4)),
    F16: kernel(lambda args, tid, team: floats(args, tid, team, load_half, 2)),
    BF16: kernel(lambda args, tid, team: floats(args, tid, team, load_bhalf, 2)),
    Q4_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_0, 32, 18)),
    Q4_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_1, 32, 20)),
    Q5_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_0, 32, 22)),
    Q5_1: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_1, 32, 24)),
    Q8_0: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q8_0, 32, 34)),
    Q2_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q2_k, 256, 84)),
    Q3_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q3_k, 256, 110)),
    Q4_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q4_k, 256, 144)),
    Q5_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q5_k, 256, 176)),
    Q6_K: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_q6_k, 256, 210)),
    IQ4_NL: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_nl, 32, 18)),
    IQ4_XS: kernel(lambda args, tid, team: blocks(args, tid, team, decode.unpack_iq4_xs, 256, 136)),
}


def embed(tokens: np.ndarray, table: Matrix, out: np.ndarray) -> None:
    """out[t] = table[tokens[t]], dequantised. tokens int32 [T], below table.rows; out float32 [T, K]."""
    assert out.shape == (len(tokens), table.columns) and tokens.dtype == np.int32, (out.shape, tokens.dtype)
    launch(ROWS[table.format], tokens, table.data, out, *out.shape)
