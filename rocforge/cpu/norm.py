"""RMSNorm: out = x / sqrt(mean(x^2) + eps) * weight, as float32 or in 8 bits."""

import math

import numpy as np

from rocforge.cpu.isa import binary, fma, load, load_f32, splat, stack, store, store_f32, sum_f32, zero
from rocforge.cpu.quantize import quantize_block
from rocforge.cpu.threads import inline, kernel, launch, real, share, words
from rocforge.gguf.formats import Q8

load16, store16, splat16, zero16 = load(16, "f32"), store(16, "f32"), splat(16, "f32"), zero(16, "f32")
mul16, fma16, fold16 = binary(16, "f32", "fmul"), fma(16), sum_f32(16)
_block = stack(128)
f32 = np.float32


@inline
def inverse_rms(x, n, eps):
    """1 / sqrt(mean(x^2) + eps) of n values: 16 interleaved partial sums, folded, then the rest in order."""
    partial, whole = zero16(), n // 16 * 16
    for i in range(0, whole, 16):
        v = load16(x + 4 * i)
        partial = fma16(v, v, partial)
    total = fold16(partial)
    for i in range(whole, n):
        total += load_f32(x + 4 * i) * load_f32(x + 4 * i)
    return f32(1) / f32(math.sqrt(total / f32(n) + eps))


@inline
def scale_row(x, weight, inverse, out, n):
    """out = x * inverse * weight; out may be x."""
    whole = n // 16 * 16
    for i in range(0, whole, 16):
        store16(out + 4 * i, mul16(mul16(load16(x + 4 * i), splat16(inverse)), load16(weight + 4 * i)))
    for i in range(whole, n):
        store_f32(out + 4 * i, load_f32(x + 4 * i) * inverse * load_f32(weight + 4 * i))


@kernel
def rms_norm_f32(args, tid, team):
    x, weight, out, T, N, eps = words(args, 6)
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        row = x + 4 * N * t
        scale_row(row, weight, inverse_rms(row, N, real(eps)), out + 4 * N * t, N)


@kernel
def rms_norm_q8(args, tid, team):
    x, weight, values, scales, sums, T, N, eps = words(args, 8)
    block = _block()
    start, stop = share(T, tid, team)
    for t in range(start, stop):
        row = x + 4 * N * t
        inverse = inverse_rms(row, N, real(eps))
        for i in range(N // 32):
            scale_row(row + 128 * i, weight + 128 * i, inverse, block, 32)
            at = N // 8 * t + 4 * i
            quantize_block(block, values + N * t + 32 * i, scales + at, sums + at, 0)


def rms_norm(x: np.ndarray, weight: np.ndarray, out: "np.ndarray | Q8", *, eps: float) -> None:
    """out = x / sqrt(mean(x^2) + eps) * weight for each row (Zhang and Sennrich, arXiv 1910.07467).

    x float32 [T, N], weight float32 [N]; out float32 [T, N], or a Q8 (N a multiple of 32): the bits
    are those of the float32 result quantised.
    """
    assert x.flags.c_contiguous and weight.shape == x.shape[1:], (x.shape, weight.shape)
    if isinstance(out, Q8):
        launch(rms_norm_q8, x, weight, *out, *x.shape, eps)
    else:
        launch(rms_norm_f32, x, weight, out, *x.shape, eps)
