"""SwiGLU: out = silu(gate) * up, as float32 or in 8 bits."""

import numpy as np

from rocforge.cpu.isa import binary, exp16, load, load_f32, splat, stack, store, store_f32
from rocforge.cpu.quantize import following, quantize_block
from rocforge.cpu.threads import inline, kernel, launch, share, words
from rocforge.gguf.formats import Q8

load16, store16, splat16 = load(16, "f32"), store(16, "f32"), splat(16, "f32")
mul16, add16, div16, sub16 = (binary(16, "f32", name) for name in ("fmul", "fadd", "fdiv", "fsub"))
_block, _gate, _up = stack(128), stack(128), stack(128)
f32 = np.float32


@inline
def silu16(x):
    """x / (1 + e^-x)"""
    one = splat16(f32(1))
    return div16(x, add16(one, exp16(sub16(splat16(f32(0)), x))))


@inline
def swiglu_block(gate, up, out, n, padded_gate, padded_up, padded_out):
    """n <= 32 values; fewer than 32 go through buffers, so that all lanes hold numbers."""
    if n == 32:
        store16(out, mul16(silu16(load16(gate)), load16(up)))
        store16(out + 64, mul16(silu16(load16(gate + 64)), load16(up + 64)))
    else:
        for i in range(32):
            store_f32(padded_gate + 4 * i, load_f32(gate + 4 * i) if i < n else f32(0))
            store_f32(padded_up + 4 * i, load_f32(up + 4 * i) if i < n else f32(0))
        store16(padded_out, mul16(silu16(load16(padded_gate)), load16(padded_up)))
        store16(padded_out + 64, mul16(silu16(load16(padded_gate + 64)), load16(padded_up + 64)))
        for i in range(n):
            store_f32(out + 4 * i, load_f32(padded_out + 4 * i))


@kernel
def swiglu_f32(args, tid, team):
    x, out, T, F = words(args, 4)
    gate, up, block = _gate(), _up(), _block()
    blocks = (F + 31) // 32
    start, stop = share(T * blocks, tid, team)
    t, k = start // blocks, start % blocks
    for _ in range(start, stop):
        row = x + 4 * (2 * F * t + 32 * k)
        swiglu_block(row, row + 4 * F, out + 4 * (F * t + 32 * k), min(32, F - 32 * k), gate, up, block)
        t, k = following(t, k, blocks)


@kernel
def swiglu_q8(args, tid, team):
    x, values, scales, sums, T, F = words(args, 6)
    gate, up, block = _gate(), _up(), _block()
    blocks = F // 32
    start, stop = share(T * blocks, tid, team)
    t, k = start // blocks, start % blocks
    for _ in range(start, stop):
        row = x + 4 * (2 * F * t + 32 * k)
        swiglu_block(row, row + 4 * F, block, 32, gate, up, block)
        quantize_block(block, values + F * t + 32 * k, scales + F // 8 * t + 4 * k, sums + F // 8 * t + 4 * k, 0)
        t, k = following(t, k, blocks)


def swiglu(gate_up: np.ndarray, out: "np.ndarray | Q8") -> None:
    """out = silu(gate) * up, silu(x) = x / (1 + e^-x) (Shazeer, arXiv 2002.05202).

    gate_up float32 [T, 2F], gate first; out float32 [T, F], or a Q8 (F a multiple of 32).
    """
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    assert gate_up.flags.c_contiguous, gate_up.strides
    if isinstance(out, Q8):
        launch(swiglu_q8, gate_up, *out, T, F)
    else:
        launch(swiglu_f32, gate_up, out, T, F)
