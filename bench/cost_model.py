"""The cost model (rocforge/kernels/cost.py) beside this GPU: the tile that it picks, and how it ranks all that `tune` tries.

    python bench/cost_model.py -m model.gguf [--tokens 1,16,64,512] [--budget 8] [--json]
    python bench/cost_model.py --measured results.json

For each key of the model's steps every candidate is checked and timed as `rocforge tune` does, and predicted from its
machine code. Nothing is kept. The end of the budget, or Ctrl-C, loses the key in hand only. The second command needs no GPU: it
takes the times from what the first has printed, and predicts anew, by today's model and this Triton's machine code.
"""

import json
import logging
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rocforge.commands.bench import Numbers
from rocforge.commands.machine import describe
from rocforge.commands.tables import render, sizes
from rocforge.commands.tune import JOBS
from rocforge.engine.selftest import verdict
from rocforge.engine.tune import PRUNE, OutOfTime, Subject, medians_us
from rocforge.errors import DeviceError
from rocforge.probe import book, choose
from rocforge.probe.tuned import Key, Tile, Unfit, words

# A pick is good that is no slower than the best by more than this.
WITHIN = 1.15


@dataclass(frozen=True)
class Result:
    """A key's candidates that could be timed, the default first; a prediction is infinite for what the model would never
    launch. Ratios are of measured times, 1 is the best."""

    subject: Subject
    tiles: list[Tile]
    measured_us: list[float]
    predicted_us: list[float]

    @property
    def pick(self) -> int:
        return self.predicted_us.index(min(self.predicted_us))

    @property
    def best_us(self) -> float:
        return min(self.measured_us)

    @property
    def of_best(self) -> float:
        """The pick's time over the best's."""
        return self.measured_us[self.pick] / self.best_us

    @property
    def kept_of_best(self) -> float:
        """The same of the best of those that `tune` would time if it went by the model: up to PRUNE of the least predicted."""
        limit = PRUNE * min(self.predicted_us)
        kept = [us for us, guess in zip(self.measured_us, self.predicted_us, strict=True) if guess <= limit]
        return min(kept + self.measured_us[:1]) / self.best_us

    @property
    def correlation(self) -> float | None:
        return spearman(self.predicted_us, self.measured_us)


def ranks(values: list[float]) -> list[float]:
    """From 1 for the least; equal ones share the mean of their ranks."""
    below = lambda value: sum(other < value for other in values)
    return [below(value) + (values.count(value) + 1) / 2 for value in values]


