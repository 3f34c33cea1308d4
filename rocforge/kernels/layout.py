"""Weights as this room holds them: GGUF's blocks taken apart into planes of wide words. Multiplies nothing.

A unit is 64 columns of a row: what one lane works at. A unit's columns are four groups of 16, a
group's four words of four. Byte j of word i of group g is always column 16 g + 4 i + j, the order in
which int8 activations lie in memory, so a word of weights meets a word of activations. Every plane
is made such that a lane's load of a unit is 64 or 128 bits wide and next to its neighbour's
(scales are what they are: 16 to 64 bits a unit):

    fours   int32 [N, 2, U, 4]   half h, word i:  byte j = |group 2h+1 : 4 bits|group 2h : 4 bits|
    eights  int32 [N, 4, U, 4]   group g, word i: byte j = 8 bits
    twos    int32 [N, U, 4]      word i: byte j = |group 3 : 2|group 2 : 2|group 1 : 2|group 0 : 2|
    ones    int64 [N, U]         byte 4a+j, bit 2g+b = group g, word 2a+b, byte j

    format          quants  high  scales of a unit                            supers of 4 units
    Q4_0 IQ4_NL     fours         int32: d of columns 0-31 | d of 32-63
    Q4_1            fours         int64: d | m | d | m
    Q5_0            fours   ones  int32: d | d
    Q5_1            fours   ones  int64: d | m | d | m
    Q8_0            eights        int32: d | d
    Q2_K            twos          int32: a byte a group: scale | min << 4     int32: d | dmin
    Q3_K            twos    ones  int32: an int8 scale a group                int16: d
    Q4_K            fours         int32: scale | scale | min | min            int32: d | dmin
    Q5_K            fours   ones  int32: scale | scale | min | min            int32: d | dmin
    Q6_K            fours   twos  int32: an int8 scale a group                int16: d
    IQ4_XS          fours         int16: int8 scale | int8 scale              int16: d

(first named: lowest bits; d, m, dmin are halves.) The 6-bit scales of the K formats take a byte
each here: 2.8 % more memory for Q4_K, 3.6 % for Q3_K, nothing for most. Rows of an odd number of 32
columns are filled up with zeros to whole units. Float formats are rows of their own type.

Blocks as ggml lays them out: `ggml-common.h`, `gguf.quants`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from rocforge.gguf.formats import (
    BF16,
    F16,
    F32,
    IQ4_NL,
    IQ4_XS,
    Q2_K,
    Q3_K,
    Q4_0,
    Q4_1,
    Q4_K,
    Q5_0,
    Q5_1,
    Q5_K,
    Q6_K,
    Q8_0,
    Format,
)

UNIT = 64

FLOATS = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}


class Plane(NamedTuple):
    """One array of a format: elements of `dtype`, of a row `n_parts` x units x `width` (supers: units / 4)."""

    dtype: torch.dtype
    n_parts: int = 1
    width: int = 1
    units: int = 1  # units that share an element

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        return rows, self.n_parts, -(-columns // (UNIT * self.units)), self.width


FOURS, EIGHTS, TWOS, ONES = Plane(torch.int32, 2, 4), Plane(torch.int32, 4, 4), Plane(torch.int32, 1, 4), Plane(torch.int64)
WORD, PAIR, LONG = Plane(torch.int32), Plane(torch.int16), Plane(torch.int64)
SUPER_WORD, SUPER_HALF = Plane(torch.int32, units=4), Plane(torch.int16, units=4)


class Planes(NamedTuple):
    """The arrays of a format, by duty; None for what it lacks."""

    quants: Any
    high: Any
    scales: Any
    supers: Any


PLANES: dict[Format, Planes] = {
    Q4_0: Planes(FOURS, None, WORD, None),
    Q4_1: Planes(FOURS, None, LONG, None),
    Q5_0: Planes(FOURS, ONES, WORD, None),
    Q5_1: Planes(FOURS, ONES, LONG, None),
    Q8_0: Planes(EIGHTS, None, WORD, None),
    Q2_K: Planes(TWOS, None, WORD, SUPER_WORD),
    Q3_K: Planes(TWOS, ONES, WORD, SUPER_HALF),
    Q4_K: Planes(FOURS, None, WORD, SUPER_WORD),
    Q5_K: Planes(FOURS, ONES, WORD, SUPER_WORD),
    Q6_K: Planes(FOURS, TWOS, WORD, SUPER_HALF),
    IQ4_NL: Planes(FOURS, None, WORD, None),
    IQ4_XS: Planes(FOURS, None, PAIR, SUPER_HALF),
}

# Integer scales and mins at the most; where groups have none, 1.
MOST_SCALE: dict[Format, int] = {Q2_K: 15, Q3_K: 32, Q4_K: 63, Q5_K: 63, Q6_K: 128, IQ4_XS: 32}
M_SHARE = 2.0**-24  # what counts of an m in a row's bound

ALIGN = 256  # bytes: each plane starts where a widest load may


class Matrix(NamedTuple):
    """A weight matrix on the device: `rows` (N, outputs) of `columns` (K, inputs) values.

    `planes` as the file's head draws them; of a float format, `quants` [N, K] is all there is. What
    a format lacks is its quants again: a kernel takes four pointers, whatever it reads through them.
    bounds float32 [N]: no |d * scale| of a block format's row is larger, and no |m * min| * 2^-24 (weights.py).
    """

    planes: Planes
    bounds: torch.Tensor
    format: Format
    rows: int
    columns: int


def places_of_d(format: Format) -> tuple[str, int]:
    """The plane of a block format that holds d, first of all, and how many halves lie from one d to the next: between two is an m."""
    _, _, scales, supers = PLANES[format]
    return ("supers", 2 if supers is SUPER_WORD else 1) if supers else ("scales", 2 if scales is LONG else 1)


def n_bytes(format: Format, rows: int, columns: int) -> int:
    """Bytes that a matrix takes on the device."""
    return sum(stop - start for _, start, stop in _places(format, rows, columns))


def _places(format: Format, rows: int, columns: int) -> list[tuple[str, int, int]]:
    """(name, first byte, byte after the last and the gap behind it) of each plane in the matrix' buffer, and of its bounds."""
    at, found = 0, []
    for name, plane in _planes(format):
        count = int(np.prod(plane.shape(rows, columns))) if plane else rows * columns
        size = count * (plane.dtype if plane else FLOATS[format]).itemsize
        stop = at + -(-size // ALIGN) * ALIGN
        found.append((name, at, stop))
        at = stop
    return [*found, ("bounds", at, at + -(-4 * rows // ALIGN) * ALIGN)]


def starts(format: Format, rows: int, columns: int) -> dict[str, int]:
    """Where each plane of a block format begins, by its name: bytes from the first plane's beginning on."""
    return {name: start for name, start, _ in _places(format, rows, columns)[:-1]}


def _planes(format: Format):
    if format.is_float:
        return [("quants", None)]
    return [(name, plane) for name, plane in zip(Planes._fields, PLANES[format], strict=True) if plane]


def empty(format: Format, rows: int, columns: int, device) -> Matrix:
    """A matrix of any content, to be filled once, in one piece of device memory."""
    buffer = torch.empty(n_bytes(format, rows, columns), dtype=torch.uint8, device=device)
    found: dict[str, torch.Tensor] = {}
    *places, (_, at, _) = _places(format, rows, columns)
    for (name, plane), (_, start, stop) in zip(_planes(format), places, strict=True):
        dtype = plane.dtype if plane else FLOATS[format]
        shape = plane.shape(rows, columns) if plane else (rows, columns)
        found[name] = buffer[start:stop].view(dtype)[: int(np.prod(shape))].view(shape)
    planes = Planes(*(found.get(name, found["quants"]) for name in Planes._fields))
    return Matrix(planes, buffer[at : at + 4 * rows].view(torch.float32).zero_(), format, rows, columns)


def fill(matrix: Matrix, raw: torch.Tensor, first: int = 0) -> None:
    """Rows of GGUF blocks, uint8 [n, row bytes] on the device, to the rows of `matrix` from `first` on."""
    part = slice(first, first + len(raw))
    if matrix.format.is_float:
        matrix.planes.quants[part] = raw.view(FLOATS[matrix.format])
        return
    blocks = raw.view(len(raw), -1, matrix.format.block_bytes)
    for name, packed in REPACK[matrix.format](blocks)._asdict().items():
        if packed is not None:
            plane = getattr(matrix.planes, name)[part]
            plane.copy_(packed.reshape(len(raw), -1).contiguous().view(plane.dtype).view(plane.shape))
    name, stride = places_of_d(matrix.format)
    halves = getattr(matrix.planes, name)[part].flatten(1).view(torch.float16).float().abs().view(len(raw), -1, stride)
    halves[:, :, 1:] *= M_SHARE
    matrix.bounds[part] = halves.amax((1, 2)) * MOST_SCALE.get(matrix.format, 1)


def matrix(data: np.ndarray, format: Format, rows: int, columns: int, device="cuda", fill=fill) -> Matrix:
    """The uint8 bytes of a GGUF tensor as a Matrix on `device`, repacked by `fill`: this one, or repack.fill."""
    made = empty(format, rows, columns, device)
    raw = torch.from_numpy(np.array(data, copy=True)).view(rows, format.row_bytes(columns))
    fill(made, raw.to(device))
    return made


# ---- from columns to planes: each takes uint8 [n, K], K a multiple of 32, and gives uint8 [n, bytes]


def _units(columns: torch.Tensor) -> torch.Tensor:
    """[n, U, 4 groups, 16], zeros behind the last column."""
    short = -columns.shape[1] % UNIT
    return torch.nn.functional.pad(columns, (0, short)).view(len(columns), -1, 4, 16)


def _fours(columns: torch.Tensor) -> torch.Tensor:
    units = _units(columns)
    return (units[:, :, 0::2] | units[:, :, 1::2] << 4).transpose(1, 2).contiguous()


def _eights(columns: torch.Tensor) -> torch.Tensor:
    return _units(columns).transpose(1, 2).contiguous()


def _twos(columns: torch.Tensor) -> torch.Tensor:
    units = _units(columns)
    return units[:, :, 0] | units[:, :, 1] << 2 | units[:, :, 2] << 4 | units[:, :, 3] << 6


def _ones(columns: torch.Tensor) -> torch.Tensor:
    bits = _units(columns).view(len(columns), -1, 4, 2, 2, 4)  # [n, U, g, a, b, j]
    shifts = torch.arange(8, dtype=torch.uint8, device=columns.device).view(4, 1, 2, 1)
    return (bits << shifts).sum((2, 4), dtype=torch.uint8)


def _pairs(halves: torch.Tensor) -> torch.Tensor:
    """Bytes of the blocks of 32 [n, blocks, bytes], two blocks a unit."""
    return torch.nn.functional.pad(halves, (0, 0, 0, halves.shape[1] % 2))


# ---- from blocks [n, blocks, block bytes] to columns [n, K]


def _nibbles(bytes_: torch.Tensor, run: int) -> torch.Tensor:
    """Runs of `run` bytes: the low nibbles of a run, then its high ones."""
    runs = bytes_.reshape(*bytes_.shape[:2], -1, 1, run)
    return torch.cat((runs & 15, runs >> 4), 3).view(len(bytes_), -1)


def _two_bits(bytes_: torch.Tensor) -> torch.Tensor:
    """Runs of 32 bytes: the lowest pairs of bits of a run, then the next."""
    runs = bytes_.reshape(*bytes_.shape[:2], -1, 1, 32)
    return torch.cat([(runs >> shift) & 3 for shift in (0, 2, 4, 6)], 3).view(len(bytes_), -1)


def _bits_across(bytes_: torch.Tensor) -> torch.Tensor:
    """32 bytes: the lowest bit of each, then the next."""
    return torch.stack([(bytes_ >> shift) & 1 for shift in range(8)], 2).view(len(bytes_), -1)


def _bits_along(bytes_: torch.Tensor) -> torch.Tensor:
    """The eight bits of a byte, then the next byte."""
    return torch.stack([(bytes_ >> shift) & 1 for shift in range(8)], 3).view(len(bytes_), -1)


def _repack_nibbles(blocks: torch.Tensor, header: int, fifth: int) -> Planes:
    """Blocks of 32: `header` bytes of halves, `fifth` bytes of fifth bits, 16 bytes of nibbles."""
    high = _ones(_bits_along(blocks[:, :, header : header + fifth])) if fifth else None
    return Planes(_fours(_nibbles(blocks[:, :, header + fifth :], 16)), high, _pairs(blocks[:, :, :header]), None)


def _repack_q8_0(blocks: torch.Tensor) -> Planes:
    return Planes(_eights(blocks[:, :, 2:].reshape(len(blocks), -1)), None, _pairs(blocks[:, :, :2]), None)


def _k4_scales(packed: torch.Tensor) -> torch.Tensor:
    """12 bytes of eight 6-bit scales and minimums -> [n, blocks, 4 units, scale scale min min]."""
    low, mid, top = packed[:, :, 0:4], packed[:, :, 4:8], packed[:, :, 8:12]
    scales = torch.cat((low & 63, (top & 15) | (low >> 6) << 4), 2)
    mins = torch.cat((mid & 63, top >> 4 | (mid >> 6) << 4), 2)
    return torch.cat((scales.view(*scales.shape[:2], 4, 2), mins.view(*mins.shape[:2], 4, 2)), 3)


def _repack_q4_k(blocks: torch.Tensor) -> Planes:
    return Planes(_fours(_nibbles(blocks[:, :, 16:], 32)), None, _k4_scales(blocks[:, :, 4:16]), blocks[:, :, :4])


def _repack_q5_k(blocks: torch.Tensor) -> Planes:
    high = _ones(_bits_across(blocks[:, :, 16:48]))
    return Planes(_fours(_nibbles(blocks[:, :, 48:], 32)), high, _k4_scales(blocks[:, :, 4:16]), blocks[:, :, :4])


def _repack_q2_k(blocks: torch.Tensor) -> Planes:
    return Planes(_twos(_two_bits(blocks[:, :, 16:80])), None, blocks[:, :, :16], blocks[:, :, 80:])


def _repack_q3_k(blocks: torch.Tensor) -> Planes:
    nibbles, pairs = blocks[:, :, 96:104], blocks[:, :, 104:108]
    low = torch.cat((nibbles & 15, nibbles >> 4), 2)
    upper = torch.cat([(pairs >> shift) & 3 for shift in (0, 2, 4, 6)], 2)
    scales = (low | upper << 4) - 32  # modulo 256: the bytes of an int8
    return Planes(_twos(_two_bits(blocks[:, :, 32:96])), _ones(_bits_across(blocks[:, :, :32])), scales, blocks[:, :, 108:])


def _repack_q6_k(blocks: torch.Tensor) -> Planes:
    pairs = _twos(_two_bits(blocks[:, :, 128:192]))
    return Planes(_fours(_nibbles(blocks[:, :, :128], 64)), pairs, blocks[:, :, 192:208], blocks[:, :, 208:])


def _repack_iq4_xs(blocks: torch.Tensor) -> Planes:
    low = blocks[:, :, 4:8]
    low = torch.stack((low & 15, low >> 4), 3).flatten(2)
    upper = torch.stack([(blocks[:, :, 2:4] >> shift) & 3 for shift in (0, 2, 4, 6)], 3).flatten(2)
    return Planes(_fours(_nibbles(blocks[:, :, 8:], 16)), None, (low | upper << 4) - 32, blocks[:, :, :2])


REPACK: dict[Format, Callable[[torch.Tensor], Planes]] = {
    Q4_0: lambda blocks: _repack_nibbles(blocks, 2, 0),
    Q4_1: lambda blocks: _repack_nibbles(blocks, 4, 0),
    Q5_0: lambda blocks: _repack_nibbles(blocks, 2, 4),
    Q5_1: lambda blocks: _repack_nibbles(blocks, 4, 4),
    Q8_0: _repack_q8_0,
    Q2_K: _repack_q2_k,
    Q3_K: _repack_q3_k,
    Q4_K: _repack_q4_k,
    Q5_K: _repack_q5_k,
    Q6_K: _repack_q6_k,
    IQ4_NL: lambda blocks: _repack_nibbles(blocks, 2, 0),
    IQ4_XS: _repack_iq4_xs,
}
