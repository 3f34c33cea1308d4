"""`rocforge probe`: the devices that are here. Prints what the probe found."""

import dataclasses
import json

import click

from rocforge.commands import verbose
from rocforge.probe import choose
from rocforge.probe.gpu import find_gpus


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbose
def probe(as_json: bool) -> None:
    """Print the devices that are here, and which one would be used."""
    device, gpus = choose("auto"), find_gpus()
    if as_json:
        found = {"device": dataclasses.asdict(device), "gpus": [dataclasses.asdict(gpu) for gpu in gpus]}
        click.echo(json.dumps(found, indent=2))
        return
    lines = {
        "device": f"{device.kind}: {device.name}",
        "reason": device.reason,
        "threads": device.threads,
        "isa": " ".join(device.isa) or "none of those that matter",
        "memory": f"{device.memory_bytes / 2**30:.1f} GiB available",
        "GPUs": ", ".join(f"{gpu.vendor} {gpu.name}" for gpu in gpus) or "none found",
    }
    for key, value in lines.items():
        click.echo(f"{key:8} {value}")
