"""Rows picked out of a matrix."""

import numpy as np

from rocforge.cpu.isa import load_f32, load_i32, store_f32
from rocforge.cpu.threads import kernel, launch, share, words


@kernel
def gather_rows(args, tid, team):
    x, rows, out, R, N = words(args, 5)
    start, stop = share(R, tid, team)
    for r in range(start, stop):
        source = x + 4 * N * load_i32(rows + 4 * r)
        for i in range(N):
            store_f32(out + 4 * (N * r + i), load_f32(source + 4 * i))


def gather(x: np.ndarray, rows: np.ndarray, out: np.ndarray) -> None:
    """out[r] = x[rows[r]]; x float32 [T, N], rows int32 [R], out float32 [R, N]."""
    assert x.flags.c_contiguous and rows.dtype == np.int32, (x.strides, rows.dtype)
    launch(gather_rows, x, rows, out, *out.shape)
