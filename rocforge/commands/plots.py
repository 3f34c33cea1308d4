"""Results of `rocforge bench` as pictures, by matplotlib. Measures nothing."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rocforge.errors import RequestError

SUFFIXES = (".png", ".svg", ".pdf")
MARKERS = ("o", "s", "^", "D", "v", "P")
# Colours that stay apart for most eyes, and then their lighter kin.
COLOURS = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22",
    "#aec7e8", "#ff9896", "#98df8a", "#c5b0d5", "#ffbb78", "#9edae5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d",
)  # fmt: skip
DPI = 150


def check(path: str) -> None:
    """Raises RequestError where nothing could be drawn into the file."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("--plot needs matplotlib, which is not installed: pip install 'rocforge[bench]'")
    target = Path(path)
    if target.suffix.lower() not in SUFFIXES:
        raise RequestError(f"--plot {path}: the name must end with one of {' '.join(SUFFIXES)}")
    if target.is_dir() or not target.parent.is_dir():
        raise RequestError(f"--plot {path}: {'this is a directory' if target.is_dir() else f'there is no directory {target.parent}'}")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise RequestError(f"--plot {path}: it cannot be written")


def _save(figure: Any, path: str) -> None:
    try:
        figure.savefig(path, dpi=DPI)
    except OSError as error:
        raise RequestError(f"--plot {path}: {error.strerror or error}") from None


def _figure(width: float, height: float, title: str) -> Any:
    """An empty figure, sizes in inches; drawn without a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, fontsize=10)
    return figure


def _where(machine: Mapping[str, Any]) -> str:
    """The device without why it was chosen, and the date."""
    return f"{machine['device'].split(' (')[0]}, {machine['date'][:10]}"


# ---- the roofline


def roofline(path: str, machine: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Every op that computes: operations a second over operations a byte, below the limits that were measured."""
    shown = [r for r in rows if r["flops"]]
    if not shown:
        raise RequestError(f"--plot {path}: of these ops none computes, and a roofline shows operations a second")
    limits = machine["roofline"]
    figure = _figure(10, 6, f"{rows[0]['model']} on {_where(machine)}")
    axes = figure.add_subplot()
    intensities = [r["flops"] / r["bytes"] for r in shown]
    left, right = min(intensities) / 3, max(intensities) * 3
    for unit, style in (("matrix", "-"), ("vector", "--")):
        _roof(axes, left, right, limits, unit, style)
    _points(axes, shown)
    axes.set(xscale="log", yscale="log", xlim=(left, right))
    axes.set_ylim(min(r["ops_per_s"] for r in shown) / 2e9, 2e-9 * max([limits["matrix_ops_per_s"], *(r["ops_per_s"] for r in shown)]))
    axes.set_xlabel("operations per byte moved")
    axes.set_ylabel("operations per second (GOP/s)")
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    left_out = sorted({r["op"] for r in rows if not r["flops"]})
    if left_out:
        axes.set_title(f"without arithmetic, and so not shown: {', '.join(left_out)}", fontsize=8, color="#555555")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)
    _save(figure, path)


def _roof(axes: Any, left: float, right: float, limits: Mapping[str, Any], unit: str, style: str) -> None:
    """The roof of one unit: as fast as bytes come from memory, up to its peak; dotted where they come from the fastest cache."""
    peak, name = limits[f"{unit}_ops_per_s"], limits[f"{unit}_unit"]
    memory, cache = limits["memory_bytes_per_s"], max(rate for _, rate in limits["caches"])
    ridge, cache_ridge = (min(max(peak / bandwidth, left), right) for bandwidth in (memory, cache))
    for bandwidth, level, xs, how in (
        (cache, "cache", (left, cache_ridge, ridge), {"linestyle": ":", "color": "#888888"}),
        (memory, "memory", (left, ridge, right), {"linestyle": style, "color": "black"}),
    ):
        label = f"{level}: {bandwidth / 1e9:,.0f} GB/s" if unit == "matrix" else None
        axes.plot(xs, [min(bandwidth * x, peak) / 1e9 for x in xs], linewidth=1.4, label=label, zorder=1, **how)
    # Left of the ridge, above the roof, there is no op.
    axes.annotate(
        f"{name}: {peak / 1e9:,.0f} GOP/s", (ridge, peak / 1e9), xytext=(-6, 4), textcoords="offset points",
        ha="right", va="bottom", fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
    )  # fmt: skip


def _points(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """One point an op: its colour tells op and format, its form the tokens."""
    kinds = list(dict.fromkeys(_kind(r) for r in rows))
    tokens = sorted({r["tokens"] for r in rows})
    for kind in kinds:
        place = kinds.index(kind)
        colour, edge = COLOURS[place % len(COLOURS)], ("white", "black")[place // len(COLOURS) % 2]
        label = kind
        for n in tokens:
            some = [r for r in rows if _kind(r) == kind and r["tokens"] == n]
            if some:
                axes.scatter(
                    [r["flops"] / r["bytes"] for r in some], [r["ops_per_s"] / 1e9 for r in some], s=34, color=colour,
                    marker=MARKERS[tokens.index(n) % len(MARKERS)], edgecolors=edge, linewidths=0.5, label=label, zorder=3,
                )  # fmt: skip
                label = None
    for n in tokens:
        plural = "" if n == 1 else "s"
        axes.scatter([], [], s=34, color="#333333", marker=MARKERS[tokens.index(n) % len(MARKERS)], label=f"{n} token{plural}")


def _kind(row: Mapping[str, Any]) -> str:
    return f"{row['op']} {row['format']}" if row["op"] == "linear" else row["op"]


# ---- speed against depth


def depths(path: str, machine: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Tokens a second against the tokens in the cache: prompts in one panel, text in another."""
    panels = [(title, some) for title, key in (("prompt", "prompt"), ("text", "text")) if (some := [r for r in rows if r[key]])]
    figure = _figure(max(7.5, 5.2 * len(panels) + 0.4), 4.4, f"{rows[0]['model']}, KV cache {rows[0]['kv']}, on {_where(machine)}")
    for place, (title, some) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), place + 1)
        lines: dict[str, list] = {}
        for row in some:
            lines.setdefault(_line(row), []).append((row["depth"], row["tokens_per_s"], row["deviation"]))
        for i, (name, points) in enumerate(lines.items()):
            xs, ys, errors = zip(*sorted(points))
            axes.errorbar(xs, ys, errors, label=name, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], capsize=3)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("context already in the cache (tokens)")
        axes.set_ylabel("tokens per second")
        axes.set_ylim(0, 1.06 * max(row["tokens_per_s"] + row["deviation"] for row in some))
        axes.grid(True, color="#dddddd", linewidth=0.6)
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4)
    _save(figure, path)


def _line(row: Mapping[str, Any]) -> str:
    """The test's name without its depth."""
    name = f"pp{row['prompt']}" if row["prompt"] else f"tg{row['text']}"
    return name + (f" x {row['sequences']}" if row["sequences"] > 1 else "")
