"""How fast this CPU reads and multiplies: what rooflines are made of. Knows no op.

Each figure is the best of several runs: what disturbs a run makes it slower, never faster.
"""

import time
from collections.abc import Callable

import numpy as np

from rocforge.cpu.amx import CONFIG_BYTES, configure_whole, dot_tiles, has_tiles, release
from rocforge.cpu.dots import add_word_small, has_registers
from rocforge.cpu.isa import fma, load, prefetch_far, stack, store, store_i64, zero
from rocforge.cpu.threads import aligned, inline, kernel, launch, share, words
from rocforge.cpu.tier import tier

RUNS = 9
# Bytes that one measurement of the bandwidth reads at least, and those of the smallest buffer that it is asked for.
READ_BYTES, LEAST_BYTES = 128 << 20, 64 << 10
# Products of a vector in one measurement of a peak: some milliseconds. Tiles make 256 of these at once.
PRODUCTS = 12 * 400_000
TILE_PRODUCTS = 4 * 25_000
# Where a thread reads in turn: see rows.py.
PLACES = 4
# Where results go, so that they are computed: a line for the size of the team, and one for each thread.
LINE, MOST_THREADS = 64, 1024

load16, store16, zero16 = load(16, "i32"), store(16, "i32"), zero(16, "i32")
load64, load_floats, store_floats, fused = load(64, "i8"), load(16, "f32"), store(16, "f32"), fma(16)
_config = stack(CONFIG_BYTES)
tiles0, tiles1, tiles2, tiles3 = (dot_tiles(c, 4 + c // 2, 6 + c % 2) for c in range(4))


def _best_s(backend, record: Callable[[], None]) -> float:
    """The shortest time of what is launched in `record`."""
    with backend.record() as program:
        record()
    times_s = []
    for _ in range(1 + RUNS):
        start_s = time.perf_counter()
        backend.run(program)
        times_s.append(time.perf_counter() - start_s)
    return min(times_s[1:])


# ---- bandwidth


@inline
def read_places(args, tid, team, ahead):
    """Reads n times 256 bytes at each of PLACES, `passes` times over, each thread its share; asks for bytes `ahead` of them, if that
    is not 0."""
    data, n, passes, out = words(args, 4)
    start, stop = share(n, tid, team)
    a, b, c, d = zero16(), zero16(), zero16(), zero16()
    for _ in range(passes):
        for i in range(start, stop):
            for place in range(PLACES):
                p = data + 256 * (n * place + i)
                if ahead != 0:
                    for line in range(0, 256, LINE):
                        prefetch_far(p + ahead + line)
                a, b, c, d = a ^ load16(p), b ^ load16(p + 64), c ^ load16(p + 128), d ^ load16(p + 192)
    store16(out + LINE * (1 + tid), (a ^ b) ^ (c ^ d))


# A cache is read faster without asking ahead, memory with.
READS = (
    kernel(lambda args, tid, team: read_places(args, tid, team, 0)),
    kernel(lambda args, tid, team: read_places(args, tid, team, 768)),
)


def bandwidth(backend, n_bytes: int) -> float:
    """Bytes a second that all threads read of a buffer of `n_bytes`, again and again, each the same part of it."""
    n = max(1, n_bytes // (256 * PLACES))
    data = aligned(256 * PLACES * n)
    data.fill(1)
    passes = -(-READ_BYTES // len(data))
    return passes * len(data) / min(_best_s(backend, lambda read=read: launch(read, data, n, passes, _out())) for read in READS)


# ---- peaks


@inline
def dots6(values, x, out):
    """Six sums at once: as many as 16 registers of half a vector hold."""
    a, b, c, d, e, f = zero16(), zero16(), zero16(), zero16(), zero16(), zero16()
    for i in range(PRODUCTS // 6):
        p = x + 4 * (i & 7)  # another word each time: a product that stays the same would be made once
        a, b, c = add_word_small(a, values, p), add_word_small(b, values, p + 4), add_word_small(c, values, p + 8)
        d, e, f = add_word_small(d, values, p + 12), add_word_small(e, values, p + 16), add_word_small(f, values, p + 20)
    store16(out, (a ^ b) ^ (c ^ d) ^ (e ^ f))


@inline
def dots12(values, x, out):
    """Twelve: two units of five cycles' latency are kept busy by ten."""
    a, b, c, d, e, f = zero16(), zero16(), zero16(), zero16(), zero16(), zero16()
    g, h, i, j, k, m = zero16(), zero16(), zero16(), zero16(), zero16(), zero16()
    for n in range(PRODUCTS // 12):
        p = x + 4 * (n & 7)
        a, b, c = add_word_small(a, values, p), add_word_small(b, values, p + 4), add_word_small(c, values, p + 8)
        d, e, f = add_word_small(d, values, p + 12), add_word_small(e, values, p + 16), add_word_small(f, values, p + 20)
        g, h, i = add_word_small(g, values, p + 24), add_word_small(h, values, p + 28), add_word_small(i, values, p + 32)
        j, k, m = add_word_small(j, values, p + 36), add_word_small(k, values, p + 40), add_word_small(m, values, p + 44)
    store16(out, (a ^ b) ^ (c ^ d) ^ (e ^ f) ^ (g ^ h) ^ (i ^ j) ^ (k ^ m))


@kernel
def multiply_bytes(args, tid, team):
    """PRODUCTS of 64 bytes each in the tier's instruction, or TILE_PRODUCTS of tiles of 16 times 32 bfloat16."""
    x, out = words(args, 2)
    config = _config()
    if tid == 0:
        store_i64(out, team)
    if has_tiles() != 0:
        configure_whole(config)
        for _ in range(TILE_PRODUCTS // 4):
            tiles0()
            tiles1()
            tiles2()
            tiles3()
        release()
    elif has_registers() != 0:
        dots12(load64(x), x, out + LINE * (1 + tid))
    else:
        dots6(load64(x), x, out + LINE * (1 + tid))


@inline
def floats6(x, out):
    """Sums that begin differently: equal ones would be one."""
    y = load_floats(x)
    a, b, c = load_floats(x), load_floats(x + 64), load_floats(x + 128)
    d, e, f = load_floats(x + 192), load_floats(x + 256), load_floats(x + 320)
    for _ in range(PRODUCTS // 6):
        a, b, c = fused(y, y, a), fused(y, y, b), fused(y, y, c)
        d, e, f = fused(y, y, d), fused(y, y, e), fused(y, y, f)
    store_floats(out, (a + b) + (c + d) + (e + f))


@inline
def floats12(x, out):
    y = load_floats(x)
    a, b, c = load_floats(x), load_floats(x + 64), load_floats(x + 128)
    d, e, f = load_floats(x + 192), load_floats(x + 256), load_floats(x + 320)
    g, h, i = load_floats(x + 384), load_floats(x + 448), load_floats(x + 512)
    j, k, m = load_floats(x + 576), load_floats(x + 640), load_floats(x + 704)
    for _ in range(PRODUCTS // 12):
        a, b, c = fused(y, y, a), fused(y, y, b), fused(y, y, c)
        d, e, f = fused(y, y, d), fused(y, y, e), fused(y, y, f)
        g, h, i = fused(y, y, g), fused(y, y, h), fused(y, y, i)
        j, k, m = fused(y, y, j), fused(y, y, k), fused(y, y, m)
    store_floats(out, (a + b) + (c + d) + (e + f) + (g + h) + (i + j) + (k + m))


@kernel
def multiply_floats(args, tid, team):
    """PRODUCTS of 16 floats each."""
    x, out = words(args, 2)
    if tid == 0:
        store_i64(out, team)
    if has_registers() != 0:
        floats12(x, out + LINE * (1 + tid))
    else:
        floats6(x, out + LINE * (1 + tid))


# By tier: what multiplies weights.
UNITS = {"generic": "8-bit products in LLVM's own", "avx2": "vpmaddubsw", "avx512vnni": "vpdpbusd", "amx": "tdpbf16ps, of bfloat16"}


def matrix_peak(backend) -> tuple[float, str]:
    """Operations a second (a product and a sum are two) on what block formats are multiplied as, by all threads, and what makes them."""
    x, out = aligned(128), _out()
    x[:] = np.arange(128)
    best_s = _best_s(backend, lambda: launch(multiply_bytes, x, out))
    ops = TILE_PRODUCTS * 2 * 16 * 16 * 32 if tier() == "amx" else PRODUCTS * 2 * 64
    return ops * _team(out) / best_s, UNITS[tier()]


def vector_peak(backend) -> tuple[float, str]:
    """The same of float32, by fused products and sums."""
    x, out = np.linspace(1e-3, 2e-3, 192, dtype=np.float32), _out()
    best_s = _best_s(backend, lambda: launch(multiply_floats, x, out))
    return PRODUCTS * 2 * 16 * _team(out) / best_s, "float32 FMA"


def _out() -> np.ndarray:
    return aligned(LINE * (1 + MOST_THREADS))


def _team(out: np.ndarray) -> int:
    """How many threads a measurement ran on."""
    return int(out[:8].view(np.int64)[0])
