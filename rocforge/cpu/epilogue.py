"""What every kernel of linear does with a finished sum."""

from rocforge.cpu.isa import load_f32, store_f32
from rocforge.cpu.threads import inline


@inline
def finish(value, bias, residual, out, t, n, residual_stride, out_stride):
    """out[t, n] = value + bias[n] + residual[t, n]; an address of 0 stands for what there is not."""
    if bias != 0:
        value += load_f32(bias + 4 * n)
    if residual != 0:
        value += load_f32(residual + residual_stride * t + 4 * n)
    store_f32(out + out_stride * t + 4 * n, value)
