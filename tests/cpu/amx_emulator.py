"""AMX's tiles in memory, for machines without: import before any kernel. One thread; slow; keep no cache of what it compiles.

Written after Intel's reference of the instructions (TILELOADD, TILESTORED, TDPBF16PS), not after the kernels.
"""

import numpy as np

from rocforge.cpu import tier

tier.tier = lambda: "amx"

from rocforge.cpu import amx  # noqa: E402
from rocforge.cpu.isa import as_f32, load_f32, load_i8, load_i16, store_f32, store_scalar  # noqa: E402
from rocforge.cpu.threads import inline  # noqa: E402

store_i8 = store_scalar("i8")
STATE = np.zeros(64 + 8 * 1024, np.uint8)
CONFIG = STATE.ctypes.data
TILES = CONFIG + 64


@inline
def configure(address):
    for i in range(64):
        store_i8(CONFIG + i, load_i8(address + i))


@inline
def release():
    for i in range(64):
        store_i8(CONFIG + i, 0)


@inline
def shape(i):
    """(rows, bytes of a row); none where there is no configuration."""
    return load_i8(CONFIG + 48 + i) & 255, load_i16(CONFIG + 16 + 2 * i) & 65535


def clear_tile(i):
    at = TILES + 1024 * i

    @inline
    def clear():
        for k in range(1024):
            store_i8(at + k, 0)

    return clear


@inline
def copy_rows(source, source_stride, to, stride, rows, columns):
    for r in range(rows):
        for k in range(columns):
            store_i8(to + stride * r + k, load_i8(source + source_stride * r + k))


def load_tile(i):
    at = TILES + 1024 * i

    @inline
    def load(address, stride):
        rows, columns = shape(i)
        for k in range(1024):
            store_i8(at + k, 0)
        copy_rows(address, stride, at, 64, rows, columns)

    return load


def store_tile(i):
    at = TILES + 1024 * i

    @inline
    def store(address, stride):
        rows, columns = shape(i)
        copy_rows(at, 64, address, stride, rows, columns)

    return store


@inline
def bfloat(address):
    return as_f32((load_i16(address) & 65535) << 16)


def dot_tiles(c, a, b):
    sums, left, right = (TILES + 1024 * i for i in (c, a, b))

    @inline
    def dot():
        rows, columns = shape(c)
        _, depth = shape(a)
        for m in range(rows):
            for n in range(columns // 4):
                even, odd = np.float32(0), np.float32(0)
                for k in range(depth // 4):
                    x, w = left + 64 * m + 4 * k, right + 64 * k + 4 * n
                    even += bfloat(x) * bfloat(w)
                    odd += bfloat(x + 2) * bfloat(w + 2)
                at = sums + 64 * m + 4 * n
                store_f32(at, load_f32(at) + (even + odd))

    return dot


amx.configure, amx.release = configure, release
amx.clear_tile, amx.load_tile, amx.store_tile, amx.dot_tiles = clear_tile, load_tile, store_tile, dot_tiles