def spearman(a: list[float], b: list[float]) -> float | None:
    """The correlation of the ranks, -1 to 1; None where either has only equal values."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return statistics.correlation(ranks(a), ranks(b))


def predictions(range_, key: Key, tiles: list[Tile], is_over) -> list[float]:
    """Microseconds. Raises Unfit where the model has an opinion of none, OutOfTime."""
    predicted = []
    for tile in tiles:
        if is_over():
            raise OutOfTime
        try:
            predicted.append(range_.model_us(key, tile))
        except Unfit as error:
            logging.info("%s: %s: %s", key, words(tile), error)
            predicted.append(math.inf)
    if math.isinf(min(predicted)):
        raise Unfit("the model has no opinion of any candidate")
    return predicted


def compare(range_, subject: Subject, is_over) -> Result:
    """Raises Unfit where the default cannot be launched, OutOfTime."""
    key, tiles = subject.key, range_.candidates(subject.key)
    predicted = predictions(range_, key, tiles, is_over)
    medians = medians_us(range_, key, tiles, range(len(tiles)), lambda *_: None, is_over)
    return Result(subject, [tiles[i] for i in medians], list(medians.values()), [predicted[i] for i in medians])


def _key(row: dict[str, Any]) -> Key:
    return Key(row["kernel"], row["format"], tuple(row["shape"]), row["tokens"])


class Measured:
    """What this script has printed as JSON: its keys, their times, and a model of the card to predict them anew."""

    def __init__(self, path: str):
        from rocforge.kernels import trials
        from rocforge.kernels.launch import record
        from rocforge.kernels.ranges import PredictedRange
        from rocforge.kernels.target import amd, nvidia, use

        try:
            found = json.loads(Path(path).read_text())
            self.machine, self._rows = found["machine"], {_key(r): r for r in found["results"]}
            arch = self.machine["isa"].split()[0]
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"--measured {path}: not what this script prints with --json ({error!r})") from None
        at = amd(arch) if arch.startswith("gfx") else nvidia(arch)
        self.subjects = [Subject(key, r["op"], r["launches"]) for key, r in self._rows.items()]
        with use(at), book.watch() as choices, record():
            for key in self._rows:
                trials.make(key, "meta").call(0)
        self.range = PredictedRange(at, choices, self.machine["device"])

    def compare(self, subject: Subject, is_over) -> Result:
        rows = self._rows[subject.key]["candidates"]
        tiles = [row["tile"] for row in rows]
        predicted = predictions(self.range, subject.key, tiles, is_over)
        return Result(subject, tiles, [row["measured_us"] for row in rows], predicted)


def summary(results: list[Result]) -> dict[str, Any]:
    """Of all keys that have more than one candidate."""
    if not results:
        return {"keys": 0}
    correlations = [r.correlation for r in results if r.correlation is not None]
    return {
        "keys": len(results),
        "picks_within": sum(r.of_best <= WITHIN for r in results) / len(results),
        "defaults_within": sum(r.measured_us[0] / r.best_us <= WITHIN for r in results) / len(results),
        "median_correlation": statistics.median(correlations) if correlations else None,
        "worst_kept_of_best": max(r.kept_of_best for r in results),
    }


COLUMNS = (
    "kernel", "format", "shape", "tokens", "candidates", "best us", "pick", "default", "kept", "correlation",
    "the model's pick", "best",
)  # fmt: skip
RIGHT = COLUMNS[3:10]


def changed(tile: Tile, default: Tile) -> str:
    return words({name: size for name, size in tile.items() if size != default[name]}) or "default"


def cells(r: Result) -> tuple[str, ...]:
    key, default = r.subject.key, r.tiles[0]
    ratios = (f"{r.of_best:.2f}", f"{r.measured_us[0] / r.best_us:.2f}", f"{r.kept_of_best:.2f}")
    correlation = "" if r.correlation is None else f"{r.correlation:.2f}"
    best = r.tiles[r.measured_us.index(r.best_us)]
    return (
        key.kernel, key.format, sizes(key.shape), str(key.tokens), str(len(r.tiles)), f"{r.best_us:,.2f}", *ratios, correlation,
        changed(r.tiles[r.pick], default), changed(best, default),
    )  # fmt: skip


def as_row(r: Result) -> dict[str, Any]:
    candidates = [
        {"tile": tile, "measured_us": round(us, 3), "predicted_us": round(guess, 3) if math.isfinite(guess) else None}
        for tile, us, guess in zip(r.tiles, r.measured_us, r.predicted_us, strict=True)
    ]
    return {
        "op": r.subject.op, "launches": r.subject.count, **r.subject.key._asdict(), "of_best": r.of_best,
        "default_of_best": r.measured_us[0] / r.best_us, "kept_of_best": r.kept_of_best, "correlation": r.correlation,
        "candidates": candidates,
    }  # fmt: skip


def said(found: dict[str, Any], card: str) -> str:
    if not found["keys"]:
        return "no key could be compared"
    correlation = "unknown" if found["median_correlation"] is None else f"{found['median_correlation']:.2f}"
    return (
        f"the model of the {card}: its pick is within {WITHIN - 1:.0%} of the best for {found['picks_within']:.0%} "
        f"of {found['keys']} keys (the default for {found['defaults_within']:.0%});\n"
        f"median rank correlation with measured times {correlation};\nwhere only what it takes to be within {PRUNE:g} times its "
        f"best is kept, the best of that takes {found['worst_kept_of_best']:.2f} times as long as the best of all at the worst"
    )


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", metavar="FILE", help="A GGUF file; if left out, every kernel and format at 4096 by 4096.")
@click.option("--tokens", type=Numbers(1), default="1,16,64,512", help="Tokens of the steps whose keys are compared.")
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), default=8.0, metavar="MINUTES", help="Stop after as long.")
@click.option(
    "--measured", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
    help="Take the times from a JSON file of this script's, and no GPU.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(model, tokens, budget, measured, as_json):
    """Compare the cost model's choice of tiles with this GPU's times."""
    start_s = time.monotonic()
    at_s = lambda: time.monotonic() - start_s
    is_over = lambda: at_s() >= 60 * budget
    if measured:
        job = Measured(measured)
        compared, machine = job.compare, job.machine
    else:
        try:
            device = choose("gpu", verdict=verdict)
        except DeviceError as error:
            raise click.ClickException(str(error)) from None
        job = JOBS["gpu"](model=model, tokens=tokens, kv_format="f16", target=None)
        compared, machine = lambda *of: compare(job.range, *of), describe(device)
    if job.range.card is None:
        raise click.ClickException(f"the cost model knows no card of {job.range.target} (rocforge/kernels/cards.py)")
    results, total = [], len(job.subjects)
    try:
        for i, subject in enumerate(job.subjects):
            tell = lambda words: click.echo(f"{at_s():.0f} s, {i + 1}/{total} {subject.key}: {words}", err=True)
            try:
                result = compared(subject, is_over)
            except Unfit as error:
                tell(f"left out: {error}")
                continue
            if len(result.tiles) == 1:
                tell("left out: there is one candidate only")
                continue
            results.append(result)
            tell(f"{result.best_us:,.1f} to {max(result.measured_us):,.1f} us, the pick takes {result.of_best:.2f} of the best")
    except (OutOfTime, KeyboardInterrupt) as end:
        why = "stopped" if isinstance(end, KeyboardInterrupt) else "the budget is spent"
        click.echo(f"{why}: {len(results)} of {total} keys are compared", err=True)
    found = summary(results)
    if as_json:
        machine = {**machine, "card": job.range.card.name}
        print(json.dumps({"machine": machine, "summary": found, "results": [as_row(r) for r in results]}, indent=1))
    else:
        print(render(COLUMNS, map(cells, results), right=RIGHT))
        print(said(found, job.range.card.name))


if __name__ == "__main__":
    main()
