"""c += a b of float32, for operands that stay in a first-level cache. Each element is a sum in ascending order.

`a` is rows by n; `b` n rows of vectors of 16 columns; `c` rows of such vectors, one behind the other.
Rows of a, b, c are `a_step`, `step`, `c_step` bytes apart, the vectors of a row of b `apart`.
"""

from rocforge.cpu.dots import has_registers
from rocforge.cpu.isa import fma, load, load_f32, splat, store
from rocforge.cpu.threads import inline

load16, store16, splat16, fma16 = load(16, "f32"), store(16, "f32"), splat(16, "f32"), fma(16)


@inline
def add_1x1(a, b, step, n, c):
    sums = load16(c)
    for i in range(n):
        sums = fma16(splat16(load_f32(a + 4 * i)), load16(b + step * i), sums)
    store16(c, sums)


@inline
def add_1x2(a, b, step, apart, n, c):
    left, right = load16(c), load16(c + 64)
    for i in range(n):
        x = splat16(load_f32(a + 4 * i))
        left = fma16(x, load16(b + step * i), left)
        right = fma16(x, load16(b + apart + step * i), right)
    store16(c, left)
    store16(c + 64, right)


@inline
def add_4x1(a, a_step, b, step, n, c, c_step):
    a1, a2, a3 = a + a_step, a + 2 * a_step, a + 3 * a_step
    c1, c2, c3 = c + c_step, c + 2 * c_step, c + 3 * c_step
    sums0, sums1, sums2, sums3 = load16(c), load16(c1), load16(c2), load16(c3)
    for i in range(n):
        row = load16(b + step * i)
        sums0 = fma16(splat16(load_f32(a + 4 * i)), row, sums0)
        sums1 = fma16(splat16(load_f32(a1 + 4 * i)), row, sums1)
        sums2 = fma16(splat16(load_f32(a2 + 4 * i)), row, sums2)
        sums3 = fma16(splat16(load_f32(a3 + 4 * i)), row, sums3)
    store16(c, sums0)
    store16(c1, sums1)
    store16(c2, sums2)
    store16(c3, sums3)


@inline
def add_4x2(a, a_step, b, step, apart, n, c, c_step):
    a1, a2, a3 = a + a_step, a + 2 * a_step, a + 3 * a_step
    c1, c2, c3 = c + c_step, c + 2 * c_step, c + 3 * c_step
    left0, left1, left2, left3 = load16(c), load16(c1), load16(c2), load16(c3)
    right0, right1, right2, right3 = load16(c + 64), load16(c1 + 64), load16(c2 + 64), load16(c3 + 64)
    for i in range(n):
        left, right = load16(b + step * i), load16(b + apart + step * i)
        x0, x1 = splat16(load_f32(a + 4 * i)), splat16(load_f32(a1 + 4 * i))
        x2, x3 = splat16(load_f32(a2 + 4 * i)), splat16(load_f32(a3 + 4 * i))
        left0, right0 = fma16(x0, left, left0), fma16(x0, right, right0)
        left1, right1 = fma16(x1, left, left1), fma16(x1, right, right1)
        left2, right2 = fma16(x2, left, left2), fma16(x2, right, right2)
        left3, right3 = fma16(x3, left, left3), fma16(x3, right, right3)
    store16(c, left0)
    store16(c + 64, right0)
    store16(c1, left1)
    store16(c1 + 64, right1)
    store16(c2, left2)
    store16(c2 + 64, right2)
    store16(c3, left3)
    store16(c3 + 64, right3)


@inline
def add_product(a, a_step, b, step, apart, n, c, c_step, rows, vectors):
    """Four rows of a at a time, so that each row of b is read once for all four; eight sums, where there
    are registers for them, so that none waits for the one before it."""
    whole = rows // 4 * 4
    done = 0
    if has_registers():
        done = vectors // 2 * 2
        for v in range(0, done, 2):
            for r in range(0, whole, 4):
                add_4x2(a + a_step * r, a_step, b + apart * v, step, apart, n, c + c_step * r + 64 * v, c_step)
            for r in range(whole, rows):
                add_1x2(a + a_step * r, b + apart * v, step, apart, n, c + c_step * r + 64 * v)
    for v in range(done, vectors):
        for r in range(0, whole, 4):
            add_4x1(a + a_step * r, a_step, b + apart * v, step, n, c + c_step * r + 64 * v, c_step)
        for r in range(whole, rows):
            add_1x1(a + a_step * r, b + apart * v, step, n, c + c_step * r + 64 * v)
