"""Tables for a terminal, or for whatever reads stdout. Knows no contents."""

import io
import sys
from collections.abc import Iterable, Sequence


def render(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> str:
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
    console = Console(file=text, width=None if on_terminal else 200, force_terminal=on_terminal, highlight=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
