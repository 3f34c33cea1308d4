"""Rows of a table in any format, as float32. Chooses no token."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.kernels import target, tuning
from rocforge.kernels.decode import DECODE, byte_of
from rocforge.kernels.early import wait
from rocforge.kernels.launch import launch
from rocforge.kernels.layout import UNIT, Matrix
from rocforge.kernels.sizes import cdiv


class BlocksTile(NamedTuple):
    """Units of a row that one program decodes."""

    BU: int
    num_warps: int


class FloatsTile(NamedTuple):
    """Columns of a row that one program copies."""

    BLOCK: int
    num_warps: int


BLOCKS, FLOATS = BlocksTile(64, 1), FloatsTile(1024, 1)


@triton.jit
def spread_bytes(words, SIGNED: tl.constexpr):
    """[BN, BU, 4] words to [BN, BU, 16] bytes, as int32."""
    shifts = 8 * tl.arange(0, 4)[None, None, None, :]
    if SIGNED:
        bytes_ = (words[:, :, :, None] << (24 - shifts)) >> 24
    else:
        bytes_ = (words[:, :, :, None] >> shifts) & 255
    return tl.reshape(bytes_, (words.shape[0], words.shape[1], 16))


@triton.jit
def weights_of(
    words, d, scales, m, mins, I: tl.constexpr,
    OFFSET: tl.constexpr, SCALED: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr,
):  # fmt: skip
    """One group's weights, float32 [BN, BU, 16]: (d * scale) * value + m * min, each step rounded as ggml's are. Scale and
    min are byte I of theirs."""
    if SCALED:
        d = d * byte_of(scales, I)
        m = m * byte_of(mins, I)
    w = d[:, :, None] * (spread_bytes(words, SIGNED) - OFFSET).to(tl.float32)
    if MINS:
        w += m[:, :, None]
    return w


@triton.jit
def embed_blocks(
    tokens, quants, high, scales_, supers, out, K, U, out_stride,
    read_values: tl.constexpr, values: tl.constexpr, read_scales: tl.constexpr, scales: tl.constexpr, OFFSET: tl.constexpr,
    SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr, SIGNED: tl.constexpr, BU: tl.constexpr, ISA: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """Program (t, i): units i * BU .. of row tokens[t]."""
    wait(EARLY)
    t = tl.program_id(0)
    token, row = tl.load(tokens + t), tl.arange(0, 1)
    first = tl.program_id(1) * BU
    q0, q1, q2, q3 = values(read_values(quants, high, token, row, first, U, U, BU, False), ISA)
    d0, d1, m0, m1, s, n = scales(read_scales(scales_, supers, token, row, first, U, U, BU, False))
    columns = (first + tl.arange(0, BU))[None, :, None] * 64 + tl.arange(0, 16)[None, None, :]
    to = out + t.to(tl.int64) * out_stride + columns
    tl.store(to, weights_of(q0, d0, s, m0, n, 0, OFFSET, SCALED, MINS, SIGNED), mask=columns < K)
    tl.store(to + 16, weights_of(q1, d0, s, m0, n, 0 if HALVES else 1, OFFSET, SCALED, MINS, SIGNED), mask=columns + 16 < K)
    tl.store(to + 32, weights_of(q2, d1, s, m1, n, 1 if HALVES else 2, OFFSET, SCALED, MINS, SIGNED), mask=columns + 32 < K)
    tl.store(to + 48, weights_of(q3, d1, s, m1, n, 1 if HALVES else 3, OFFSET, SCALED, MINS, SIGNED), mask=columns + 48 < K)


@triton.jit
def embed_floats(tokens, table, out, K, out_stride, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    wait(EARLY)
    t = tl.program_id(0)
    row = tl.load(tokens + t).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(table + row * K + columns, mask=columns < K, other=0)
    tl.store(out + t.to(tl.int64) * out_stride + columns, x.to(tl.float32), mask=columns < K)


def embed(tokens: torch.Tensor, table: Matrix, out: torch.Tensor) -> None:
    """out[t] = table[tokens[t]], dequantised: the float32 values that ggml's own dequantisation gives.

    tokens int32 [T], each within the table's rows; out float32 [T, D], D the table's columns.
    """
    T, K = len(tokens), table.columns
    assert tokens.dtype == torch.int32 and tokens.ndim == 1, (tokens.dtype, tokens.shape)
    assert out.shape == (T, K) and out.dtype == torch.float32, (out.shape, out.dtype)
    if table.format.is_float:
        at = tuning.tile(embed_floats, FLOATS, table.format.name, (table.rows, K), T)
        grid = (T, cdiv(K, at.BLOCK))
        launch(embed_floats, grid, tokens, table.planes.quants, out, K, out.stride(0), num_warps=at.num_warps, BLOCK=at.BLOCK)
        return
    U, at = -(-K // UNIT), tuning.tile(embed_blocks, BLOCKS, table.format.name, (table.rows, K), T)
    launch(
        embed_blocks, (T, cdiv(U, at.BU)), tokens, *table.planes, out, K, U, out.stride(0),
        num_warps=at.num_warps, fuses=False, BU=at.BU, ISA=target.current().isa, **DECODE[table.format]._asdict(),
    )  # fmt: skip
