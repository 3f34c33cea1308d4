"""What every kernel of linear does with a finished sum."""

from rocforge.cpu.isa import load, load_f32, store, store_f32
from rocforge.cpu.lanes import ROWS
from rocforge.cpu.threads import inline

load_lanes, store_lanes = load(16, "f32"), store(16, "f32")


@inline
def finish(value, bias, residual, out, t, n, residual_stride, out_stride):
    """out[t, n] = value + bias[n] + residual[t, n]; an address of 0 stands for what there is not."""
    if bias != 0:
        value += load_f32(bias + 4 * n)
    if residual != 0:
        value += load_f32(residual + residual_stride * t + 4 * n)
    store_f32(out + out_stride * t + 4 * n, value)


@inline
def finish_16(values, bias, residual, out, t, n, residual_stride, out_stride):
    """The same of 16 rows, from n on."""
    if bias != 0:
        values = values + load_lanes(bias + 4 * n)
    if residual != 0:
        values = values + load_lanes(residual + residual_stride * t + 4 * n)
    store_lanes(out + out_stride * t + 4 * n, values)


@inline
def finish_panel(values, buffer, bias, residual, out, t, n0, rows, N, residual_stride, out_stride):
    """Token t's values of a panel of `rows` rows from n0 on. The last panel of N rows begins earlier than that, so as
    to be whole: its rows before n0 are not stored. `buffer` is scratch for 16 floats."""
    top = min(n0, N - rows)
    if n0 == top and rows == ROWS:
        finish_16(values, bias, residual, out, t, n0, residual_stride, out_stride)
    else:
        store_lanes(buffer, values)
        for n in range(n0, min(n0 + rows, N)):
            finish(load_f32(buffer + 4 * (n - top)), bias, residual, out, t, n, residual_stride, out_stride)
