"""Products of a matrix and more than a few tokens, on the matrix units. A product's rows are the weights'.

    out[t, n] = largest[t] * sum over k of  w[n, k] * halves[t, k]                            sums in float32

halves and largest are of halves.py; blocks become float16 in registers, a step's worth at a time (weights.py). F16 weights are as
they are; BF16 and F32 weights and their activations are multiplied in parts of bfloat16.

Where there are too few tiles of the result for all compute units, programs share the columns of a tile, and their sums are
added in the order of the columns (parts.py).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import F16, Format
from rocforge.kernels import halves, parts, target, tuning
from rocforge.kernels.asm import settle_products
from rocforge.kernels.columns import MOST_MIX, Order
from rocforge.kernels.decode import DECODE
from rocforge.kernels.early import fetch, wait
from rocforge.kernels.finish import apart, ends_of, finish, strides
from rocforge.kernels.halves import Halves
from rocforge.kernels.launch import descriptor, launch, scratch
from rocforge.kernels.layout import ONES, PLANES, UNIT, Matrix
from rocforge.kernels.parts import Parts
from rocforge.kernels.sizes import cdiv
from rocforge.kernels.weights import LIFTED, columns_of, units_of, weights_of


class GemmTile(NamedTuple):
    """BT tokens by BN rows a program, BU units a step; `programs` of them run at once on a compute unit."""

    BT: int
    BN: int
    BU: int
    num_warps: int
    num_stages: int
    programs: int


class FloatsTile(NamedTuple):
    """BT tokens by BN rows a program, BK columns a step."""

    BT: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int


# By the target's family, ascending by BT: a step gets the first that has room for its tokens, or else the last. NVIDIA's are
# measured on an H100 and an H200 (bench/tiles.py times others). AMD's are what registers and shared memory have room for. "lanes" are AMD's targets without matrix
# units (gfx906, RDNA2), where a tile of the product has to stay in the lanes' registers.
TILES: dict[str, list[GemmTile]] = {
    "nvidia": [
        GemmTile(8, 32, 8, 2, 3, 4), GemmTile(16, 32, 8, 2, 2, 6), GemmTile(32, 128, 4, 4, 3, 1), GemmTile(64, 128, 4, 4, 3, 1),
        GemmTile(128, 64, 2, 4, 3, 2), GemmTile(256, 128, 2, 8, 3, 1),
    ],
    "cdna": [
        GemmTile(16, 64, 2, 4, 2, 4), GemmTile(32, 64, 2, 4, 2, 4), GemmTile(64, 64, 2, 4, 2, 2), GemmTile(128, 128, 1, 8, 2, 1),
    ],
    "rdna": [
        GemmTile(16, 64, 2, 4, 2, 4), GemmTile(32, 64, 2, 4, 2, 4), GemmTile(64, 64, 1, 4, 2, 2), GemmTile(128, 64, 1, 8, 2, 2),
    ],
    "lanes": [GemmTile(16, 32, 1, 4, 1, 4), GemmTile(32, 32, 1, 4, 1, 4)],
    "interpreter": [GemmTile(32, 32, 2, 1, 1, 1)],
}

# Others for some matrices, by the target's family, then by the default's BT: where only this one's tiles run all at once; and where
# the default has fewer steps than FEW_STEPS for each place.
ONE_WAVE: dict[str, dict[int, GemmTile]] = {"nvidia": {8: GemmTile(8, 32, 8, 2, 2, 8)}}
FEWER_STEPS: dict[str, dict[int, GemmTile]] = {"nvidia": {32: GemmTile(32, 64, 4, 4, 3, 2)}}
FEW_STEPS = 8

PLAIN: dict[str, list[FloatsTile]] = {
    "nvidia": [FloatsTile(32, 64, 64, 4, 4), FloatsTile(128, 128, 64, 8, 4)],
    "cdna": [FloatsTile(32, 64, 64, 4, 2), FloatsTile(128, 128, 64, 8, 2)],
    "rdna": [FloatsTile(32, 32, 32, 4, 1), FloatsTile(128, 64, 32, 8, 1)],
    "lanes": [FloatsTile(32, 32, 32, 4, 1)],
    "interpreter": [FloatsTile(64, 32, 64, 1, 1)],
}

FLOATS: dict[str, list[FloatsTile]] = {
    "nvidia": [FloatsTile(32, 64, 32, 4, 3), FloatsTile(128, 256, 32, 8, 3)],
    "cdna": [FloatsTile(32, 64, 32, 4, 1), FloatsTile(128, 128, 32, 8, 1)],
    "rdna": [FloatsTile(32, 32, 32, 4, 1), FloatsTile(64, 64, 32, 8, 1)],
    "lanes": [FloatsTile(32, 32, 16, 4, 1)],  # of two parts each: twice as many columns would take all registers
    "interpreter": [FloatsTile(32, 32, 32, 1, 1)],
}

# Lines of 128 bytes of each part of a row that are fetched while the launch before ends, by the target's family, then by BT. 32 tokens
# of Llama 3 8B: 9,177 tokens/s instead of 8,850 (H200). More lines were slower; 8 tokens gained 0.6 %, one token's products lost 4.
FETCHED: dict[str, dict[int, int]] = {"nvidia": {32: 2}}
# Programs that share a tile's columns at the most, steps that each of them has at the least, and as many steps as its
# start and its end take on an H100.
MOST_SPLITS, LEAST_STEPS, START_STEPS = 8, 2, 3
# Warps of a warpgroup, each with 16 rows of a product; fewer multiply one by one, and want another order of columns.
WARPGROUP = 4


def _tiles(by_family: dict[str, list]) -> list:
    at = target.current()
    return by_family["lanes" if at.backend == "hip" and not at.matrix else at.family]


def _tile(by_family: dict[str, list], T: int):
    tiles = _tiles(by_family)
    return next((tile for tile in tiles if tile.BT >= T), tiles[-1])


def _others(by_family: dict[str, dict[int, Any]]) -> dict[int, Any]:
    return by_family.get(target.current().family, {})


def sizes() -> tuple[int, ...]:
    """Tokens up to which a step gets one tile, and beyond which another."""
    return tuple(tile.BT for tile in _tiles(TILES))


# ---- block formats


@triton.jit
def step_of(
    x, first_token, tokens, first, T, x_stride, BU: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, CACHE: tl.constexpr
):
    """The activations of the units from `first` on, float16 [BU * 64, tokens]."""
    if isinstance(x, tl.tensor_descriptor):
        return tl.trans(x.load([first_token, first * 64]))
    else:
        token = tokens if WIDE else tl.minimum(tokens, T - 1)
        column = first * 64 + tl.arange(0, BU * 64)
        at = x + token[None, :] * x_stride + column[:, None]
        there = None
        if not WHOLE:
            there = (column < x_stride)[:, None]
        if WIDE:
            there = (tokens < T)[None, :] if WHOLE else there & (tokens < T)[None, :]
        if there is None:
            return tl.load(at, cache_modifier=CACHE)
        else:
            return tl.load(at, mask=there, other=0, cache_modifier=CACHE)


@triton.jit(do_not_specialize=["T", "steps"])
def gemm_blocks(
    x, largest, fetched, quants, high, scales_, supers, bounds, bias, residual, out, T, N, U, steps, x_stride, residual_stride,
    out_stride,
    read_values: tl.constexpr, lifted: tl.constexpr, MASK: tl.constexpr, LIFTS: tl.constexpr, read_scales: tl.constexpr,
    scales: tl.constexpr, OFFSET: tl.constexpr, SCALED: tl.constexpr, HALVES: tl.constexpr, MINS: tl.constexpr,
    SIGNED: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BU: tl.constexpr, WHOLE: tl.constexpr, PARTS: tl.constexpr,
    GROUPS: tl.constexpr, WIDE: tl.constexpr, MIX: tl.constexpr, PAIRED: tl.constexpr, LATE: tl.constexpr, N_PARTS: tl.constexpr,
    LINES: tl.constexpr, ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Program (i, j): tile i of BT tokens by BN rows, the j-th `steps` of its steps of BU units; each has some.

    Tiles of the same rows follow each other, so that memory is read once. x, quants and high are arrays, or descriptors of such
    (launch.descriptor), whose boxes are a step's. LINES, if any, of each of a row's N_PARTS in `fetched`, the array of quants, are on
    their way before it may begin. PARTS: sums go to `out` [programs, T, N] as they are; else a program has all steps. WHOLE: a row has
    whole steps. GROUPS: warpgroups multiply. WIDE: a lane loads scales of several units at once, and nothing for
    tokens beyond the last (all programs would ask for the last one's bytes at once); else the last token again, which takes no mask.
    LATE: what it reads has been written before the launch before it began, so it waits for that one only when it writes.
    """
    CACHE: tl.constexpr = ".cg" if LATE and EARLY else ""  # as in early.settled
    tiles = tl.cdiv(T, BT)
    first_token, top = tl.program_id(0) % tiles * BT, tl.program_id(0) // tiles * BN
    tokens, rows = first_token + tl.arange(0, BT), top + tl.arange(0, BN)
    row = tl.minimum(tl.arange(0, BN), N - 1 - top)
    begin = tl.program_id(1) * steps * BU
    end = tl.minimum(begin + steps * BU, U)
    if not LATE:
        if LINES > 0:  # of 8 units each
            its_unit = tl.minimum(begin + 8 * tl.arange(0, LINES), U - 1)
            at = fetched + tl.cast(top, tl.int64) * N_PARTS * U * 4 + row[:, None] * (N_PARTS * U * 4) + (its_unit * 4)[None, :]
            for part in tl.static_range(N_PARTS):
                fetch(at + part * U * 4, EARLY)
        wait(EARLY)
    # Else NVIDIA's assembler minds a way past the loop, on which sums are set while products may be under way, and lets each product
    # end before the next.
    tl.assume(begin < end)

    # Loaded a row each: what is the same for all, Triton would not move to where the matrix instructions want their operands.
    up, unit = units_of(tl.load(bounds + top + row))
    up = up[:, None]
    acc = tl.zeros((BN, BT), tl.float32)
    for first in range(begin, end, BU):
        if GROUPS:
            settle_products(first, ISA)
        end_of_row = None if WHOLE else U
        q0, q1, q2, q3 = lifted(read_values(quants, high, top, row, first, end_of_row, U, BU, WIDE), ISA)
        d0, d1, m0, m1, s, n = scales(read_scales(scales_, supers, top, row, first, end_of_row, U, BU, WIDE))
        d0, d1 = d0 * up, d1 * up
        if MINS:
            m0, m1 = m0 * (up * 2.0**-24), m1 * (up * 2.0**-24)
        y = step_of(x, first_token, tokens, first, T, x_stride, BU, WHOLE, WIDE, CACHE)
        w0 = weights_of(q0, d0, s, m0, n, 0, 0, MASK, LIFTS, OFFSET, SCALED, MINS, SIGNED, ISA)
        w1 = weights_of(q1, d0, s, m0, n, 1, 0 if HALVES else 1, MASK, LIFTS, OFFSET, SCALED, MINS, SIGNED, ISA)
        w2 = weights_of(q2, d1, s, m1, n, 2, 1 if HALVES else 2, MASK, LIFTS, OFFSET, SCALED, MINS, SIGNED, ISA)
        w3 = weights_of(q3, d1, s, m1, n, 3, 1 if HALVES else 3, MASK, LIFTS, OFFSET, SCALED, MINS, SIGNED, ISA)
        acc = tl.dot(columns_of(w0, w1, w2, w3, MIX, PAIRED), y, acc)
    if LATE:
        wait(EARLY)
    acc = tl.trans(acc * unit[:, None])
    if PARTS:
        to = out + (tl.program_id(1) * T + tokens[:, None]).to(tl.int64) * out_stride + rows[None, :]
        tl.store(to, acc, mask=(tokens < T)[:, None] & (rows < N)[None, :])
    else:
        acc *= tl.load(largest + tl.minimum(tokens, T - 1))[:, None]
        ends = ends_of(bias, residual, tokens, rows, True, T, N, residual_stride)
        finish(acc, ends, out, tokens, rows, T, N, out_stride)


