"""Speed beside llama.cpp's, in turn on one machine: prompts and text, medians and spread.

    python bench/compare_llama_cpp.py --llama-bench build/bin/llama-bench -m model.gguf [-p 512] [-n 128] [-d 0]

Of several llama-bench (builds for other instructions), the one with the better median is the peer.
Concludes nothing where other processes used the cores meanwhile: prints what it saw and exits with 3.
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path

import click

from rocforge import LLM
from rocforge.commands.machine import describe
from rocforge.commands.progress import Progress
from rocforge.commands.tables import render
from rocforge.cpu.tier import tier
from rocforge.engine.measure import Workload, once, workloads
from rocforge.engine.peers import llama_bench
from rocforge.errors import RequestError
from rocforge.probe import cpu

# Of one core, the share that others may use before figures say more about them than about us.
BUSY_CORES = 0.1
BUSY = 3  # exit code


class Others:
    """CPU seconds that processes other than this one and its children used."""

    def __init__(self):
        self._begin = self._read()

    @staticmethod
    def _read() -> tuple[float, float]:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        busy = (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")  # all but idle and iowait
        own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return time.monotonic(), busy - sum(r.ru_utime + r.ru_stime for r in own)

    def cores(self) -> float:
        """How many cores' worth since this was made."""
        now, others = self._read()
        return max(0.0, (others - self._begin[1]) / (now - self._begin[0]))


def summary(model: str, test: str, ours: list[float], peers: dict[str, list[float]]) -> dict:
    """One test's medians beside those of the faster peer."""
    peer = max(peers, key=lambda name: statistics.median(peers[name]))
    ratios = [mine / other for mine, other in zip(ours, peers[peer], strict=True)]
    return {
        "model": model,
        "test": test,
        "ours": statistics.median(ours),
        "theirs": statistics.median(peers[peer]),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "peer": peer,
        "rates": {"ours": [round(r, 2) for r in ours], **{name: [round(r, 2) for r in rates] for name, rates in peers.items()}},
    }


COLUMNS = ("model", "test", "ours", "llama.cpp", "ratio", "of the pairs")


def cells(row: dict) -> tuple[str, ...]:
    low, high = row["ratio_spread"]
    return row["model"], row["test"], f"{row['ours']:.1f}", f"{row['theirs']:.1f}", f"{row['ratio']:.2f}", f"{low:.2f} to {high:.2f}"


@click.command(context_settings={"show_default": True})
@click.option("--llama-bench", "programs", type=click.Path(exists=True, path_type=Path), required=True, multiple=True)
@click.option("-m", "--model", type=click.Path(exists=True, path_type=Path), help="A GGUF file; the built-in model if left out.")
@click.option("-p", "--prompt", default=512, help="Tokens of the prompt; 0 leaves that test out.")
@click.option("-n", "--text", default=128, help="Tokens of text; 0 leaves that test out.")
@click.option("-d", "--depth", default=0, help="Tokens in the cache before either.")
@click.option("-t", "--threads", type=int, default=cpu.usable_cores, show_default="the cores that may be used")
@click.option("--huge-pages/--no-huge-pages", default=False, help="Whether our weights are copied into huge pages.")
@click.option("-r", "--pairs", default=5, help="Runs of each, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(programs, model, prompt, text, depth, threads, huge_pages, pairs, as_json):
    """Compare with llama.cpp on one model."""
    tests = workloads([prompt], [text], [depth], [1])
    if not tests:
        raise click.UsageError("nothing to time: give a prompt (-p) or a text (-n) above 0")
    ours = {test: [] for test in tests}
    peers = {test: {str(program): [] for program in programs} for test in tests}
    busy = []
    settings = {
        "device": "cpu", "threads": threads, "huge_pages": huge_pages, "sequences": 1, "context": max(t.context for t in tests),
    }  # fmt: skip
    with Progress() as progress, LLM(model, **settings, progress=progress) as llm:
        run = lambda test: once(llm.runner, llm.config.vocab_size, test)
        for i in range(pairs):
            progress("comparing", i, pairs)
            others = Others()
            for test in tests:
                run(Workload(test.prompt, min(test.text, 1)))  # to warm up, as llama-bench does
                ours[test].append(run(test))
                for program in programs:
                    peers[test][str(program)].append(llama_bench(str(program), llm.path, test, "cpu", threads, 1))
            busy.append(others.cores())
        name, machine = llm.path.name, {**describe(llm.device), "tier": tier(), "threads": threads}
    rows = [summary(name, test.name, ours[test], peers[test]) for test in tests]
    is_idle = statistics.median(busy) <= BUSY_CORES
    if as_json:
        others_cores = [round(b, 2) for b in busy]
        print(json.dumps({"machine": machine, "others_cores": others_cores, "conclusive": is_idle, "results": rows}, indent=1))
    else:
        print(render(COLUMNS, map(cells, rows), right=COLUMNS[2:5]))
    if not is_idle:
        print(f"busy: others used {statistics.median(busy):.2f} cores meanwhile; nothing is concluded", file=sys.stderr)
        sys.exit(BUSY)


if __name__ == "__main__":
    try:
        main()
    except RequestError as error:
        raise SystemExit(str(error)) from None
