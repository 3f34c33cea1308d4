"""`rocforge bench`: how fast a model is here. Times nothing itself: rocforge.engine.measure does."""

import csv
import datetime
import io
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from rocforge.commands import verbose
from rocforge.commands.progress import Progress
from rocforge.errors import RequestError
from rocforge.plan.ir import KV_FORMATS
from rocforge.probe import CHOICES

SLOWER = 1  # exit code of --compare where something got slower
FORMATS = ("table", "markdown", "json", "csv")


class Numbers(click.ParamType):
    """Whole numbers from 0 on, with commas between them."""

    name = "N,N,.."

    def convert(self, value: Any, param, ctx) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            numbers = (-1,)
        if min(numbers) < 0:
            self.fail(f"{value!r} is no list of whole numbers from 0 on, as 0,4096", param, ctx)
        return numbers


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; the built-in model if left out.")
@click.option("-p", "--prompt", "prompts", type=Numbers(), default="512", help="Tokens of a prompt; 0 for none.")
@click.option("-n", "--text", "texts", type=Numbers(), default="128", help="Tokens of text; 0 for none.")
@click.option("-d", "--depth", "depths", type=Numbers(), default="0", help="Tokens that are in the cache before.")
@click.option("-b", "--batch", "batches", type=Numbers(), default="1", help="Sequences at once.")
@click.option("-r", "--repetitions", type=click.IntRange(min=1), default=5, help="Of each test, after warming up.")
@click.option("-c", "--chunk", type=click.IntRange(min=1), default=512, help="Tokens of a prompt in one step.")
@click.option("--kv", "kv_format", type=click.Choice(KV_FORMATS), default="f16", help="What the KV cache holds.")
@click.option("-t", "--threads", type=click.IntRange(min=1), help="CPU threads; default: all that may be used.")
@click.option("--device", type=click.Choice(CHOICES), default="auto", help="What to run on.")
@click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="How results are printed.")
@click.option("--json", "as_json", is_flag=True, help="The same as --output json.")
@click.option("--compare", metavar="FILE", help="Earlier results (JSON): exit code 1 where something got slower beyond the noise.")
@verbose
@click.pass_context
def bench(
    ctx: click.Context, model: str | None, prompts: Sequence[int], texts: Sequence[int], depths: Sequence[int],
    batches: Sequence[int], repetitions: int, chunk: int, kv_format: str, threads: int | None, device: str, output: str,
    as_json: bool, compare: str | None,
) -> None:  # fmt: skip
    """Time a model: tokens a second of prompts and of text.

    The conventions are those of llama-bench: random tokens, nothing sampled; pp is a prompt, tg text.
    """
    from rocforge.engine.measure import measure, workloads
    from rocforge.llm import LLM

    planned = workloads(prompts, texts, depths, [b for b in batches if b])
    if not planned:
        raise RequestError("nothing to time: give a prompt (-p), a text (-n) and a batch (-b) above 0")
    earlier = _read(compare) if compare else None
    found = []
    with Progress() as progress:
        settings = {
            "device": device, "threads": threads, "kv_format": kv_format, "chunk_tokens": chunk,
            "context": max(t.context for t in planned), "sequences": max(t.sequences for t in planned),
        }  # fmt: skip
        with LLM(model, **settings, progress=progress) as llm:
            click.echo(str(llm.device), err=True)
            for test in planned:
                report = lambda done, total, test=test: progress(f"timing {test.name}", done, total)
                found.append(measure(llm.runner, llm.config.vocab_size, test, repetitions, report))
            machine = describe(llm)
            name, size = llm.config.name, llm.path.stat().st_size
    rows = [
        {
            "model": name, "model_bytes": size, "test": r.test.name, **asdict(r.test), "kv": kv_format,
            "tokens_per_s": r.mean, "deviation": r.deviation, "rates": r.rates,
        }
        for r in found
    ]  # fmt: skip
    click.echo(RENDER["json" if as_json else output](machine, rows))
    if earlier is not None and _compare(earlier, rows):
        ctx.exit(SLOWER)


def describe(llm) -> dict[str, Any]:
    """What a figure is worth little without: device, versions, date."""
    found = {"device": str(llm.device), "host": platform.processor() or platform.machine(), "python": platform.python_version()}
    for package in ("rocforge", "numba", "torch", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    found["date"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return found


# ---- how it is printed

_COLUMNS = ("model", "size", "test", "tokens/s")


def _cells(rows: list[dict]) -> list[tuple[str, ...]]:
    return [
        (r["model"], f"{r['model_bytes'] / 2**20:,.0f} MiB", r["test"], f"{r['tokens_per_s']:,.2f} ± {r['deviation']:.2f}")
        for r in rows
    ]


def _table(machine: dict, rows: list[dict]) -> str:
    from rocforge.commands.tables import render

    return render(_COLUMNS, _cells(rows), right=("size", "tokens/s"))


def _markdown(machine: dict, rows: list[dict]) -> str:
    lines = [_COLUMNS, ("---", "---:", "---", "---:"), *_cells(rows)]
    return "\n".join([f"{machine['device']}, {machine['date']}", "", *("| " + " | ".join(line) + " |" for line in lines)])


def _csv(machine: dict, rows: list[dict]) -> str:
    text = io.StringIO()
    columns = [c for c in rows[0] if c != "rates"]
    writer = csv.DictWriter(text, ["device", "date", *columns], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({"device": machine["device"], "date": machine["date"], **row})
    return text.getvalue().rstrip()


RENDER = {
    "table": _table,
    "markdown": _markdown,
    "csv": _csv,
    "json": lambda machine, rows: json.dumps({"machine": machine, "results": rows}, indent=2),
}


# ---- against earlier results


def _read(path: str) -> dict[tuple, dict]:
    """Earlier results by model, test and KV format. Raises RequestError for what is no such file."""
    try:
        results = json.loads(Path(path).read_text())["results"]
        return {_key(row): row for row in results if row["tokens_per_s"] > 0}
    except OSError as error:
        raise RequestError(f"--compare {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"--compare {path}: this is no JSON of `rocforge bench --json` ({error!r})") from None


def _key(row: dict) -> tuple:
    return row["model"], row["test"], row["kv"]


def _compare(earlier: dict[tuple, dict], rows: list[dict]) -> bool:
    """Say on stderr how each test stands to its earlier result; whether any got slower beyond the noise.

    The noise is three standard errors of the difference of the two means, and 1 % at the least.
    """
    slower = False
    for row in rows:
        old = earlier.get(_key(row))
        if old is None:
            click.echo(f"{row['test']}: not among the earlier results", err=True)
            continue
        error = sum((r["deviation"] ** 2 / max(1, len(r["rates"])) for r in (old, row))) ** 0.5
        limit = max(3 * error, 0.01 * old["tokens_per_s"])
        change = row["tokens_per_s"] - old["tokens_per_s"]
        word = "slower" if change < -limit else "faster" if change > limit else "the same, within the noise"
        slower |= change < -limit
        click.echo(f"{row['test']}: {change / old['tokens_per_s']:+.1%}, {word} (of {limit / old['tokens_per_s']:.1%})", err=True)
    return slower
