"""Speed beside llama.cpp's, in turn on one machine: prompt processing and decoding, medians and spread.

    python bench/compare_llama_cpp.py --llama-bench build/bin/llama-bench -m model.gguf [-p 512] [-n 128] [-d 0]

Concludes nothing where other processes used the cores meanwhile: prints what it saw and exits with 3.
"""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np

from rocforge.cpu.backend import LAUNCHERS, Backend
from rocforge.cpu.tier import tier
from rocforge.engine.runner import Runner
from rocforge.engine.scheduler import Batch
from rocforge.llm import draw

# Of one core, the share that others may use before figures say more about them than about us.
BUSY_CORES = 0.1
PROMPT_CHUNK = 512


class Ours:
    """A model in this process: steps as the engine runs them, without sampling, as llama-bench has none."""

    def __init__(self, path: Path, threads: int, context: int):
        design = draw(path, "cpu", context, threads, sequences=1, chunk_tokens=PROMPT_CHUNK)
        self._runner = Runner(design.plan, design.memory, design.file, Backend(threads), LAUNCHERS)
        self._runner.prepare()
        self._runner.load()
        sizes = design.memory.sizes
        self._pages = np.zeros((sizes["S"], sizes["P"]), np.int32)
        self._pages[0] = np.arange(sizes["P"])
        self._random = np.random.default_rng(0)
        self._vocab_size = design.config.vocab_size

    def step(self, start: int, n_tokens: int) -> None:
        """Random tokens at the positions from `start` on; logits of the last."""
        tokens = self._random.integers(0, self._vocab_size, n_tokens).astype(np.int32)
        positions = np.arange(start, start + n_tokens, dtype=np.int32)
        rows = np.array([n_tokens - 1], np.int32)
        self._runner.run(Batch(tokens, positions, np.zeros(n_tokens, np.int32), self._pages, rows, []))

    def prompt(self, start: int, n_tokens: int) -> float:
        """Tokens per second of a prompt."""
        begin = time.perf_counter()
        for done in range(0, n_tokens, PROMPT_CHUNK):
            self.step(start + done, min(PROMPT_CHUNK, n_tokens - done))
        return n_tokens / (time.perf_counter() - begin)

    def decode(self, start: int, n_tokens: int) -> float:
        """Tokens per second, one at a time."""
        begin = time.perf_counter()
        for i in range(n_tokens):
            self.step(start + i, 1)
        return n_tokens / (time.perf_counter() - begin)

    def run(self, prompt: int, generate: int, depth: int) -> dict[str, float]:
        self.prompt(0, depth)
        found = {}
        if prompt:
            found["pp"] = self.prompt(depth, prompt)
        if generate:
            found["tg"] = self.decode(depth, generate)
        return found


def theirs(program: Path, path: Path, threads: int, prompt: int, generate: int, depth: int) -> dict[str, float]:
    """What one run of llama-bench says, in tokens per second."""
    command = [program, "-m", path, "-t", threads, "-p", prompt, "-n", generate, "-d", depth, "-r", 1, "-o", "json"]
    done = subprocess.run([str(c) for c in command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise click.ClickException(f"{program} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return {"pp" if test["n_prompt"] else "tg": test["avg_ts"] for test in json.loads(done.stdout)}


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


def machine() -> dict:
    """What a figure must be read with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": name, "cores": len(os.sched_getaffinity(0)), "tier": tier(), "system": platform.platform()}


def summary(test: str, pairs: list[tuple[float, float]]) -> dict:
    ratios = [ours / theirs for ours, theirs in pairs]
    return {
        "test": test,
        "ours": statistics.median(o for o, _ in pairs),
        "theirs": statistics.median(t for _, t in pairs),
        "ratio": statistics.median(ratios),
        "ratio_spread": [min(ratios), max(ratios)],
        "pairs": [[round(o, 2), round(t, 2)] for o, t in pairs],
    }


@click.command()
@click.option("--llama-bench", "program", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-m", "--model", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("-p", "--prompt", default=512, show_default=True, help="Tokens of the prompt; 0 leaves that test out.")
@click.option("-n", "--generate", default=128, show_default=True, help="Tokens decoded; 0 leaves that test out.")
@click.option("-d", "--depth", default=0, show_default=True, help="Tokens in the cache before either.")
@click.option("-t", "--threads", default=len(os.sched_getaffinity(0)), show_default=True)
@click.option("-r", "--pairs", default=5, show_default=True, help="Runs of each, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(program, model, prompt, generate, depth, threads, pairs, as_json):
    """Compare with llama.cpp on one model."""
    ours = Ours(model, threads, depth + max(prompt, generate, 1))
    ours.run(min(prompt, 32), min(generate, 4), 0)  # what a first run alone pays for
    seen, busy = [], []
    for _ in range(pairs):
        others = Others()
        seen.append((ours.run(prompt, generate, depth), theirs(program, model, threads, prompt, generate, depth)))
        busy.append(others.cores())
    suffix = f" @ d{depth}" if depth else ""
    results = [
        summary(f"{kind}{n}{suffix}", [(mine[kind], other[kind]) for mine, other in seen])
        for kind, n in (("pp", prompt), ("tg", generate))
        if n
    ]
    is_idle = statistics.median(busy) <= BUSY_CORES
    report = {
        "machine": machine(), "model": model.name, "threads": threads, "others_cores": [round(b, 2) for b in busy],
        "conclusive": is_idle, "results": results,
    }  # fmt: skip
    if as_json:
        print(json.dumps(report))
    else:
        print(f"{model.name}, {threads} threads, {report['machine']['cpu']}, {report['machine']['tier']}")
        print(f"{'test':>16} {'ours':>10} {'llama.cpp':>10} {'ratio':>7}   spread of {pairs}")
        for r in results:
            low, high = r["ratio_spread"]
            print(f"{r['test']:>16} {r['ours']:>10.1f} {r['theirs']:>10.1f} {r['ratio']:>7.2f}   {low:.2f} .. {high:.2f}")
    if not is_idle:
        print(f"busy: others used {statistics.median(busy):.2f} cores meanwhile; nothing is concluded", file=sys.stderr)
        sys.exit(3)


if __name__ == "__main__":
    main()
