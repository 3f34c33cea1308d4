"""What else would compute here: an op torch, or numpy where it is absent; a model llama.cpp. Knows nothing of our kernels.

A matrix product in the precision that one runs without quantised weights (float16 on a GPU, float32 on
a CPU), over copies that no cache holds, and scaled_dot_product_attention in the same. Other ops have no peer.
"""

import importlib.util
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rocforge.engine.measure import Workload
from rocforge.engine.operands import copies_for
from rocforge.errors import RequestError

# Seconds after which a peer is not timed again: it is here for comparison.
PATIENCE_S = 2.0


def llama_bench(program: str, model: Path, test: Workload, kind: str, threads: int, repetitions: int) -> float:
    """Tokens a second of llama.cpp, by its llama-bench, on a device of that kind; a test of one sequence.

    Raises RequestError where it does not run, or does not say.
    """
    words = {"-m": model, "-p": test.prompt, "-n": test.text, "-d": test.depth, "-r": repetitions, "-o": "json"}
    words |= {"-t": threads, "-ngl": 0} if kind == "cpu" else {"-ngl": 99}
    try:
        done = subprocess.run([program, *(str(w) for pair in words.items() for w in pair)], capture_output=True, text=True)
        return json.loads(done.stdout)[0]["avg_ts"]
    except OSError as error:
        raise RequestError(f"--llama-bench {program}: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError):
        last = "".join(done.stderr.strip().splitlines()[-1:]) or "without a word"
        raise RequestError(f"--llama-bench {program}: it ended with code {done.returncode} and no result: {last}") from None


def run(case: Any, kind: str, threads: int, repetitions: int) -> tuple[str, float] | None:
    """(what it is, median seconds) for a micro.Case on a device of that kind; None where there is no peer."""
    if case.op.kind not in PEERS:
        return None
    if importlib.util.find_spec("torch") is None:
        return _numpy_linear(case, repetitions) if case.op.kind == "linear" else None
    import torch

    before = torch.get_num_threads()
    try:
        with torch.inference_mode():
            device, dtype = ("cuda", torch.float16) if kind == "gpu" else ("cpu", torch.float32)
            name, calls = PEERS[case.op.kind](case, torch, device, dtype)
            times_s = []
            # On a CPU small ops are faster on one thread than shared between all: a peer gets its better time.
            for n in {threads, 1} if kind == "cpu" else {before}:
                torch.set_num_threads(n)
                times_s.append(_median_s(torch, device, calls, repetitions))
            precision = str(dtype).removeprefix("torch.")
            return f"torch {name} {precision}", min(times_s)
    finally:
        torch.set_num_threads(before)


def _linear(case: Any, torch: Any, device: str, dtype: Any) -> tuple[str, list[Callable]]:
    N, K = case.row["shape"]
    copies = copies_for(N * K * dtype.itemsize, case.row["flops"])
    x = torch.randn(case.row["tokens"], K, device=device).to(dtype)
    first = torch.randn(N, K, device=device).to(dtype)
    weights = [first, *(first.clone() for _ in range(copies - 1))]
    return "linear", [lambda w=w: torch.nn.functional.linear(x, w) for w in weights]


def _attention(case: Any, torch: Any, device: str, dtype: Any) -> tuple[str, list[Callable]]:
    attrs, T, depth = case.op.attrs, case.tokens, case.depth
    H, G, D, L = attrs["heads"], attrs["kv_heads"], attrs["head_dim"], depth + T
    copies = copies_for(2 * G * L * D * dtype.itemsize, case.row["flops"])
    q = torch.randn(1, H, T, D, device=device).to(dtype)
    first = tuple(torch.randn(1, G, L, D, device=device).to(dtype) for _ in range(2))
    caches = [first, *((first[0].clone(), first[1].clone()) for _ in range(copies - 1))]
    window = attrs["window"]
    if T == 1 and not window:
        how = {}
    elif not depth and not window:
        how = {"is_causal": True}
    else:  # each token sees those before it, as far as the window goes
        behind = torch.arange(depth, L, device=device)[:, None] - torch.arange(L, device=device)
        how = {"attn_mask": (behind >= 0) & (behind < (window or L + 1))}
    attend = torch.nn.functional.scaled_dot_product_attention
    return "sdpa", [lambda k=k, v=v: attend(q, k, v, scale=attrs["scale"], enable_gqa=H != G, **how) for k, v in caches]


PEERS = {"linear": _linear, "attention": _attention}


def _median_s(torch: Any, device: str, calls: list[Callable], repetitions: int) -> float:
    """Seconds of a call, all of them one behind the other; on a GPU as one graph, as our own are run."""

    def run_all() -> None:
        for call in calls:
            call()

    if device == "cuda":
        from rocforge.kernels.launch import graph_of

        run_once, wait = graph_of(run_all).replay, torch.cuda.synchronize
    else:
        run_once, wait = run_all, lambda: None
    return _timed_s(run_once, wait, repetitions) / len(calls)


def _timed_s(run_once: Callable[[], None], wait: Callable[[], None], repetitions: int) -> float:
    """The median of so many runs after the first, or of as many as there is patience for."""
    times_s: list[float] = []
    while len(times_s) < 1 + repetitions and (len(times_s) < 2 or sum(times_s) < PATIENCE_S):
        start_s = time.perf_counter()
        run_once()
        wait()
        times_s.append(time.perf_counter() - start_s)
    return statistics.median(times_s[1:])


def _numpy_linear(case: Any, repetitions: int) -> tuple[str, float]:
    N, K = case.row["shape"]
    random = np.random.default_rng(0)
    x = random.standard_normal((case.row["tokens"], K), dtype=np.float32)
    first = random.standard_normal((N, K), dtype=np.float32)
    weights = [first, *(first.copy() for _ in range(copies_for(first.nbytes, case.row["flops"]) - 1))]

    def run_all() -> None:
        for w in weights:
            x @ w.T

    return "numpy matmul float32", _timed_s(run_all, lambda: None, repetitions) / len(weights)
