"""Tables for a terminal, or for whatever reads stdout, and what stands below some of them. Measures nothing."""

import io
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any


def render(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """The rows under their columns' names; those of `right` aligned so. A terminal folds what is too wide for it."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    # Into a pipe goes the whole of each line; rich would take it to be 80 wide.
    on_terminal = sys.stdout.isatty()
    text = io.StringIO()
    console = Console(file=text, width=None if on_terminal else 240, force_terminal=on_terminal, highlight=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def sizes(shape: Iterable[int | str]) -> str:
    """4096 x 1024"""
    return " x ".join(map(str, shape))


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[str] = ()) -> str:
    """The same as a table of Markdown."""
    marks = ["---:" if name in right else "---" for name in columns]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, marks, *rows])


def roofline_lines(found: Mapping[str, Any]) -> str:
    """The limits that times were held against (plan.roofline.Roofline as a dict), in three lines."""
    over = lambda n_bytes, rate: f"{rate / 1e9:,.1f} GB/s ({n_bytes / 2**20:,.4g} MiB)"
    memory = over(found["memory_working_set_bytes"], found["memory_bytes_per_s"])
    caches = ", ".join(over(*cache) for cache in found["caches"])
    peak = lambda which: f"{found[f'{which}_ops_per_s'] / 1e12:,.2f} TOP/s ({found[f'{which}_unit']})"
    return (
        f"limits, measured in this run: memory {memory},\ncache {caches},\n"
        f"matrix products {peak('matrix')}, other arithmetic {peak('vector')}"
    )
