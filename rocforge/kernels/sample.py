"""From logits to token ids on the device: penalties, truncation, the draw. Knows no requests and draws no random numbers.

Parameters are small and of any type of number; float64, but for whole numbers, gives what the CPU computes.
Kernels read them: as tensors on the logits' device they can be recorded, and what the host has (numpy's
arrays, lists) is sent there by one copy. The host waits for nothing.

Three kernels, each done at once with a row that asks no more of it. `scan` reads the vocabulary, by many
programs: of each chunk the first largest, masses, and those parts (of a few logits) whose maxima are
largest. The M largest logits of the row lie in the M parts of the largest maxima: `narrow` sorts those.
What M candidates decide (greedy, top_k up to M, most draws of a peaked distribution) `draw` decides from
them, in float64. For the rest it finds by bisection over all float32 numbers the bounds above which
lie so many logits, or so much mass: exact as well, and some hundred microseconds slower.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl

from rocforge.kernels import target
from rocforge.kernels.launch import launch, scratch
from rocforge.kernels.order import LOWEST, highest, key_of, least_of, lowest, measure, nth, number_of
from rocforge.kernels.sizes import cdiv, next_power_of_2

Numbers = torch.Tensor | np.ndarray | Sequence[int]


class Tile(NamedTuple):
    """scan: `chunk` logits a program, in parts of `part`, of which there are at least `candidates`.

    narrow: `candidates` are left. draw: `block` logits at a time, where it reads the whole row.
    """

    chunk: int
    part: int
    candidates: int
    block: int
    scan_warps: int
    narrow_warps: int
    draw_warps: int


# By architecture where it has a row of its own, else by family. gfx906 has no registers for 16 waves of `draw`.
TILES = {
    "gfx906": Tile(8192, 16, 64, 4096, 8, 4, 8),
    "cdna": Tile(8192, 16, 64, 4096, 8, 4, 16),
    "rdna": Tile(8192, 16, 64, 8192, 8, 8, 16),
    "nvidia": Tile(8192, 16, 64, 8192, 8, 8, 16),
    "interpreter": Tile(256, 8, 16, 512, 1, 1, 1),
}
# penalize: ids at a time, and warps.
SEEN, SEEN_WARPS = 128, 2

# Where they lie in the memory that they were sent in changes from step to step.
UNALIGNED = [
    "temperature", "top_k", "top_p", "min_p", "uniform", "ids", "counts", "starts", "repetition", "frequency", "presence",
]  # fmt: skip

LEAST = tl.constexpr(-(2**31))  # below the key of every number
NOTHING = tl.constexpr(-(2**63))  # below every rank
ID_BITS = tl.constexpr(0x7FFFFFFF)
LOG2_E = tl.constexpr(1.4426950408889634)


# ---- the largest, in order


@triton.jit
def ranked(key, id):
    """int64 in descending order of candidates: by key, ties by lower id."""
    return (key.to(tl.int64) << 32) | (id ^ ID_BITS).to(tl.int64)


@triton.jit
def id_of(rank):
    return (rank & ID_BITS).to(tl.int32) ^ ID_BITS


@triton.jit
def scale_of(temperature):
    """float32 s so that exp2(s * x) = exp(x / temperature); bounded, for 0 * s has to be 0."""
    return tl.minimum(1.0 / temperature * LOG2_E, 1e30).to(tl.float32)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def scan(
    logits, temperature, firsts, parts, masses, V, stride, n_chunks,
    CHUNK: tl.constexpr, PART: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """Program (c, r), logits x of row r in chunk c, m the largest: its rank into firsts [R, n_chunks].

    Where there is a temperature: ranks of the M parts of the largest maxima into parts [R, n_chunks, M], into
    masses [R, 2, n_chunks] the sums of exp(x - m) and of exp((x - m) / temperature).
    """
    c, r = tl.program_id(0), tl.program_id(1)
    ids = c * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + r.to(tl.int64) * stride + ids, mask=ids < V, other=float("-inf"))
    keys = tl.where(ids < V, key_of(x), LEAST)
    key = tl.max(keys, axis=0)
    tl.store(firsts + r * n_chunks + c, ranked(key, tl.min(tl.where(keys == key, ids, ID_BITS), axis=0)))
    heat = tl.load(temperature + r).to(tl.float64)
    if heat > 0:
        N: tl.constexpr = CHUNK // PART
        maxima = tl.max(tl.reshape(keys, (N, PART)), axis=1)
        largest = tl.topk(ranked(maxima, c * N + tl.arange(0, N)), M)
        tl.store(parts + (r * n_chunks + c) * M + tl.arange(0, M), largest)
        m = number_of(key)
        x = tl.where(x == x, x, float("-inf")) - tl.where(m > float("-inf"), m, 0.0)
        to = masses + r * 2 * n_chunks + c
        tl.store(to, tl.sum(tl.exp2(x * LOG2_E), axis=0))
        tl.store(to + n_chunks, tl.sum(tl.exp2(x * scale_of(heat)), axis=0))


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def narrow(
    logits, temperature, parts, candidates, V, stride, n_chunks, CHUNKS: tl.constexpr, PART: tl.constexpr, M: tl.constexpr
):  # fmt: skip
    """Program r: the ranks of the M largest logits of row r in descending order, into candidates [R, M].

    CHUNKS is n_chunks as a power of two.
    """
    r = tl.program_id(0)
    if tl.load(temperature + r) > 0:
        place = tl.arange(0, CHUNKS * M)
        ranks = tl.load(parts + r * n_chunks * M + place, mask=place < n_chunks * M, other=NOTHING)
        ids = id_of(tl.topk(ranks, M))[:, None] * PART + tl.arange(0, PART)[None, :]
        inside = (ids >= 0) & (ids < V)
        x = tl.load(logits + r.to(tl.int64) * stride + ids, mask=inside, other=0.0)
        ranks = tl.where(inside, ranked(key_of(x), ids), NOTHING)
        tl.store(candidates + r * M + tl.arange(0, M), tl.topk(tl.reshape(ranks, (M * PART,)), M))


# ---- the draw


@triton.jit
def among(ranks, best, V, mass, hot, heat, k, p, share, uniform, M: tl.constexpr):
    """The id drawn, where the M largest of a row decide it, else -1.

    `mass` and `hot` are the sums of exp(x - best) and of exp((x - best) / heat) over the whole row.
    """
    ids, x = id_of(ranks), number_of(ranks >> 32).to(tl.float64) - best.to(tl.float64)
    at = tl.arange(0, M)
    limit = tl.where((k > 0) & (k < V), k, V)  # as many pass top_k
    n = tl.minimum(limit, M)
    # `known`: the first n of these are all that truncation has left.
    known = limit <= M
    chance = tl.where(at < n, tl.exp(x), 0.0)
    least_mass = p * tl.where(known, tl.sum(chance, axis=0), mass)
    kept = tl.sum(((tl.cumsum(chance, axis=0) < least_mass) & (at < n)).to(tl.int32), axis=0) + 1
    # The mass of a top_k above M is in neither sum.
    cuts = (p < 1) & (known | (limit == V))
    known = known | (cuts & (kept <= n))
    n = tl.where(cuts, tl.minimum(n, kept), n)
    kept = tl.maximum(tl.sum(((chance >= share) & (at < n)).to(tl.int32), axis=0), 1)
    known = (known | (kept < n)) & (cuts | (p >= 1))
    n = tl.minimum(n, kept)

    weight = tl.where(at < n, tl.exp(x / heat), 0.0)
    cumulated = tl.cumsum(weight, axis=0)
    goal = uniform * tl.where(known, tl.max(cumulated, axis=0), hot)
    drawn = tl.sum(((cumulated <= goal) & (at < n)).to(tl.int32), axis=0)
    # Without truncation more are left than these, but the draw may well fall among these.
    known = known | ((limit == V) & (p >= 1) & (share <= 0) & (drawn < n))
    drawn = tl.minimum(drawn, tl.sum((weight > 0).to(tl.int32), axis=0) - 1)
    return tl.where(known, tl.sum(tl.where(at == drawn, ids, 0), axis=0), -1)


@triton.jit
def whole(x, low, high):
    """int32 of a float64, cut off to the range; NaN gives `low`."""
    return tl.minimum(tl.where(x >= low, x, low), high).to(tl.int32)


@triton.jit
def anywhere(row, best, V, scale, k, p, share, uniform, BLOCK: tl.constexpr):
    """The id drawn from a whole row.

    What truncation has left so far is always: the x above `cut`, and of those at `cut` the first n.
    """
    cut = lowest(row, V, LOWEST, BLOCK)
    n = tl.full((), V, tl.int32)
    if (k > 0) & (k < V):
        cut = highest(row, V, best, 0.0, cut, k.to(tl.float64), False, BLOCK)
        above, weight, ties = measure(row, V, best, 0.0, cut, BLOCK)
        n = tl.minimum(k - above.to(tl.int32), ties)
    if p < 1:
        above, weight, ties = measure(row, V, best, LOG2_E, cut, BLOCK)
        n = tl.minimum(n, ties)
        goal = p * (above + n.to(tl.float64) * weight)
        over = highest(row, V, best, LOG2_E, cut, goal, False, BLOCK)
        if over > cut:
            cut = over
            above, weight, n = measure(row, V, best, LOG2_E, cut, BLOCK)
        n = whole(tl.ceil((goal - above) / weight), 1, n)
    if share > 0:
        bound = least_of(best, share)
        if bound > cut:
            cut = lowest(row, V, bound, BLOCK)
            n = tl.full((), V, tl.int32)
    above, weight, ties = measure(row, V, best, scale, cut, BLOCK)
    n = tl.minimum(n, ties)
    goal = uniform * (above + n.to(tl.float64) * weight)
    drawn = highest(row, V, best, scale, cut, goal, True, BLOCK)
    if drawn > cut:
        above, weight, n = measure(row, V, best, scale, drawn, BLOCK)
    return nth(row, V, drawn, whole(tl.floor((goal - above) / weight), 0, n - 1), BLOCK)


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def draw(
    logits, temperature, top_k, top_p, min_p, uniform, firsts, masses, candidates, out, V, stride, n_chunks,
    CHUNKS: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program r: the id of row r."""
    r = tl.program_id(0)
    chunk = tl.arange(0, CHUNKS)
    first = tl.load(firsts + r * n_chunks + chunk, mask=chunk < n_chunks, other=NOTHING)
    m = tl.where(chunk < n_chunks, number_of(first >> 32), float("-inf"))
    first = tl.max(first, axis=0)
    best = number_of(first >> 32)
    heat = tl.load(temperature + r).to(tl.float64)
    if (heat == 0) | (best == float("inf")) | (best == float("-inf")):
        tl.store(out + r, id_of(first))
    else:
        scale = scale_of(heat)
        at = masses + r * 2 * n_chunks + chunk
        mass = tl.load(at, mask=chunk < n_chunks, other=0.0) * tl.exp2((m - best) * LOG2_E)
        hot = tl.load(at + n_chunks, mask=chunk < n_chunks, other=0.0) * tl.exp2((m - best) * scale)
        mass, hot = tl.sum(mass, axis=0).to(tl.float64), tl.sum(hot, axis=0).to(tl.float64)
        k = tl.load(top_k + r).to(tl.int32)
        p = tl.load(top_p + r).to(tl.float64)
        share = tl.load(min_p + r).to(tl.float64)
        u = tl.load(uniform + r).to(tl.float64)
        ranks = tl.load(candidates + r * M + tl.arange(0, M))
        id = among(ranks, best, V, mass, hot, heat, k, p, share, u, M)
        if id < 0:
            id = anywhere(logits + r.to(tl.int64) * stride, best, V, scale, k, p, share, u, BLOCK)
        tl.store(out + r, id)


