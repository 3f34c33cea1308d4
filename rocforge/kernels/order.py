"""Numbers in their order, and what of a row lies above a bound. Knows no sampling.

A key is an int32 in the order of float32, so that a bound can be found by bisection over all numbers.
Every sum is taken in one fixed order: it repeats itself bit for bit, and never grows with its bound.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.4028234663852886e38)  # the lowest finite float32


@triton.jit
def key_of(logit):
    """int32 in the order of float32: NaN as minus infinity, both zeros alike."""
    logit = tl.where(logit == logit, logit, float("-inf"))
    bits = tl.where(logit == 0, 0.0, logit).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def number_of(key):
    """float32 of a key."""
    key = key.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def weight_of(x, best, scale):
    """exp2((x - best) * scale): 1 where scale is 0, whatever x."""
    return tl.exp2(tl.maximum(x - best, LOWEST) * scale)


@triton.jit
def reach(row, V, best, scale, a, b, c, BLOCK: tl.constexpr):
    """The sums of weights over the x of a row that are at least a, b and c, finite all; scale 0 counts them."""
    sum_a = tl.zeros((BLOCK,), tl.float32)
    sum_b = tl.zeros((BLOCK,), tl.float32)
    sum_c = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, V, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row + ids, mask=ids < V, other=float("-inf"))
        weight = weight_of(x, best, scale)
        sum_a += tl.where(x >= a, weight, 0.0)
        sum_b += tl.where(x >= b, weight, 0.0)
        sum_c += tl.where(x >= c, weight, 0.0)
    return tl.sum(sum_a, axis=0), tl.sum(sum_b, axis=0), tl.sum(sum_c, axis=0)


@triton.jit
def measure(row, V, best, scale, cut, BLOCK: tl.constexpr):
    """The sum of weights over x > cut, the weight of one x at `cut`, and how many are at it."""
    above = tl.zeros((BLOCK,), tl.float32)
    ties = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, V, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row + ids, mask=ids < V, other=float("-inf"))
        above += tl.where(x > cut, weight_of(x, best, scale), 0.0)
        ties += (x == cut).to(tl.int32)
    weight = weight_of(cut, best, scale).to(tl.float64)
    return tl.sum(above, axis=0).to(tl.float64), weight, tl.sum(ties, axis=0)


@triton.jit
def lowest(row, V, bound, BLOCK: tl.constexpr):
    """The lowest x that is at least `bound`; there is one."""
    least = tl.full((BLOCK,), float("inf"), tl.float32)
    for start in range(0, V, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row + ids, mask=ids < V, other=float("-inf"))
        least = tl.where((x >= bound) & (x < least), x, least)
    return tl.min(least, axis=0)


@triton.jit
def nth(row, V, value, n, BLOCK: tl.constexpr):
    """The id of the n-th x, from 0, that equals `value`."""
    found = tl.full((), -1, tl.int32)
    before = tl.full((), 0, tl.int32)
    for start in range(0, V, BLOCK):
        ids = start + tl.arange(0, BLOCK)
        x = tl.load(row + ids, mask=ids < V, other=float("-inf"))
        equal = (x == value).to(tl.int32)
        hit = (equal > 0) & (before + tl.cumsum(equal, axis=0) == n + 1)
        found = tl.maximum(found, tl.max(tl.where(hit, ids, -1), axis=0))
        before += tl.sum(equal, axis=0)
    return found


@triton.jit
def highest(row, V, best, scale, cut, goal, STRICT: tl.constexpr, BLOCK: tl.constexpr):
    """The highest x so that the mass of all from it up reaches `goal` (STRICT: exceeds it); `cut` where none above it does.

    Four ways at a time, for a pass over a row takes as long for three bounds as for one.
    """
    low, high = key_of(cut).to(tl.int64), key_of(best).to(tl.int64)
    while low < high:
        span = high - low
        key_a, key_b, key_c = low + (span + 3) // 4, low + (2 * span + 3) // 4, low + (3 * span + 3) // 4
        sum_a, sum_b, sum_c = reach(row, V, best, scale, number_of(key_a), number_of(key_b), number_of(key_c), BLOCK)
        if STRICT:
            is_a, is_b, is_c = sum_a.to(tl.float64) > goal, sum_b.to(tl.float64) > goal, sum_c.to(tl.float64) > goal
        else:
            is_a, is_b, is_c = sum_a.to(tl.float64) >= goal, sum_b.to(tl.float64) >= goal, sum_c.to(tl.float64) >= goal
        low = tl.where(is_c, key_c, tl.where(is_b, key_b, tl.where(is_a, key_a, low)))
        high = tl.where(is_c, high, tl.where(is_b, key_c - 1, tl.where(is_a, key_b - 1, key_a - 1)))
    return number_of(low)


@triton.jit
def least_of(best, share):
    """The lowest float32 x so that exp(x - best) >= share; the exponential is taken in float64."""
    low, high = key_of(tl.full((), LOWEST, tl.float32)).to(tl.int64), key_of(best).to(tl.int64)
    while low < high:
        middle = (low + high) >> 1
        passes = tl.exp(number_of(middle).to(tl.float64) - best.to(tl.float64)) >= share
        low = tl.where(passes, low, middle + 1)
        high = tl.where(passes, middle, high)
    return number_of(low)
