"""Results of `rocforge bench` as text, and against earlier ones: of whole models and of ops. Measures nothing."""

import csv
import io
import json
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from rocforge.commands.tables import markdown, render, roofline_lines, sizes
from rocforge.errors import RequestError

Row = Mapping[str, Any]

# Rows of which each is told how it stands to its earlier result.
FEW = 20


class Sort(NamedTuple):
    """A sort of results: how a row is shown, what makes it the same test as another, and how they compare.

    `figure(row)` is (value, its standard error); `more_is_better` of the value; `least_change` is the share of
    the earlier value that counts as noise whatever the errors are.
    """

    columns: Sequence[str]
    left: Collection[str]  # columns that are not numbers
    cells: Callable[[Row], tuple[str, ...]]
    name: Callable[[Row], str]
    key: Callable[[Row], tuple]
    figure: Callable[[Row], tuple[float, float]]
    more_is_better: bool
    least_change: float


# ---- whole models


def _model_cells(r: Row) -> tuple[str, ...]:
    return r["model"], f"{r['model_bytes'] / 2**20:,.0f} MiB", r["test"], f"{r['tokens_per_s']:,.2f} ± {r['deviation']:.2f}"


MODEL = Sort(
    columns=("model", "size", "test", "tokens/s"),
    left=("model", "test"),
    cells=_model_cells,
    name=lambda r: r["test"],
    key=lambda r: (r["model"], r["test"], r["kv"]),
    figure=lambda r: (r["tokens_per_s"], r["deviation"] / max(1, len(r["rates"])) ** 0.5),
    more_is_better=True,
    least_change=0.01,
)


def _beside_cells(r: Row) -> tuple[str, ...]:
    theirs = r.get("llama_cpp_tokens_per_s")
    return (*_model_cells(r), *((f"{theirs:,.2f}", f"{r['tokens_per_s'] / theirs:.2f}") if theirs else ("", "")))


# With what llama.cpp made of the same.
MODEL_BESIDE = MODEL._replace(columns=(*MODEL.columns, "llama.cpp", "times as fast"), cells=_beside_cells)


# ---- ops


def _op_cells(r: Row) -> tuple[str, ...]:
    peer = f"{r['peer_s'] / r['time_s']:.2f} {r['peer']}" if r["peer_s"] else ""
    return (
        r["op"], r["format"], sizes(r["shape"]), str(r["tokens"]), str(r["depth"]), f"{r['time_s'] * 1e6:,.1f}", f"{r['bytes_per_s'] / 1e9:,.1f}",
        f"{r['ops_per_s'] / 1e12:,.3f}", f"{r['of_bound']:.0%}", r["limit"], "" if r["error"] is None else f"{r['error']:.1e}", peer,
    )  # fmt: skip


def _median_and_error(r: Row) -> tuple[float, float]:
    """The median's standard error is 1.25 times a mean's; the deviation is taken from that of the median."""
    times_s = r["times_s"]
    deviation_s = 1.48 * statistics.median(abs(t - r["time_s"]) for t in times_s)
    return r["time_s"], 1.25 * deviation_s / len(times_s) ** 0.5


OPS = Sort(
    columns=("op", "format", "shape", "tokens", "depth", "us", "GB/s", "TOP/s", "of bound", "limit", "error", "times as fast as"),
    left=("op", "format", "shape", "limit", "times as fast as"),
    cells=_op_cells,
    name=lambda r: f"{r['op']} {r['format']} {sizes(r['shape'])}, tokens {r['tokens']}, depth {r['depth']}",
    key=lambda r: (r["op"], r["format"], *r["shape"], r["tokens"], r["depth"]),
    figure=_median_and_error,
    more_is_better=False,
    least_change=0.03,
)


# ---- how they are printed


def _table(sort: Sort, machine: Row, rows: Sequence[Row]) -> str:
    text = render(sort.columns, map(sort.cells, rows), right=set(sort.columns) - set(sort.left))
    return f"{text}\n{roofline_lines(machine['roofline'])}" if "roofline" in machine else text


def _markdown(sort: Sort, machine: Row, rows: Sequence[Row]) -> str:
    text = markdown(sort.columns, map(sort.cells, rows), right=set(sort.columns) - set(sort.left))
    below = f"\n\n{roofline_lines(machine['roofline'])}" if "roofline" in machine else ""
    return f"{machine['device']}, {machine['date']}\n\n{text}{below}"


def _csv(sort: Sort, machine: Row, rows: Sequence[Row]) -> str:
    """One line a row; lists of single runs are left out."""
    text = io.StringIO()
    columns = [c for c in rows[0] if c not in ("rates", "times_s")]
    writer = csv.DictWriter(text, ["device", "date", *columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        shape = {"shape": sizes(row["shape"])} if "shape" in row else {}
        writer.writerow({"device": machine["device"], "date": machine["date"], **row, **shape})
    return text.getvalue().rstrip()


RENDER: dict[str, Callable[[Sort, Row, Sequence[Row]], str]] = {
    "table": _table,
    "markdown": _markdown,
    "csv": _csv,
    "json": lambda sort, machine, rows: json.dumps({"machine": machine, "results": rows}, indent=2),
}


# ---- against earlier results


def read_earlier(path: str, sort: Sort) -> dict[tuple, Row]:
    """Earlier results by their key. Raises RequestError for what is no such file."""
    try:
        results = json.loads(Path(path).read_text())["results"]
        found = {sort.key(row): row for row in results if sort.figure(row)[0] > 0}
        for row in found.values():
            sort.name(row)
        return found
    except OSError as error:
        raise RequestError(f"--compare {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        what = "rocforge bench --ops --json" if sort is OPS else "rocforge bench --json"
        raise RequestError(f"--compare {path}: this is no JSON of `{what}` ({error!r})") from None


def compare(earlier: Mapping[tuple, Row], rows: Sequence[Row], sort: Sort) -> bool:
    """Say on stderr how each row stands to its earlier result; whether any got slower beyond the noise.

    The noise is three standard errors of the difference, and `sort.least_change` of the value at the least. Of
    more rows than FEW only those that changed are told.
    """
    told = Counter()
    for row in rows:
        old = earlier.get(sort.key(row))
        word, line = ("not among the earlier results",) * 2 if old is None else _change(old, row, sort)
        told[word] += 1
        if len(rows) <= FEW or word in ("slower", "faster"):
            click.echo(f"{sort.name(row)}: {line}", err=True)
    if len(rows) > FEW:
        click.echo(", ".join(f"{n} {word}" for word, n in told.items()), err=True)
    return told["slower"] > 0


def _change(old: Row, row: Row, sort: Sort) -> tuple[str, str]:
    """(slower, faster or the same, what is said of it)"""
    (before, error), (now, other) = sort.figure(old), sort.figure(row)
    noise = max(3 * (error**2 + other**2) ** 0.5, sort.least_change * before)
    gain = now - before if sort.more_is_better else before - now
    word = "slower" if gain < -noise else "faster" if gain > noise else "the same"
    what = "" if sort.more_is_better else " time"
    within = ", within the noise" if word == "the same" else ""
    return word, f"{(now - before) / before:+.1%}{what}, {word}{within} (of {noise / before:.1%})"
