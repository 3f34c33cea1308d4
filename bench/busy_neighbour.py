"""How decoding fares when another process keeps a core busy: its speed beside the idle machine's.

    python bench/busy_neighbour.py -m model.gguf [-n 64]

The bar is half of the idle speed times the share of the cores that the neighbour leaves (measured, not assumed).
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click

from rocforge import LLM
from rocforge.engine.measure import Workload, once
from rocforge.probe import cpu

SPIN = "while True: pass"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@click.command(context_settings={"show_default": True})
@click.option("-m", "--model", type=click.Path(exists=True, path_type=Path), help="A GGUF file; the built-in model if left out.")
@click.option("-n", "--text", default=64, help="Tokens of text in a run.")
@click.option("-t", "--threads", type=int, default=cpu.usable_cores, show_default="the cores that may be used")
@click.option("-r", "--runs", default=5, help="Of each: idle, busy, in turn.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(model, text, threads, runs, as_json):
    """Decode beside a process that spins."""
    test = Workload(0, text)
    idle, busy, left = [], [], []
    with LLM(model, device="cpu", threads=threads, sequences=1, context=test.context) as llm:
        run = lambda: once(llm.runner, llm.config.vocab_size, test)
        run()
        for _ in range(runs):
            idle.append(run())
            neighbour = subprocess.Popen([sys.executable, "-c", SPIN])
            try:
                time.sleep(0.5)
                start_s, used_s = time.perf_counter(), cpu_seconds(neighbour.pid)
                busy.append(run())
                cores_s = (time.perf_counter() - start_s) * len(os.sched_getaffinity(0))
                left.append(1 - (cpu_seconds(neighbour.pid) - used_s) / cores_s)
            finally:
                neighbour.kill()
                neighbour.wait()
    found = {
        "model": str(model), "threads": threads, "idle_tokens_per_s": statistics.median(idle),
        "busy_tokens_per_s": statistics.median(busy), "share_left": statistics.median(left),
    }  # fmt: skip
    found["share_kept"] = found["busy_tokens_per_s"] / found["idle_tokens_per_s"]
    found["bar"] = found["share_left"] / 2
    print(json.dumps(found, indent=1) if as_json else "\n".join(f"{k:18} {v:.3f}" if isinstance(v, float) else f"{k:18} {v}" for k, v in found.items()))


if __name__ == "__main__":
    main()
