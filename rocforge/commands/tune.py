"""`rocforge tune`: find the best tiles and keep them. Searches nothing itself: rocforge.engine.tune does."""

import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from rocforge.commands import verbose
from rocforge.commands.bench import Numbers
from rocforge.commands.progress import Progress
from rocforge.commands.targets import known, target_named
from rocforge.errors import RequestError
from rocforge.plan.ir import KV_FORMATS

CANCELLED = 130
# What end to end is measured with, before and after: tokens of a prompt, tokens of text, runs of each in a round; rounds,
# of which each has both, since a machine's speed drifts; and the context that has room for them.
PROMPT, TEXT, RUNS, ROUNDS = 512, 64, 3, 2
CONTEXT = 512


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="Tune the shapes and formats of this GGUF file.")
@click.option("--all", "every", is_flag=True, help="Tune every kernel and format, at 4096 by 4096.")
@click.option("--tokens", type=Numbers(), default="1,512", help="Tokens of the steps to tune for: 1 is decoding.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), metavar="MINUTES", help="Stop after as long.")
@click.option("--again", is_flag=True, help="Tune anew what is in the database already.")
@click.option("--device", type=click.Choice(("gpu", "cpu")), default="gpu", help="What to tune.")
@click.option("--cpu", is_flag=True, help="The same as --device cpu: a model's threads, pages, and its kernels' blocking.")
@click.option("--target", metavar="GFX", help="Predict for an AMD target that need not be here, as gfx1100.")
@click.option("--database", metavar="FILE", help="Write here instead of into your own database.")
@click.option("--kv", "kv_format", type=click.Choice(KV_FORMATS), default="f16", help="What the KV cache holds.")
@click.option("--export", "export_to", metavar="FILE", help="Copy your database for the device or --target to a file.")
@click.option("--import", "import_from", metavar="FILE", help="Take a file's entries over into your database.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@verbose
@click.pass_context
def tune(
    ctx: click.Context, model: str | None, every: bool, tokens: tuple[int, ...], budget: float | None, again: bool,
    device: str, cpu: bool, target: str | None, database: str | None, kv_format: str, export_to: str | None,
    import_from: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Find the best tiles for a GPU, or settings and blocking for a CPU, and keep them.

    Results are kept one by one: after Ctrl-C, or when the budget is spent, the same command goes on.
    """
    device = "cpu" if cpu else device
    if target and device == "cpu":
        raise RequestError("--target predicts for a GPU; leave out --cpu")
    if import_from or export_to:
        entries, name, path = _import(Path(import_from)) if import_from else _export(Path(export_to), device, target)
        said = {"entries": entries, "target": name, "database": str(path)}
        click.echo(json.dumps(said) if as_json else f"{entries} entries for {name} are in {path}")
        return
    if (model is not None) == every:
        raise RequestError("say what to tune: either -m MODEL or --all")
    if every and device == "cpu":
        raise RequestError("on the CPU a model's steps are tuned: give one with -m")
    tokens = tuple(n for n in tokens if n)
    if not tokens:
        raise RequestError("--tokens needs a number above 0")
    job = JOBS["target" if target else device](model=model, tokens=tokens, kv_format=kv_format, target=target)
    _run(ctx, job, database, 60 * budget if budget else math.inf, again, as_json)


# ---- what is tuned, and where


class Job:
    """A range, its subjects, and what measures the whole model (None: nothing does)."""

    def __init__(self, range_, subjects, end_to_end=None, close=lambda: None):
        self.range, self.subjects, self.end_to_end, self.close = range_, subjects, end_to_end, close


def _gpu(model: str | None, tokens: tuple[int, ...], kv_format: str, target: str | None) -> Job:
    from rocforge.engine.selftest import verdict
    from rocforge.probe import choose

    chosen = choose("gpu", verdict=verdict)
    click.echo(str(chosen), err=True)
    import torch

    from rocforge.engine.tiles import random_blocks
    from rocforge.kernels.ranges import DeviceRange

    torch.cuda.set_device(chosen.index)
    subjects, choices = _subjects(model, tokens, kv_format, None)
    measure = (lambda is_tuned: _end_to_end(model, is_tuned, {"device": "gpu", "kv_format": kv_format})) if model else None
    return Job(DeviceRange(choices, chosen.name, random_blocks), subjects, measure)


def _predicted(model: str | None, tokens: tuple[int, ...], kv_format: str, target: str) -> Job:
    at = target_named(target)
    from rocforge.kernels.ranges import PredictedRange

    subjects, choices = _subjects(model, tokens, kv_format, at)
    return Job(PredictedRange(at, choices), subjects)


def _subjects(model: str | None, tokens: tuple[int, ...], kv_format: str, target) -> tuple[list, list]:
    """The keys of the model's steps, or of all kernels, by the tokens of the step."""
    from rocforge.engine import tiles

    if model is None:
        return tiles.every(target, tokens)
    _, found = _steps(model, tokens, {"kv_format": kv_format}, "gpu", target)
    return tiles.subjects(found)


def _steps(model: str, tokens: tuple[int, ...], settings: dict[str, Any], kind: str, target=None) -> tuple[Any, list]:
    """(the model's design, what the launchers of its steps are answered without a database); its file is closed."""
    from rocforge.engine import tiles
    from rocforge.llm import draw
    from rocforge.probe.book import Book

    design = draw(model, "cpu", chunk_tokens=max(tokens), **settings)  # reads no weights, takes no memory
    try:
        steps = dict.fromkeys(min(n, design.memory.sizes["T"]) for n in tokens)
        found = [tiles.choices(design.plan, design.memory, design.file, n, 1, target, Book(), kind) for n in steps]
    finally:
        design.file.close()
    return design, [pair for step in found for pair in step]


def _cpu(model: str | None, tokens: tuple[int, ...], kv_format: str, target: str | None) -> Job:
    from rocforge.engine.tune_cpu import CPURange, Kernels, Steps
    from rocforge.llm import LLM
    from rocforge.probe import cpu

    given, default = {"device": "cpu", "kv_format": kv_format}, {"threads": cpu.describe().cores, "huge_pages": False}
    design, found = _steps(model, tokens, {"kv_format": kv_format, **default}, "cpu")
    parts = [Kernels(design.plan, found)]
    if 1 in tokens:
        settings = {**given, "threads": 1, "context": CONTEXT, "chunk_tokens": 1}
        open_model = lambda huge_pages: LLM(model, **settings, huge_pages=huge_pages)
        parts.insert(0, Steps(design.config.name, open_model, _has_huge_pages(model, settings)))
    range_ = CPURange(parts)
    click.echo(f"cpu: {range_.device}", err=True)
    measure = lambda is_tuned: _end_to_end(model, is_tuned, given if is_tuned else {**given, **default})
    return Job(range_, range_.subjects, measure, range_.close)


def _has_huge_pages(model: str, settings: dict[str, Any]) -> bool:
    """Whether the model's weights can be copied into huge pages; says why not."""
    from rocforge.errors import CapacityError, DeviceError
    from rocforge.llm import draw

    try:
        draw(model, **settings, huge_pages=True).file.close()
    except (CapacityError, DeviceError) as error:
        click.echo(f"huge pages are not tried: {error}", err=True)
        return False
    return True


def _end_to_end(model: str, is_tuned: bool, settings: dict[str, Any]) -> dict[str, list[float]]:
    """Tokens a second of a prompt and of text in each run, as the databases have it or with the kernels' defaults."""
    from rocforge.engine.measure import Workload, measure
    from rocforge.llm import LLM
    from rocforge.probe.book import Book, use

    _forget_books(settings["device"])
    with (
        use(None if is_tuned else Book()),
        Progress() as progress,
        LLM(model, **settings, context=CONTEXT, chunk_tokens=PROMPT, progress=progress) as llm,
    ):
        tests = Workload(PROMPT, 0), Workload(0, TEXT)
        return {test.name: list(measure(llm.runner, llm.config.vocab_size, test, RUNS).rates) for test in tests}


def _in_turns(measure: Callable[[bool], dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """{"before": the medians of each test with defaults, "after": with what is tuned}"""
    rounds = [(measure(False), measure(True)) for _ in range(ROUNDS)]
    median = lambda found: {test: statistics.median(sum((each[test] for each in found), [])) for test in found[0]}
    before, after = map(median, zip(*rounds, strict=True))
    return {"before": before, "after": after}


def _forget_books(device: str) -> None:
    """What was read of the databases before they were written."""
    if device == "cpu":
        from rocforge.cpu.tuning import own_book

        own_book.cache_clear()
    else:
        from rocforge.kernels.tuning import book_for

        book_for.cache_clear()


# By what is tuned; each makes a Job.
JOBS = {"gpu": _gpu, "cpu": _cpu, "target": _predicted}


# ---- the run


def _run(ctx: click.Context, job: Job, database: str | None, budget_s: float, again: bool, as_json: bool) -> None:
    from rocforge.engine.tune import search
    from rocforge.probe import tuned

    path = Path(database) if database else tuned.user_path(job.range.target, job.range.triton)
    end_to_end, show, found, is_cancelled = None, _Status(), [], False
    try:
        try:
            for each in search(job.range, job.subjects, path, budget_s=budget_s, again=again, report=show):
                found.append(each)
                show.done(each, len(found), len(job.subjects))
        finally:
            show.clear()
            job.close()
        end_to_end = _in_turns(job.end_to_end) if job.end_to_end else None
    except KeyboardInterrupt:
        is_cancelled = True
    result = {
        "target": job.range.target, "device": job.range.device, "status": job.range.status, "database": str(path),
        "done": len(found), "subjects": len(job.subjects), "results": list(_rows(found)),
        "end_to_end": end_to_end,
    }  # fmt: skip
    click.echo(json.dumps(result) if as_json else _table(result))
    if len(found) < len(job.subjects):
        why = "stopped" if is_cancelled else "the budget is spent, or kernels could not be launched"
        click.echo(f"{why}: {len(found)} of {len(job.subjects)} are done and kept in {path}; the same command goes on", err=True)
    else:
        click.echo(f"kept in {path}", err=True)
    if is_cancelled:
        ctx.exit(CANCELLED)


def _rows(found: list) -> Iterator[dict[str, Any]]:
    for each in found:
        gain = each.entry.gain if each.entry.tile != each.entry.default else 1.0
        yield {"op": each.subject.op, "launches": each.subject.count, **asdict(each.entry), "gain": gain, "is_known": each.is_known}


class _Status:
    """Where the search is, on stderr: a line that is written over on a terminal, else a line a result."""

    def __init__(self):
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, at) -> None:
        if not self._on_terminal:
            return
        left = "" if at.left_s is None else f", about {at.left_s / 60:.1f} min left"
        gain = f"best {at.best_us:.1f} us ({at.default_us / at.best_us:.2f}x)"
        self._write(f"{at.done + 1}/{at.total} {at.key}: {at.doing} {at.tried} of {at.candidates}, {gain}{left}")

    def done(self, found, n: int, total: int) -> None:
        if not self._on_terminal and not found.is_known:
            click.echo(f"{n}/{total} {found.entry.key}: {_tile(found.entry)} {found.entry.gain:.2f}x", err=True)

    def clear(self) -> None:
        if self._on_terminal:
            self._write("")

    def _write(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\x1b[K{text[:width]}", err=True, nl=False)


def _tile(entry) -> str:
    """What is other than the default's; "default" for nothing."""
    changed = [f"{name} {size}" for name, size in entry.tile.items() if size != entry.default[name]]
    return ", ".join(changed) or "default"


def _table(result: dict[str, Any]) -> str:
    from rocforge.commands.tables import render, sizes
    from rocforge.probe.tuned import words

    columns = ("op", "kernel", "format", "shape", "tokens", "default us", "best us", "gain", "default", "best")
    cells = []
    for row in result["results"]:
        is_same = row["tile"] == row["default"]
        cells.append((
            row["op"], row["kernel"], row["format"], sizes(row["shape"]), str(row["tokens"]),
            f"{row['default_us']:,.2f}", f"{row['time_us']:,.2f}", "" if is_same else f"{row['gain']:.2f}x",
            words(row["default"]), "default" if is_same else words(row["tile"]),
        ))  # fmt: skip
    lines = [render(columns, cells, right=("tokens", "default us", "best us", "gain"))]
    if result["status"] == "predicted":
        lines.append(f"predicted by the cost model for {result['target']}; nothing was measured")
    if both := result["end_to_end"]:
        for name, rate in both["before"].items():
            lines.append(f"{name}: {rate:,.1f} tokens/s before, {both['after'][name]:,.1f} after ({both['after'][name] / rate:.2f}x)")
    return "\n".join(lines)


# ---- sharing


def _import(source: Path) -> tuple[int, str, Path]:
    """(entries, target, file) of what was taken over."""
    from rocforge.probe import tuned

    found = tuned.read(source)
    path = tuned.user_path(found.target, found.triton and found.triton[0])
    held = tuned.read_to_change(path, found.target, found.triton and found.triton[0])
    tuned.write(path, tuned.merged(held, found.entries.values()))
    return len(found.entries), found.target, path


def _export(to: Path, device: str, target: str | None) -> tuple[int, str, Path]:
    """(entries, target, file) of what was copied."""
    from rocforge.probe import tuned

    if device == "cpu":
        from rocforge.probe import cpu

        name, triton = cpu.describe().name, None
    else:
        name, triton = _gpu_target(target)
    path = tuned.user_path(name, triton)
    if not path.is_file():
        raise RequestError(f"there is nothing to export: {path} does not exist; `rocforge tune` makes it")
    found = tuned.read(path)
    tuned.write(to, found)
    return len(found.entries), found.target, to


def _gpu_target(target: str | None) -> tuple[str, str]:
    """The target's name and Triton's version."""
    if target is None:
        from rocforge.probe import choose

        choose("gpu")  # raises where there is none
    try:
        import triton
    except ImportError:
        raise RequestError("triton is absent: databases are for a version of it; pip install torch triton") from None
    from rocforge.kernels.target import current

    return (known(target) if target else current()).arch, triton.__version__
