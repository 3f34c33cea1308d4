"""GGUF's blocks to the planes of layout.py on the device. Says nothing of what lies where: layout.REPACK does.

Each bit of a plane is a bit of the blocks, or its inverse, or always the same. Which one, a table says, made by asking
layout.REPACK of blocks of one bit each; so one kernel serves all formats, in one pass over the memory.
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
def _entries(format: Format, name: str, device: torch.device) -> torch.Tensor:
    return tables(format)[name].entries.to(device)


@triton.jit(do_not_specialize=["first", "block_row", "plane_row", "part_bytes", "cell_bytes", "cell_part", "most_scale"])
def move_bits(
    blocks, entries, plane, bounds, first, block_row, plane_row, part_bytes, cell_bytes, cell_part, most_scale,
    B: tl.constexpr, STRIDE: tl.constexpr,
):  # fmt: skip
    """Program (r, i): B bytes of row r of a plane, of the row's blocks. Bytes of a row: block_row of blocks, plane_row and
    part_bytes of the plane and its parts; of a cell: cell_bytes of blocks, cell_part of a part. STRIDE halves lie from d to d,
    between two an m; 0 in a plane that has none: see Matrix.bounds, whose row `first` is the first here."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * B + tl.arange(0, B)
    there, part = at < plane_row, at // part_bytes
    cell, within = at % part_bytes // cell_part, at % part_bytes % cell_part
    bit = tl.arange(0, 8)[None, :]
    entry = tl.load(entries + (part * cell_part + within)[:, None] * 8 + bit, mask=there[:, None], other=0).to(tl.int32)
    byte = cell[:, None] * cell_bytes + (entry >> 4)
    # Behind an odd number of blocks of 32 columns half a unit is zeros.
    value = tl.load(blocks + row * block_row + byte, mask=(entry >= 0) & (byte < block_row) & there[:, None], other=0)
    value = ((value.to(tl.int32) >> (entry >> 1 & 7)) & 1) ^ (entry & 1)
    made = tl.sum(value << bit, 1)
    tl.store(plane + row * plane_row + at, made.to(tl.uint8), mask=there)
    if STRIDE > 0:
        low, high = tl.split(tl.reshape(made, (B // (2 * STRIDE), STRIDE, 2)))
        half = (low | high << 8).to(tl.int16).to(tl.float16, bitcast=True)
        share = tl.where(tl.arange(0, STRIDE) == 0, 1.0, M_SHARE)[None, :]
        largest = tl.max(tl.max(tl.abs(half.to(tl.float32)) * share, 1), 0)
        tl.atomic_max(bounds + first + row, largest * most_scale)


def fill(matrix: layout.Matrix, raw: torch.Tensor, first: int = 0) -> None:
    """What layout.fill does: rows of GGUF blocks, uint8 [n, row bytes] on the matrix's device, to its rows from `first` on."""
    if matrix.format.is_float:
        layout.fill(matrix, raw, first)
        return
    of_d, stride = layout.places_of_d(matrix.format)
    for name, table in tables(matrix.format).items():
        plane = getattr(matrix.planes, name)[first : first + len(raw)].flatten(1).view(torch.uint8)
        n_parts, cell_part, _ = table.entries.shape
        plane_row = plane.shape[1]
        launch(
            move_bits, (len(raw), cdiv(plane_row, BYTES)), raw, _entries(matrix.format, name, raw.device), plane,
            matrix.bounds, first, raw.shape[1], plane_row, plane_row // n_parts, table.cell_bytes, cell_part,
            float(layout.MOST_SCALE.get(matrix.format, 1)), num_warps=WARPS, B=BYTES, STRIDE=stride if name == of_d else 0,
        )  # fmt: skip
