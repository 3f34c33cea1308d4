"""Tiles of the products of many tokens on this GPU, those that one names, beside the defaults of rocforge/kernels/gemm.py.

    python bench/tiles.py --shape 28672x4096 --shape 4096x14336 --format Q4_K --format Q6_K --tokens 32 \\
        --tile 32,128,4,4,3,1 --tile 32,64,8,4,3,2 [--json]

A tile is GemmTile's numbers. Each is checked against the default's results, and timed as `rocforge tune` does, with what joins its
parts; where `tune` tries only what lies around the default, any can be tried here. "differs" is said of one that computes something
else: then something is wrong. Nothing is kept.
"""

import contextlib
import json
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from rocforge.commands.bench import Numbers
from rocforge.commands.machine import describe
from rocforge.commands.progress import Progress
from rocforge.commands.tables import render, sizes
from rocforge.engine.selftest import verdict
from rocforge.errors import DeviceError
from rocforge.gguf.formats import SUPPORTED
from rocforge.probe import book, choose
from rocforge.probe.tuned import Key, Tile, Unfit, words

ROUNDS = 5
FORMATS = [format.name for format in SUPPORTED if not format.is_float]


class Shape(click.ParamType):
    """Rows x columns of a matrix."""

    name = "NxK"

    def convert(self, value: Any, param, ctx) -> tuple[int, int]:
        try:
            rows, columns = map(int, str(value).split("x"))
        except ValueError:
            rows = columns = 0
        if rows < 1 or columns < 1 or columns % 256:
            self.fail(f"{value!r} is no shape of rows and columns, a multiple of 256, as 4096x14336", param, ctx)
        return rows, columns


class OfGemm(click.ParamType):
    """GemmTile's numbers with commas between them."""

    name = "BT,BN,BU,WARPS,STAGES,PROGRAMS"

    def convert(self, value: Any, param, ctx) -> Tile:
        from rocforge.kernels.gemm import GemmTile

        try:
            return GemmTile(*map(int, str(value).split(",")))._asdict()
        except (ValueError, TypeError):
            self.fail(f"{value!r} is no {self.name}", param, ctx)


def keys_of(formats: Sequence[str], shapes: Sequence[tuple[int, int]], tokens: Sequence[int]) -> list[Key]:
    return [Key("gemm_blocks", format, shape, book.bucket(n)) for n in tokens for format in formats for shape in shapes]


def made_for(keys: Sequence[Key]) -> list[book.Choice]:
    """What the products ask for. Raises ClickException for tokens that are multiplied lane by lane."""
    from rocforge.kernels import trials
    from rocforge.kernels.launch import record

    with book.watch() as found, record():
        for key in keys:
            trials.make(key, "meta").call(0)
    asked = {choice.key: choice for choice in found}
    if missing := [key for key in keys if key not in asked]:
        raise click.ClickException(f"--tokens {missing[0].tokens}: so few are multiplied lane by lane here, without such tiles")
    return [asked[key] for key in keys]


def compile_all(range_, tiles_of: Sequence[tuple[book.Choice, Sequence[Tile]]], index: int, progress: Progress) -> None:
    """Side by side, for GPU `index`. What does not compile says so when it is timed."""
    import torch

    from rocforge.kernels import trials

    launches = {}
    for choice, tiles in tiles_of:
        for tile in tiles:
            with contextlib.suppress(Exception):  # what Triton raises has no common base
                launches |= {made.key: made for made in trials.launches_of(choice.key, range_._recorded(choice.key, tile))}

    def compile_one(made: Any) -> None:
        with contextlib.suppress(Exception), torch.cuda.device(index):
            made.compiled()

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, _ in enumerate(pool.map(compile_one, launches.values()), 1):
            progress("compile", done, len(launches))


def times(range_, choice: book.Choice, tiles: Sequence[Tile]) -> list[dict[str, Any]]:
    """One for each tile: {"tile", "us"} or {"tile", "fault"}."""
    rows: list[dict[str, Any]] = []
    for tile in tiles:
        row: dict[str, Any] = {"tile": tile}
        rows.append(row)
        try:
            if fault := range_.fault(choice.key, tile):
                row["fault"] = f"differs: {fault}"
            else:
                row["us"] = statistics.median(range_.time_us(choice.key, tile) for _ in range(ROUNDS))
        except Unfit as error:
            row["fault"] = str(error)
    return rows


@click.command(context_settings={"show_default": True})
@click.option("--format", "formats", type=click.Choice(FORMATS), multiple=True, default=("Q4_K",), help="Of the weights; again for more.")
@click.option("--shape", "shapes", type=Shape(), multiple=True, default=("28672x4096",), help="Rows and columns of the weights.")
@click.option("--tokens", type=Numbers(1), default="512", help="Of a step.")
@click.option("--tile", "tiles", type=OfGemm(), multiple=True, help="Beside the default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(formats, shapes, tokens, tiles, as_json: bool) -> None:
    """Time tiles of the products of many tokens on this GPU."""
    try:
        chosen = choose("gpu", None, verdict)
    except DeviceError as error:
        raise click.ClickException(str(error)) from None
    click.echo(str(chosen), err=True)
    import torch

    from rocforge.engine.tiles import random_blocks
    from rocforge.kernels.ranges import DeviceRange

    torch.cuda.set_device(chosen.index)
    choices = made_for(keys_of(formats, shapes, tokens))
    range_ = DeviceRange(choices, chosen.name, random_blocks)
    defaults = [book.as_dict(choice.default) for choice in choices]
    wanted = [(choice, [first, *(tile for tile in tiles if tile != first)]) for choice, first in zip(choices, defaults, strict=True)]
    results = []
    try:
        with Progress() as progress:
            compile_all(range_, wanted, chosen.index, progress)
            for done, (choice, its_tiles) in enumerate(wanted):
                progress("time", done, len(wanted))
                results += [{**choice.key._asdict(), **row} for row in times(range_, choice, its_tiles)]
    except KeyboardInterrupt:
        click.echo(f"stopped: {len(results)} tiles are timed", err=True)
    if as_json:
        click.echo(json.dumps({"machine": describe(chosen), "results": results}))
        return
    cells = [
        (r["format"], sizes(r["shape"]), str(r["tokens"]), words(r["tile"]), f"{r['us']:.1f}" if "us" in r else "", r.get("fault", ""))
        for r in results
    ]  # fmt: skip
    click.echo(render(("format", "shape", "tokens", "tile", "us", ""), cells, right=("tokens", "us")))


if __name__ == "__main__":
    main()
