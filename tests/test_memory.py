"""A model of real size, in processes of its own: how soon it answers, and how much memory that takes."""

import json
import subprocess
import sys

import pytest

from rocforge.probe import cpu
from tests.paths import ROOT

pytestmark = pytest.mark.alone

# Runs one life of a model and says what it took. A chunk of the prompt is full, and so is a second, in part.
LIFE = """
import dataclasses, json, sys, time
start = time.perf_counter()
from rocforge import LLM, Sampling
from rocforge.probe.cpu import peak_resident_bytes
with LLM(sys.argv[1], context=1024, chunk_tokens=128, huge_pages=sys.argv[2] == "True") as llm:
    load_s = time.perf_counter() - start
    answer = llm.generate(list(range(200)), Sampling(temperature=0, max_tokens=16, ignore_eos=True))
    memory = {f"{part}_bytes": getattr(llm.memory, f"{part}_bytes") for part in ("weights", "kv", "arena", "total")}
found = dict(load_s=load_s, peak_bytes=peak_resident_bytes(), answer=dataclasses.asdict(answer))
json.dump(found | memory, sys.stdout)
"""

# Python, NumPy, Numba with LLVM and the kernels: 145 MiB; Llama 3's vocabulary as a Python list and a
# Python dict: 70 MiB. One of the larger matrices as float32 (64 MiB) would not go unnoticed.
MAX_RUNTIME_BYTES = 256 << 20
MAX_LOAD_S = 2.0


def run(path, huge_pages=False):
    command = [sys.executable, "-c", LIFE, path, str(huge_pages)]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=300).stdout)


@pytest.fixture(scope="module")
def lives(llama_1b):
    """Two runs, after one that has compiled the kernels and brought the file into memory."""
    return [run(llama_1b) for _ in range(3)][1:]


def test_it_loads_within_two_seconds_and_answers(lives, llama_1b, figures):
    """The bar is the better of two: what the program needs, not what else the machine is doing."""
    best = min(lives, key=lambda life: life["load_s"])
    answer, timing = best["answer"], best["answer"]["timing"]
    figures(
        "a model of 1B in Q4_K_M",
        f"loaded in {best['load_s']:.2f} s; prompt of {answer['prompt_tokens']} tokens "
        f"{answer['prompt_tokens'] / timing['prompt_s']:.0f} tokens/s, text {15 / timing['generate_s']:.1f} tokens/s",
    )
    assert len(answer["tokens"]) == 16
    assert lives[0]["answer"]["tokens"] == lives[1]["answer"]["tokens"]
    assert best["load_s"] < MAX_LOAD_S


def test_peak_memory_is_what_the_plan_states(lives, llama_1b, figures):
    life = lives[-1]
    peak, stated = life["peak_bytes"], life["total_bytes"]
    figures("a model of 1B in Q4_K_M", f"peak memory {peak / 2**20:,.0f} MiB, stated {stated / 2**20:,.0f} MiB")
    assert life["weights_bytes"] == llama_1b.stat().st_size
    assert abs(peak - stated) <= 0.1 * stated


def runtime_bytes(life):
    return life["peak_bytes"] - sum(life[f"{part}_bytes"] for part in ("weights", "kv", "arena"))


def test_nothing_large_hides_in_the_runtime(lives):
    """The runtime's share of the statement is measured; so it is held to what it can be made of."""
    for life in lives:
        assert runtime_bytes(life) <= MAX_RUNTIME_BYTES, f"{runtime_bytes(life) / 2**20:,.0f} MiB"


@pytest.mark.skipif(not cpu.gives_huge_pages(), reason="this system gives no huge pages: transparent ones are off or unknown")
def test_a_copy_in_huge_pages_is_no_second_one(lives, llama_1b, figures):
    """The file's pages go as they are copied: the peak is what is stated, and the answer that of the mapping."""
    life = run(llama_1b, huge_pages=True)
    peak, stated = life["peak_bytes"], life["total_bytes"]
    figures(
        "a model of 1B in Q4_K_M",
        f"in huge pages: loaded in {life['load_s']:.2f} s, peak memory {peak / 2**20:,.0f} MiB, stated {stated / 2**20:,.0f} MiB",
    )
    assert abs(peak - stated) <= 0.1 * stated
    assert runtime_bytes(life) <= MAX_RUNTIME_BYTES, f"{runtime_bytes(life) / 2**20:,.0f} MiB"
    assert life["answer"]["tokens"] == lives[0]["answer"]["tokens"]