# ---- penalties


@triton.jit(do_not_specialize_on_alignment=UNALIGNED)
def penalize_row(
    logits, ids, counts, starts, repetition, frequency, presence, stride, BLOCK: tl.constexpr
):  # fmt: skip
    """Program r: row r, ids[starts[r]] to ids[starts[r + 1] - 1]."""
    r = tl.program_id(0)
    row = logits + r.to(tl.int64) * stride
    divisor = tl.load(repetition + r).to(tl.float64)
    each, once = tl.load(frequency + r).to(tl.float64), tl.load(presence + r).to(tl.float64)
    stop = tl.load(starts + r + 1).to(tl.int32)
    for start in range(tl.load(starts + r).to(tl.int32), stop, BLOCK):
        place = start + tl.arange(0, BLOCK)
        at = row + tl.load(ids + place, mask=place < stop, other=0)
        x = tl.load(at, mask=place < stop, other=0.0).to(tl.float64)
        x = tl.where(x > 0, x / divisor, x * divisor)
        x = x - tl.load(counts + place, mask=place < stop, other=0).to(tl.float64) * each - once
        tl.store(at, x.to(tl.float32), mask=place < stop)


def penalize(
    logits: torch.Tensor,
    ids: Numbers,
    counts: Numbers,
    starts: Numbers,
    repetition: Numbers,
    frequency: Numbers,
    presence: Numbers,
) -> None:
    """Lower, in place, the logits of tokens that have been seen.

    logits float32 [R, V]; row r has seen the distinct ids[starts[r] : starts[r + 1]], each `counts`
    times. A logit is divided by `repetition` [R] if it is positive, else multiplied (Keskar et al.,
    arXiv 1909.05858); then counts * `frequency` + `presence` is taken off. In float64, rounded once
    at the end: with float64 parameters the CPU's very bits.
    """
    R = _rows(logits, repetition=repetition, frequency=frequency, presence=presence)
    assert len(starts) == R + 1, (len(starts), R)
    assert len(ids) == len(counts), (len(ids), len(counts))
    ids, counts, starts, repetition, frequency, presence = _sent(
        logits.device, ids, counts, starts, repetition, frequency, presence
    )
    launch(
        penalize_row, (R,), logits, ids, counts, starts, repetition, frequency, presence, logits.stride(0),
        num_warps=SEEN_WARPS, fuses=False, BLOCK=SEEN,
    )  # fmt: skip


