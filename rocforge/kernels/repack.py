"""GGUF's blocks to the planes of layout.py on the device. Says nothing of what lies where: layout.REPACK does.

Each bit of a plane is a bit of the blocks, or its inverse, or always the same. Which one, a table says, made by asking
layout.REPACK of blocks of one bit each; so one kernel serves all formats, and one launch all planes of a matrix.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from rocforge.gguf.formats import Format
from rocforge.kernels import layout
from rocforge.kernels.launch import launch
from rocforge.kernels.sizes import cdiv

# Bytes of a plane that a program makes, and its warps.
BYTES, WARPS = 256, 4
# What an entry says where no bit goes to one of a plane; plus 1 where it is set.
NOTHING = -2
M_SHARE = tl.constexpr(layout.M_SHARE)


class Table(NamedTuple):
    """Of one plane: `entries` int16 [parts, bytes, 8], for each bit of a cell twice the number of the bit of the blocks that it
    is, plus 1 for its inverse. A cell is the fewest columns that fill whole elements of all planes."""

    entries: torch.Tensor
    cell_bytes: int  # of blocks


class Place(NamedTuple):
    """Of one plane of a matrix, in the order of move_bits' `places`."""

    program: int  # the first of a row's that make it
    start: int  # bytes from the first plane's beginning to its
    row_bytes: int
    part_bytes: int
    cell_bytes: int  # of a part
    entry: int  # where its table is among those of all planes


PLACE = tl.constexpr(len(Place._fields))


@functools.cache
def tables(format: Format) -> dict[str, Table]:
    """By the planes' names."""
    planes = {name: plane for name, plane in layout.PLANES[format]._asdict().items() if plane}
    columns = layout.UNIT * max(plane.units for plane in planes.values())
    cell_bytes = format.row_bytes(columns)
    # Blocks of nothing, then of a single bit each.
    blocks = torch.zeros(1 + 8 * cell_bytes, cell_bytes, dtype=torch.uint8)
    bit = torch.arange(8 * cell_bytes)
    blocks[1 + bit, bit // 8] = (1 << bit % 8).to(torch.uint8)
    found = {}
    packed = layout.REPACK[format](blocks.view(len(blocks), -1, format.block_bytes))._asdict()
    for name, plane in planes.items():
        made = packed[name].reshape(len(blocks), plane.n_parts, -1, 1) >> torch.arange(8, dtype=torch.uint8) & 1
        follows = made[1:] != made[:1]
        assert int(follows.sum(0).max()) == 1, (format, name)  # no bit is made of two
        source = torch.where(follows.any(0), 2 * follows.to(torch.int8).argmax(0), NOTHING)
        found[name] = Table((source + made[0]).to(torch.int16), cell_bytes)
    return found


@functools.cache
def _entries(format: Format, device: torch.device) -> torch.Tensor:
    """The tables of all planes, one behind the other."""
    return torch.cat([table.entries.flatten() for table in tables(format).values()]).to(device)


@functools.lru_cache(256)
def _places(format: Format, rows: int, columns: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """(the Place of each plane of such a matrix, int64 [planes, PLACE], how many programs make a row of all of them)."""
    found, program, entry = [], 0, 0
    for name, start in layout.starts(format, rows, columns).items():
        _, n_parts, units, width = (plane := getattr(layout.PLANES[format], name)).shape(rows, columns)
        part_bytes, entries = units * width * plane.dtype.itemsize, tables(format)[name].entries
        found.append(Place(program, start, n_parts * part_bytes, part_bytes, entries.shape[1], entry))
        program += cdiv(n_parts * part_bytes, BYTES)
        entry += entries.numel()
    return torch.tensor(found, dtype=torch.int64).to(device), program


@triton.jit(do_not_specialize=["first", "block_row", "cell_bytes", "most_scale"])
def move_bits(
    blocks, entries, places, planes, bounds, first, block_row, cell_bytes, most_scale,
    PLANES: tl.constexpr, STRIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Program (r, i): B bytes of row first + r of one of the PLANES, of row r of the blocks, which has block_row bytes, a cell
    cell_bytes. The last plane has the d, STRIDE halves from each other, between two an m: see Matrix.bounds.

    `planes`: where the first begins, and all others behind it.
    """
    r, i = tl.program_id(0).to(tl.int64), tl.program_id(1)
    which = 0
    for p in tl.static_range(1, PLANES):
        which += (tl.load(places + p * PLACE) <= i).to(tl.int32)
    place = places + which * PLACE
    row_bytes, part_bytes = tl.load(place + 2).to(tl.int32), tl.load(place + 3).to(tl.int32)
    cell_part, plane = tl.load(place + 4).to(tl.int32), planes + tl.load(place + 1) + (first + r) * row_bytes
    at = (i - tl.load(place).to(tl.int32)) * B + tl.arange(0, B)
    there, part = at < row_bytes, at // part_bytes
    cell, within = at % part_bytes // cell_part, at % part_bytes % cell_part
    bit, of_part = tl.arange(0, 8)[None, :], part * cell_part + within
    entry = tl.load(entries + tl.load(place + 5) + of_part[:, None] * 8 + bit, mask=there[:, None], other=0).to(tl.int32)
    byte = cell[:, None] * cell_bytes + (entry >> 4)
    # Behind an odd number of blocks of 32 columns half a unit is zeros.
    value = tl.load(blocks + r * block_row + byte, mask=(entry >= 0) & (byte < block_row) & there[:, None], other=0)
    value = ((value.to(tl.int32) >> (entry >> 1 & 7)) & 1) ^ (entry & 1)
    made = tl.sum(value << bit, 1)
    tl.store(plane + at, made.to(tl.uint8), mask=there)
    if which == PLANES - 1:
        low, high = tl.split(tl.reshape(made, (B // (2 * STRIDE), STRIDE, 2)))
        half = (low | high << 8).to(tl.int16).to(tl.float16, bitcast=True)
        share = tl.where(tl.arange(0, STRIDE) == 0, 1.0, M_SHARE)[None, :]
        largest = tl.max(tl.max(tl.abs(half.to(tl.float32)) * share, 1), 0)
        tl.atomic_max(bounds + first + r, largest * most_scale)


def fill(matrix: layout.Matrix, raw: torch.Tensor, first: int = 0) -> None:
    """What layout.fill does: rows of GGUF blocks, uint8 [n, row bytes] on the matrix's device, to its rows from `first` on."""
    format = matrix.format
    if format.is_float:
        layout.fill(matrix, raw, first)
        return
    of_d, stride = layout.places_of_d(format)
    of_planes = tables(format)
    assert list(of_planes)[-1] == of_d, format
    places, programs = _places(format, matrix.rows, matrix.columns, raw.device)
    launch(
        move_bits, (len(raw), programs), raw, _entries(format, raw.device), places, matrix.planes.quants.view(torch.uint8),
        matrix.bounds, first, raw.shape[1], of_planes["quants"].cell_bytes, float(layout.MOST_SCALE.get(format, 1)),
        num_warps=WARPS, PLANES=len(of_planes), STRIDE=stride, B=BYTES,
    )  # fmt: skip
