"""Activations to 8 bits, in blocks of 32. The one place that rounds them."""

import numpy as np

from rocforge.cpu.isa import largest_of, load, rounded, store_bytes, store_f32, store_i16, sum_i32
from rocforge.cpu.threads import inline, kernel, launch, share, words
from rocforge.gguf.formats import Q8

load16f = load(16, "f32")
f32 = np.float32

# A block that is smaller than this everywhere counts as zero: 127 / amax would leave float32.
TINY = f32(2.0**-120)


@inline
def scale_of(largest):
    """(scale, its inverse) of a block whose largest absolute value is `largest`."""
    if largest < TINY:
        largest = f32(0)
    inverse = f32(127) / largest if largest > 0 else f32(0)
    return largest / f32(127), inverse


@inline
def quantize_block(x, values, scales, sums, block):
    """Block number `block` of the row at `x` into the rows at `values`, `scales` and `sums`."""
    x, values = x + 128 * block, values + 32 * block
    first, second = load16f(x), load16f(x + 64)
    scale, inverse = scale_of(largest_of(first, second))
    first_8, second_8 = rounded(first, inverse), rounded(second, inverse)
    store_bytes(values, first_8)
    store_bytes(values + 16, second_8)
    store_f32(scales + 4 * block, scale)
    store_i16(sums + 4 * block, sum_i32(first_8))
    store_i16(sums + 4 * block + 2, sum_i32(second_8))


@inline
def following(t, block, blocks):
    """(row, block) after block number `block` of row t, of rows of as many blocks: no division in a loop."""
    return (t, block + 1) if block + 1 < blocks else (t + 1, 0)


@kernel
def quantize_rows(args, tid, team):
    x, stride, values, scales, sums, T, K = words(args, 7)
    blocks = K // 32
    start, stop = share(T * blocks, tid, team)
    t, block = start // blocks, start % blocks
    for _ in range(start, stop):
        quantize_block(x + 4 * stride * t, values + K * t, scales + K // 8 * t, sums + K // 8 * t, block)
        t, block = following(t, block, blocks)


def quantize(x: np.ndarray, out: Q8) -> None:
    """out = x in 8 bits: per block of 32, scale = amax / 127, values = x * (127 / amax) rounded half to even.

    x float32 [T, K], finite, K a multiple of 32; a block whose amax is below 2^-120 has scale 0 and values 0.
    """
    assert out.values.shape == x.shape and x.dtype == np.float32, (out.values.shape, x.shape, x.dtype)
    launch(quantize_rows, x, x.strides[0] // 4, out.values, out.scales, out.sums, *x.shape)
