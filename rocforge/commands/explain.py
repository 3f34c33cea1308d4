"""`rocforge explain`: the plan as a table. Computes nothing itself: rocforge.plan.explain does."""

import json

import click

from rocforge.commands import verbose
from rocforge.probe import CHOICES


@click.command()
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; the built-in model if left out.")
@click.option("-c", "--context", type=click.IntRange(min=1), help="Tokens that a sequence may have.")
@click.option("--tokens", type=click.IntRange(min=1), default=1, show_default=True, help="Tokens in the step shown.")
@click.option("--device", type=click.Choice(CHOICES), default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbose
def explain(model: str | None, context: int | None, tokens: int, device: str, as_json: bool) -> None:
    """Print what will run where, and what it costs."""
    from rocforge.llm import draw
    from rocforge.plan import explain

    design = draw(model, device, context)
    rows = explain.rows(design.plan, {**design.memory.sizes, "T": tokens, "R": 1})
    memory = explain.memory(design.memory)
    design.file.close()
    if as_json:
        click.echo(json.dumps({"device": str(design.device), "tokens": tokens, "ops": rows, "memory": memory}))
    else:
        click.echo(f"{design.device}\na step of {tokens} token{'s' * (tokens > 1)}:")
        _print(rows, memory)


def _print(rows: list[dict], memory: dict[str, int]) -> None:
    from rocforge.commands.tables import render

    cells = [
        (
            "" if row["layer"] is None else str(row["layer"]),
            row["op"],
            " ".join(row["weights"]),
            row["format"] or "",
            " x ".join(map(str, row["shape"])),
            f"{row['bytes']:,}",
            f"{row['flops']:,}",
            row["device"],
        )
        for row in rows
    ]
    columns = ("layer", "op", "weights", "format", "shape", "bytes", "FLOPs", "device")
    click.echo(render(columns, cells, right=("layer", "bytes", "FLOPs")))
    for key, value in ((k, v) for k, v in memory.items() if v):
        click.echo(f"{key.removesuffix('_bytes'):>10} {value:>16,} bytes")
