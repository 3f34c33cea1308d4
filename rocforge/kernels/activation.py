"""SwiGLU: out = silu(gate) * up, as float32, in 8 bits, or in halves that are made of those."""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Q8
from rocforge.kernels import halves, tuning
from rocforge.kernels.columns import Order
from rocforge.kernels.early import wait
from rocforge.kernels.halves import Halves, store_halves
from rocforge.kernels.launch import launch
from rocforge.kernels.quantize import store_q8
from rocforge.kernels.sizes import cdiv, next_power_of_2


class ValuesTile(NamedTuple):
    """Values that one program has."""

    BF: int
    num_warps: int


class BlocksTile(NamedTuple):
    """Blocks of 32 values that one program has."""

    BB: int
    num_warps: int


VALUES, BLOCKS = ValuesTile(512, 2), BlocksTile(16, 2)


@triton.jit
def silu(x):
    """x / (1 + e^-x)"""
    return x / (1.0 + tl.exp(-x))


@triton.jit
def gated(x, t, f, F):
    """silu(gate) * up of the values f of row t, 0 beyond the last."""
    row = x + t * 2 * F
    gate, up = tl.load(row + f, mask=f < F, other=0), tl.load(row + F + f, mask=f < F, other=0)
    return silu(gate) * up


@triton.jit
def swiglu_f32(x, out, F, BF: tl.constexpr, EARLY: tl.constexpr):
    """Program (t, i): values i * BF .. of row t."""
    wait(EARLY)
    t, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BF + tl.arange(0, BF)
    tl.store(out + t * F + f, gated(x, t, f, F), mask=f < F)


@triton.jit
def swiglu_q8(x, values, scales, sums, F, BB: tl.constexpr, EARLY: tl.constexpr):
    """Program (t, i): blocks i * BB .. of row t."""
    wait(EARLY)
    t, block = tl.program_id(0).to(tl.int64), tl.program_id(1) * BB + tl.arange(0, BB)
    f = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    store_q8(gated(x, t, f, F), values + t * F, scales + t * (F // 32), sums + t * (F // 16), block, block < F // 32)


@triton.jit
def swiglu_halves(x, out, largest, F, out_stride, BB: tl.constexpr, MIX: tl.constexpr, PAIRED: tl.constexpr, EARLY: tl.constexpr):
    """Program t: row t, whole, as BB blocks of 32."""
    wait(EARLY)
    t, block = tl.program_id(0).to(tl.int64), tl.arange(0, BB)
    f = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    store_halves(gated(x, t, f, F), out + t * out_stride, largest + t, out_stride, MIX, PAIRED)


def fits(gate_up: torch.Tensor) -> bool:
    """Whether one program holds a row of what is made of it in its registers."""
    return halves.fits(gate_up.shape[1] // 2)


def to_halves(gate_up: torch.Tensor, order: Order) -> Halves:
    """swiglu() in 8 bits, as the matrix units take them: what halves.of_q8 makes of it."""
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    made = halves.empty(T, F, order, gate_up)
    columns = made.values.shape[1]
    launch(
        swiglu_halves, (T,), gate_up, *made, F, columns, num_warps=halves.ROW_WARPS, fuses=False,
        BB=next_power_of_2(columns // 32), **order._asdict(),
    )  # fmt: skip
    return made


def swiglu(gate_up: torch.Tensor, out: "torch.Tensor | Q8") -> None:
    """out = silu(gate) * up, silu(x) = x / (1 + e^-x) (Shazeer, arXiv 2002.05202).

    gate_up float32 [T, 2F], gate first; out float32 [T, F], or a Q8 (F a multiple of 32).
    """
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    assert gate_up.is_contiguous(), gate_up.stride()
    if isinstance(out, Q8):
        at = tuning.tile(swiglu_q8, BLOCKS, "", (F,), T)
        launch(swiglu_q8, (T, cdiv(F // 32, at.BB)), gate_up, *out, F, num_warps=at.num_warps, fuses=False, BB=at.BB)
    else:
        at = tuning.tile(swiglu_f32, VALUES, "", (F,), T)
        launch(swiglu_f32, (T, cdiv(F, at.BF)), gate_up, out, F, num_warps=at.num_warps, fuses=False, BF=at.BF)