def _is_wide() -> bool:
    """What suits NVIDIA's loads to shared memory, which take as long for 4 bytes of a row as for 16. By AMD's compilers the
    loop for 16 tokens becomes 12 % longer on gfx1100, that for 128 takes 19 registers more on gfx1201.
    """
    return target.current().backend != "hip"


def tile_of(format: Format, rows: int, columns: int, tokens: int) -> GemmTile:
    """The tile that is taken where nothing is tuned."""
    at = _tile(TILES, tokens)
    tiles, places = cdiv(rows, at.BN), _places(at)
    if (other := _others(ONE_WAVE).get(at.BT)) and places < tiles and cdiv(rows, other.BN) <= _places(other):
        at = other
    elif (other := _others(FEWER_STEPS).get(at.BT)) and tiles * cdiv(columns, UNIT * at.BU) < FEW_STEPS * places:
        at = other
    if target.current().has_warpgroups and PLANES[format].high is ONES and at.BN >= 32 * WARPGROUP:
        return at._replace(num_warps=2 * WARPGROUP)  # four have too few registers for what is made of them
    return at


def _places(at: GemmTile) -> int:
    """Programs that run at once on the device."""
    return at.programs * target.current().units


def order(tokens: int) -> Order:
    """How the columns of a step's activations lie: all products of it share them."""
    at = _tile(TILES, tokens)
    return Order(min(at.BU, MOST_MIX) if _is_wide() else 1, PAIRED=_is_group(at.num_warps, at.BN))


