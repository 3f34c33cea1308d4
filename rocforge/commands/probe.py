"""`rocforge probe`: the devices that are here. Prints what the probe found, and what it passed over and why."""

import dataclasses
import functools
import json
import platform
from collections.abc import Iterator

import click

import rocforge
from rocforge.commands import verbose
from rocforge.probe import cpu
from rocforge.probe.device import Device, pick
from rocforge.probe.gpu import GPU
from rocforge.probe.survey import Survey, survey
from rocforge.probe.trial import read_bytes_per_s, try_isa


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--test", "again", is_flag=True, help="Run a GPU's self-test again, whatever is remembered of it.")
@verbose
def probe(as_json: bool, again: bool) -> None:
    """Print the devices that are here, and which one would be used."""
    from rocforge.engine.selftest import verdict  # brings numpy

    found = survey(functools.partial(verdict, progress=_tell_test, again=again))
    device = pick(found, "auto")
    host = dataclasses.asdict(cpu.describe()) | {
        "isa_ran": try_isa(),
        "memory_bytes": cpu.available_bytes(),
        "read_bytes_per_s": read_bytes_per_s(cpu.usable_threads()),
    }
    if as_json:
        click.echo(json.dumps(_report(device, found, host), indent=2))
    else:
        for key, value in _lines(device, found, host):
            click.echo(f"{key:8} {value}".rstrip())


def _tell_test(_stage: str, done: int, total: int) -> None:
    if done == 0:
        click.echo(f"testing the GPU's kernels, {total} cases, once for this driver and version ...", err=True)


def _versions(found: Survey) -> dict[str, str | None]:
    versions = {"rocforge": rocforge.__version__, "python": platform.python_version()}
    if found.runtime:
        versions |= {name: getattr(found.runtime, name) for name in ("torch", "hip", "cuda", "triton")}
        versions["driver"] = found.driver
    return versions


def _report(device: Device, found: Survey, host: dict) -> dict:
    return {
        "device": dataclasses.asdict(device),
        "gpus": [dataclasses.asdict(gpu) for gpu in found.gpus],
        "cpu": host,
        "versions": _versions(found),
        "overrides": dict(found.overrides),
    }


def _lines(device: Device, found: Survey, host: dict) -> Iterator[tuple[str, str]]:
    yield "device", f"{device.kind}: {device.name}"
    yield "reason", device.reason
    yield "threads", str(device.threads)
    yield "memory", f"{_gib(device.memory_bytes)} available"
    for gpu in found.gpus:
        yield "GPU", f"{gpu}, {'used' if gpu.passed_over is None else f'passed over: {gpu.passed_over}'}"
        yield "", _facts(gpu)
        yield "", _instructions(gpu)
    if not found.gpus:
        yield "GPUs", "none found"
    yield "CPU", f"{host['name']} ({host['target']}), {host['threads']} threads may run at once, on {host['cores']} cores"
    yield "", _tried(host["isa"], host["isa_ran"])
    yield "", f"{_gib(host['memory_bytes'])} of memory available, read at {host['read_bytes_per_s'] / 1e9:.0f} GB/s"
    asked = "" if found.runtime else "; torch was not asked, for no driver shows a GPU"
    yield "versions", ", ".join(f"{name} {version or 'absent'}" for name, version in _versions(found).items()) + asked
    for name, value in found.overrides.items():
        yield "override", f"{name} is {value}: torch takes an AMD GPU for what it says, not for what it is"


def _facts(gpu: GPU) -> str:
    kind = {True: "integrated", False: "discrete", None: "discrete or integrated is unknown"}[gpu.is_integrated]
    facts = [
        f"{'wave' if gpu.vendor == 'AMD' else 'warp'} of {_known(gpu.lanes)}",
        f"{_known(gpu.compute_units)} compute units",
        f"LDS {'unknown' if gpu.lds_bytes is None else f'{gpu.lds_bytes // 1024} KiB'}" if gpu.vendor == "AMD" else "",
        f"VRAM {_gib(gpu.vram_bytes)}",
        f"GTT {_gib(gpu.gtt_bytes)}" if gpu.vendor == "AMD" else "",
        kind,
        f"at {_known(gpu.pci)}",
    ]
    if gpu.driver_arch and gpu.arch and gpu.driver_arch != gpu.arch:
        facts.append(f"{gpu.driver_arch} by its driver, {gpu.arch} by torch")
    return ", ".join(filter(None, facts))


def _instructions(gpu: GPU) -> str:
    if gpu.matrix is None:
        return "instructions unknown: not compiled for"
    return f"Triton compiles for it; matrix instructions {gpu.matrix or 'none'}, dot instructions {gpu.dot or 'none'}"


def _tried(reported: tuple[str, ...], ran: "tuple[str, ...] | None") -> str:
    """What the system reports is what kernels are compiled for; what ran is what was tried."""
    if ran is None:
        return f"reports {_names(reported)}; nothing could be tried"
    parts = {
        "runs": [name for name in reported if name in ran],
        "runs, but is not reported": [name for name in ran if name not in reported],
        "is reported, but does not run": [name for name in reported if name not in ran],
    }
    return "; ".join(f"{what}: {_names(names)}" for what, names in parts.items() if names) or "runs: " + _names(())


def _names(extensions) -> str:
    return " ".join(extensions) or "no extension that matters"


def _known(fact) -> str:
    return "unknown" if fact is None else str(fact)


def _gib(n_bytes: int | None) -> str:
    return "unknown" if n_bytes is None else f"{n_bytes / 2**30:.1f} GiB"
