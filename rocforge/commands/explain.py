"""`rocforge explain`: the plan as a table, and with --analyze what each op took. Computes and times nothing itself."""

import json
from collections.abc import Sequence
from typing import Any

import click

from rocforge.commands import verbose
from rocforge.commands.targets import target_named
from rocforge.errors import RequestError
from rocforge.plan.ir import KV_FORMATS
from rocforge.probe import CHOICES

# Of the step's time, what the ops may add up to beyond it before the measuring is called disturbed.
OVER = 0.05


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; the built-in model if left out.")
@click.option("-c", "--context", type=click.IntRange(min=1), help="Tokens that a sequence may have.")
@click.option("--tokens", type=click.IntRange(min=1), default=1, help="Tokens in the step shown.")
@click.option("-d", "--depth", type=click.IntRange(min=0), default=0, help="Tokens that are in the cache before.")
@click.option("--analyze", is_flag=True, help="Run the step and measure each op beside what the device's limits allow.")
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=9, help="Of the step, with --analyze.")
@click.option("--kv", "kv_format", type=click.Choice(KV_FORMATS), default="f16", help="What the KV cache holds.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads; default: one a core that may be used.")
@click.option("--huge-pages/--no-huge-pages", default=None, help="On a CPU: copy the weights into huge pages.")
@click.option("--device", type=click.Choice(CHOICES), default="auto", help="What to run on.")
@click.option("--target", metavar="GFX", help="Print the tiles that a GPU of this target would get, as gfx1100; it need not be here.")
@click.option("--predict", is_flag=True, help="With --target: how long each launch should take, by its machine code.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbose
def explain(
    model: str | None, context: int | None, tokens: int, depth: int, analyze: bool, repetitions: int, kv_format: str,
    threads: int | None, huge_pages: bool | None, device: str, target: str | None, predict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Print what will run where, and what it costs.

    And the tile of each launch that has one, and where it comes from.
    """
    if analyze and target:
        raise RequestError("--analyze measures, which only a device that is here can be: leave out --target")
    if predict and not target:
        raise RequestError("--predict is for a card that is not here: name its --target; --analyze measures what is here")
    if context is not None and context < depth + tokens:
        raise RequestError(f"{tokens} tokens behind {depth} do not fit into a context of {context}; raise it (--context)")
    settings = {"device": device, "threads": threads, "kv_format": kv_format, "huge_pages": huge_pages}
    if analyze:
        found = _analyze(model, tokens, depth, repetitions, {**settings, "context": context or depth + tokens})
    else:
        # A target that is not here: the plan is the same, and the CPU can always be drawn for.
        found = _plan(model, tokens, depth, target, predict, {**settings, "context": context, **({"device": "cpu"} if target else {})})
    if as_json:
        click.echo(json.dumps(found))
    else:
        behind = f" behind {depth}" if depth else ""
        click.echo(f"{found['device']}\na step of {tokens} token{'s' * (tokens > 1)}{behind}:")
        (_print_tiles if target else _print_analysis if analyze else _print)(found)
    if analyze and found["between_s"] < -OVER * found["step_s"]:
        click.echo(
            f"the ops add up to {found['ops_s'] / found['step_s'] - 1:.0%} more than the step: "
            "something else used the device meanwhile; run it again, or with more repetitions (-r)",
            err=True,
        )  # fmt: skip


def _plan(
    model: str | None, tokens: int, depth: int, target: str | None, predict: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    from rocforge.llm import draw
    from rocforge.plan import explain

    at = target_named(target) if target else None
    design = draw(model, **settings)
    try:
        known = {"device": f"{target} (not a device that is here)" if target else str(design.device), "tokens": tokens, "depth": depth}
        tiles = _tiles(design, tokens, at, predict)
    finally:
        design.file.close()
    if target:
        return {**known, "target": target, "tiles": tiles}
    rows = explain.rows(design.plan, {**design.memory.sizes, "T": tokens, "R": 1}, depth)
    return {**known, "ops": rows, "memory": explain.memory(design.memory), "tiles": tiles}


def _tiles(design: Any, tokens: int, target: Any, predict: bool) -> list[dict[str, Any]]:
    """Kernel x format x shape, with the tile that it gets, the tile's origin and the count of its launches."""
    from rocforge.engine import tiles

    kind = "gpu" if target else design.device.kind
    found = tiles.choices(design.plan, design.memory, design.file, tokens, 1, target, kind=kind)
    times_us = {_key(*key): us for key, us in tiles.predicted_us(found, target).items()} if predict else {}
    counted: dict[tuple, dict[str, Any]] = {}
    for row in tiles.rows(found):
        key = _key(row["kernel"], row["format"] or "", row["shape"], row["tokens"])
        known = counted.setdefault(key, {"launches": 0, **{k: v for k, v in row.items() if k != "layer"}})
        known["launches"] += 1
        if predict:
            known["predicted_us"] = times_us[key]
    return list(counted.values())


def _key(kernel: str, format: str, shape: Sequence[int], tokens: int) -> tuple:
    return kernel, format, tuple(shape), tokens


def _analyze(model: str | None, tokens: int, depth: int, repetitions: int, settings: dict[str, Any]) -> dict[str, Any]:
    from rocforge.commands.machine import describe
    from rocforge.commands.progress import Progress
    from rocforge.engine.profile import profile
    from rocforge.llm import LLM
    from rocforge.plan import explain

    with Progress() as progress, LLM(model, **settings, sequences=1, chunk_tokens=tokens, progress=progress) as llm:
        found = profile(llm.runner, llm.device.kind, llm.config.vocab_size, tokens, depth, repetitions, progress)
        return {
            "device": str(llm.device), "machine": describe(llm.device), "model": llm.config.name, "tokens": tokens, "depth": depth,
            **found, "memory": explain.memory(llm.memory),
        }  # fmt: skip


# ---- how it is printed


def _print(found: dict[str, Any]) -> None:
    from rocforge.commands.tables import render, sizes

    cells = [
        (
            "" if row["layer"] is None else str(row["layer"]),
            row["op"],
            " ".join(row["weights"]),
            row["format"] or "",
            sizes(row["shape"]),
            f"{row['bytes']:,}",
            f"{row['flops']:,}",
            row["device"],
        )
        for row in found["ops"]
    ]
    columns = ("layer", "op", "weights", "format", "shape", "bytes", "FLOPs", "device")
    click.echo(render(columns, cells, right=("layer", "bytes", "FLOPs")))
    for key, value in ((k, v) for k, v in found["memory"].items() if v):
        click.echo(f"{key.removesuffix('_bytes'):>10} {value:>16,} bytes")
    _print_tiles(found)


def _print_tiles(found: dict[str, Any]) -> None:
    from rocforge.commands.tables import render, sizes

    is_predicted = all("predicted_us" in row for row in found["tiles"])
    cells = [
        (
            row["op"], row["kernel"], row["format"] or "", sizes(row["shape"]), str(row["launches"]),
            " ".join(f"{name}={value}" for name, value in row["tile"].items()), row["origin"],
            *((f"{row['predicted_us']:.1f}", f"{row['launches'] * row['predicted_us']:.0f}") if is_predicted else ()),
        )
        for row in found["tiles"]
    ]  # fmt: skip
    columns = ("op", "kernel", "format", "shape", "count", "tile", "from", *(("us", "all us") if is_predicted else ()))
    click.echo(render(columns, cells, right=("count", "us", "all us")))
    if is_predicted:
        total_us = sum(row["launches"] * row["predicted_us"] for row in found["tiles"])
        left_out = "RoPE, what has no tile, and the time between them"
        click.echo(f"predicted, not measured: {total_us / 1e3:.2f} ms for these launches; not counted: {left_out}")


def _print_analysis(found: dict[str, Any]) -> None:
    from rocforge.commands.tables import render, roofline_lines, sizes

    step_s = found["step_s"]
    amounts = lambda line: (f"{line['bytes'] / 1e6:,.2f}", f"{line['flops'] / 1e9:,.3f}")
    times = lambda time_s, bound_s, loss_s: (f"{time_s * 1e3:,.3f}", f"{bound_s * 1e3:,.3f}", f"{loss_s * 1e3:,.3f}")
    cells = [
        (
            line["op"], line["format"] or "", sizes(line["shape"]), str(line["launches"]), *amounts(line),
            *times(line["time_s"], line["bound_s"], line["loss_s"]), f"{line['bound_s'] / line['time_s']:.0%}" if line["time_s"] else "",
            line["limit"], f"{line['time_s'] / step_s:.1%}",
        )
        for line in found["groups"]
    ]  # fmt: skip
    rest = found["between_s"]
    cells.append(("between launches", *[""] * 5, *times(rest, 0, rest), "", "", f"{rest / step_s:.1%}"))
    cells.append(("the whole step", *[""] * 5, *times(step_s, found["bound_s"], step_s - found["bound_s"]),
                  f"{found['bound_s'] / step_s:.0%}", "", f"{1:.1%}"))  # fmt: skip
    columns = ("op", "format", "shape", "count", "MB", "GFLOP", "ms", "bound ms", "loss ms", "of bound", "limit", "of step")
    click.echo(render(columns, cells, right=set(columns) - {"op", "format", "shape", "limit"}))
    click.echo(roofline_lines(found["roofline"]))