def sample(
    logits: torch.Tensor,
    temperature: Numbers,
    top_k: Numbers,
    top_p: Numbers,
    min_p: Numbers,
    uniform: Numbers,
    out: torch.Tensor,
) -> None:
    """One id for each row of logits float32 [R, V] into out int32 [R]; the others are [R] each.

    Truncation in llama.cpp's default order: `top_k` largest (0: all); of their softmax the smallest
    prefix of mass `top_p` (1: all); of these the ones of at least `min_p` times the largest's
    chance; then the softmax at `temperature`, and from it, candidates in descending order (ties by
    lower id), the one at which the cumulated chance exceeds `uniform`, in [0, 1). Temperature 0 is
    the first largest logit, and so is a row whose largest is infinite. NaN counts as minus infinity.

    Sums over more than a tile's candidates are of float32: a boundary moves by some 1e-6 of the mass.
    """
    R = _rows(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, uniform=uniform, out=out)
    assert out.dtype == torch.int32, out.dtype
    temperature, top_k, top_p, min_p, uniform = _sent(logits.device, temperature, top_k, top_p, min_p, uniform)
    V, stride = logits.shape[1], logits.stride(0)
    current = target.current()
    tile = TILES.get(current.arch) or TILES[current.family]
    n_chunks = cdiv(V, tile.chunk)
    firsts = scratch("firsts", (R, n_chunks), torch.int64, logits)
    parts = scratch("largest parts", (R, n_chunks, tile.candidates), torch.int64, logits)
    masses = scratch("masses", (R, 2, n_chunks), torch.float32, logits)
    candidates = scratch("candidates", (R, tile.candidates), torch.int64, logits)
    CHUNKS, M = next_power_of_2(n_chunks), tile.candidates
    launch(
        scan, (n_chunks, R), logits, temperature, firsts, parts, masses, V, stride, n_chunks,
        num_warps=tile.scan_warps, CHUNK=tile.chunk, PART=tile.part, M=M,
    )  # fmt: skip
    launch(
        narrow, (R,), logits, temperature, parts, candidates, V, stride, n_chunks,
        num_warps=tile.narrow_warps, CHUNKS=CHUNKS, PART=tile.part, M=M,
    )  # fmt: skip
    launch(
        draw, (R,), logits, temperature, top_k, top_p, min_p, uniform, firsts, masses, candidates, out, V, stride, n_chunks,
        num_warps=tile.draw_warps, CHUNKS=CHUNKS, M=M, BLOCK=tile.block,
    )  # fmt: skip


def _rows(logits: torch.Tensor, **columns: Numbers) -> int:
    """R, where all shapes are as they have to be."""
    assert logits.ndim == 2 and logits.shape[1] > 0 and logits.stride(1) == 1, (logits.shape, logits.stride())
    assert logits.dtype == torch.float32, logits.dtype
    R = len(logits)
    for name, column in columns.items():
        assert len(column) == R, (name, len(column), R)
    return R


def _sent(device: torch.device, *parameters: Numbers) -> list[torch.Tensor]:
    """Tensors as they are; of all else tensors of float64 or int64 on the device, by one copy."""
    host = [np.asarray(p) for p in parameters if not isinstance(p, torch.Tensor)]
    if not host:
        return list(parameters)
    host = [p.astype(np.float64 if p.dtype.kind == "f" else np.int64) for p in host]
    packed = torch.from_numpy(np.concatenate([p.view(np.int64) for p in host]))
    if device.type == "cuda":
        packed = packed.pin_memory()
    parts = packed.to(device, non_blocking=True).split([len(p) for p in host])
    sent = iter([part.view(torch.float64) if p.dtype.kind == "f" else part for part, p in zip(parts, host, strict=True)])
    return [p if isinstance(p, torch.Tensor) else next(sent) for p in parameters]