def _is_group(num_warps: int, rows: int) -> bool:
    """Whether warps multiply four together: rows of what is in registers, 16 each."""
    return target.current().has_warpgroups and num_warps >= WARPGROUP and rows >= 16 * WARPGROUP


def splits_of(at: GemmTile, rows: int, tokens: int, units: int) -> int:
    """Programs that share the columns of a tile of the result: as many as take the least time, in steps.

    At each place for a program one runs after the other. It takes its steps, START_STEPS, and what its sums take to be
    written and read again, about a step for 32 tokens a unit of a step's. The launch that adds them is one more. There are
    no more than twice as many programs as places: what they hold at once is planned for.
    """
    tiles, steps = cdiv(rows, at.BN) * cdiv(tokens, at.BT), cdiv(units, at.BU)
    places = _places(at)
    most = max(1, min(MOST_SPLITS, steps // LEAST_STEPS, 2 * places // tiles))
    joining = at.BT / (32 * at.BU)
    took = lambda n: cdiv(tiles * n, places) * (cdiv(steps, n) + START_STEPS + (n > 1) * joining) + (n > 1)
    return min(range(1, most + 1), key=took)


def parts_of(format: Format) -> dict[str, Any]:
    """The constants by which gemm_blocks knows a format."""
    parts = {**DECODE[format]._asdict(), **LIFTED[format]._asdict()}
    del parts["values"]
    return parts


def blocks(x: Halves, weights: tuple[Matrix, ...], bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for matrices of block formats; x of halves.of_q8."""
    made = products(x, weights, bias, residual, out)
    if made is not None:
        parts.add(made, bias, residual, out)


def products(x: Halves, weights: tuple[Matrix, ...], bias, residual, out: torch.Tensor) -> Parts | None:
    """The same, but where programs share columns: then nothing is added to their sums, and out is not written."""
    (T, N), U = out.shape, -(-weights[0].columns // UNIT)
    tiles = [tuning.tile(gemm_blocks, tile_of(w.format, w.rows, w.columns, T), w.format.name, (w.rows, w.columns), T) for w in weights]
    widest = max(range(len(weights)), key=lambda i: weights[i].rows)
    # Units of a program: the same for all matrices, in whole steps of each, and some for the last program too.
    step = max(at.BU for at in tiles)
    share = cdiv(cdiv(U, step), splits_of(tiles[widest], N, T, U)) * step
    splits = cdiv(U, share)
    sums = scratch("parts", (splits, T, N), torch.float32, out) if splits > 1 else None
    if sums is not None:
        bias, residual, out = None, None, sums[0]
    for i, ((w, *ends), at) in enumerate(zip(apart(weights, bias, residual, out), tiles, strict=True)):
        _launch(x, w, at, *ends, splits, share, i > 0)
    return None if sums is None else Parts(sums, x.largest)


def _launch(x: Halves, w: Matrix, at: GemmTile, bias, residual, out: torch.Tensor, splits: int, share: int, is_next: bool) -> None:
    """The products by one matrix. If several programs share its columns, `out` is where the first of their parts goes. `is_next`: the
    launch before multiplies the same x by another matrix."""
    (T, N), U, laid = out.shape, -(-w.columns // UNIT), order(len(out))
    assert at.BU % laid.MIX == 0 and share % at.BU == 0, (at, laid, share)
    values, (quants, high, *scales) = x.values, w.planes
    lines = _others(FETCHED).get(at.BT, 0)
    fetched = quants if lines else None
    if target.current().has_tma and at.num_warps >= WARPGROUP:  # fewer gain nothing by it
        values, quants = descriptor(values, (at.BT, at.BU * UNIT)), descriptor(quants.flatten(1), (at.BN, at.BU * 4))
        if (plane := PLANES[w.format].high) and plane.width == 4:
            high = descriptor(high.flatten(1), (at.BN, at.BU * 4))
    launch(
        gemm_blocks, (cdiv(N, at.BN) * cdiv(T, at.BT), splits), values, x.largest, fetched, quants, high, *scales, w.bounds,
        bias, residual, out, T, N, U, share // at.BU, x.values.stride(0), *strides(residual, out), num_warps=at.num_warps,
        num_stages=at.num_stages, **parts_of(w.format), BT=at.BT, BN=at.BN, BU=at.BU, WHOLE=U % at.BU == 0,
        PARTS=splits > 1, GROUPS=_is_group(at.num_warps, at.BN), WIDE=_is_wide(), **laid._asdict(), LATE=is_next,
        N_PARTS=PLANES[w.format].quants.n_parts, LINES=lines, ISA=target.current().isa,
    )  # fmt: skip


def scratch_bytes(tokens: int, matrices: list[tuple[int, int]]) -> int:
    """Device memory that products of up to `tokens` tokens need beside their operands; matrices (rows, columns) of blocks.

    Parts are no more than twice what all programs at once have (splits_of).
    """
    if not matrices:
        return 0
    units = target.current().units
    known = (*_tiles(TILES), *_others(ONE_WAVE).values(), *_others(FEWER_STEPS).values())
    tiles = [at for at in known if at.BT < 2 * tokens]
    parts = max((4 * 2 * at.programs * units * at.BT * at.BN for at in tiles), default=0)
    return parts + max(halves.n_bytes(tokens, columns) for _, columns in matrices)


# ---- float formats


@triton.jit
def two_parts(x, PART: tl.constexpr):
    """x as the sum of two bfloat16: 16 bits of its fraction, all of its range. Held as type PART."""
    upper = x.to(tl.bfloat16).to(tl.float32)
    return upper.to(PART), (x - upper).to(tl.bfloat16).to(PART)


@triton.jit(do_not_specialize=["T"])
def gemm_floats(
    x, w, bias, residual, out, T, N, K, x_stride, residual_stride, out_stride,
    EXACT: tl.constexpr, PART: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUPS: tl.constexpr,
    ISA: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Products of parts on the matrix units; EXACT: a weight is one bfloat16, its second part 0. GROUPS: as in gemm_blocks."""
    wait(EARLY)
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row = tokens.to(tl.int64), tl.minimum(rows, N - 1).to(tl.int64)
    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, K, BK):
        if GROUPS:
            settle_products(first, ISA)
        k = first + tl.arange(0, BK)
        a = tl.load(x + token[:, None] * x_stride + k[None, :], mask=(tokens < T)[:, None] & (k < K)[None, :], other=0)
        weights = tl.load(w + row[:, None] * K + k[None, :], mask=(k < K)[None, :], other=0)
        a_upper, a_lower = two_parts(a, PART)
        w_upper, w_lower = two_parts(weights.to(tl.float32), PART)
        acc = tl.dot(a_lower, tl.trans(w_upper), acc)
        if not EXACT:
            acc = tl.dot(a_upper, tl.trans(w_lower), acc)
        acc = tl.dot(a_upper, tl.trans(w_upper), acc)
    ends = ends_of(bias, residual, tokens, rows, True, T, N, residual_stride)
    finish(acc, ends, out, tokens, rows, T, N, out_stride)


@triton.jit(do_not_specialize=["T"])
def gemm_plain(
    x, largest, w, bias, residual, out, T, N, K, residual_stride, out_stride,
    BT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WHOLE: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A program's BT tokens by BN rows of x [T, K] and w [N, K]. WHOLE: K is a multiple of BK."""
    wait(EARLY)
    tiles = tl.cdiv(T, BT)
    tokens = tl.program_id(0) % tiles * BT + tl.arange(0, BT)
    rows = tl.program_id(0) // tiles * BN + tl.arange(0, BN)
    token, row, there = tokens.to(tl.int64), tl.minimum(rows, N - 1).to(tl.int64), (tokens < T)[:, None]
    k = tl.arange(0, BK)
    a_at, b_at = x + token[:, None] * K + k[None, :], w + row[:, None] * K + k[None, :]
    acc = tl.zeros((BT, BN), tl.float32)
    for first in range(0, K, BK):
        if WHOLE:
            a, b = tl.load(a_at, mask=there, other=0), tl.load(b_at)
        else:
            a = tl.load(a_at, mask=there & (k < K - first)[None, :], other=0)
            b = tl.load(b_at, mask=(k < K - first)[None, :], other=0)
        acc = tl.dot(a, tl.trans(b), acc)
        a_at += BK
        b_at += BK
    acc *= tl.load(largest + tokens, mask=tokens < T, other=0)[:, None]
    ends = ends_of(bias, residual, tokens, rows, True, T, N, residual_stride)
    finish(acc, ends, out, tokens, rows, T, N, out_stride)


def floats(x: torch.Tensor, w: Matrix, bias, residual, out: torch.Tensor) -> None:
    """matmul.linear() for one matrix of a float format."""
    (T, K), N, weights = x.shape, w.rows, w.planes.quants
    if w.format is F16:
        at = tuning.tile(gemm_plain, _tile(PLAIN, T), w.format.name, (N, K), T)
        launch(
            gemm_plain, (cdiv(N, at.BN) * cdiv(T, at.BT),), *halves.of_floats(x), weights, bias, residual, out,
            T, N, K, *strides(residual, out), num_warps=at.num_warps, num_stages=at.num_stages,
            BT=at.BT, BN=at.BN, BK=at.BK, WHOLE=K % at.BK == 0,
        )  # fmt: skip
        return
    at = tuning.tile(gemm_floats, _tile(FLOATS, T), w.format.name, (N, K), T)
    # The interpreter multiplies matrices in numpy, which has no bfloat16.
    part = tl.float32 if target.current().backend == "interpreter" else tl.bfloat16
    launch(
        gemm_floats, (cdiv(N, at.BN) * cdiv(T, at.BT),), x, weights, bias, residual, out, T, N, K, x.stride(0),
        *strides(residual, out), num_warps=at.num_warps, num_stages=at.num_stages, EXACT=weights.dtype == torch.bfloat16,
        PART=part, BT=at.BT, BN=at.BN, BK=at.BK, GROUPS=_is_group(at.num_warps, at.BT), ISA=target.current().isa,
    )  # fmt: skip
