"""Whole numbers, as the host cuts work by them. Triton's own functions for it, which kernels may call too, take 5 us each:
a tenth of a step's recording."""


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The least power of two that is at least n, which is above 0."""
    return 1 << (n - 1).bit_length()
