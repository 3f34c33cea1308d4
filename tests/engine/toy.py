"""An engine without a model: logits that are a pure function of what a sequence has seen."""

import numpy as np

from rocforge.engine.engine import Engine
from rocforge.engine.request import Request, Sampling
from rocforge.cpu.backend import Backend
from rocforge.engine.sampler import Sampler
from rocforge.engine.scheduler import Scheduler
from rocforge.engine.text import TextStream

VOCAB = 64
END = VOCAB - 1


class ToyRunner:
    """Keeps a "KV cache" of plain tokens by page and row, as a model's attention would find them.

    A page that is lost, shared or read before it was written gives other logits than the history.
    """

    def __init__(self, n_pages: int, page_size: int, end_bias: float = 0.0):
        self.cache = np.full((n_pages, page_size), -1)
        self.page_size, self.end_bias = page_size, end_bias
        self.computed: list[tuple[int, int, int]] = []
        self.fail_at: int | None = None
        self.steps = 0

    def run(self, batch) -> np.ndarray:
        self.steps += 1
        if self.fail_at == self.steps:
            raise RuntimeError("the device is gone")
        for token, position, sequence in zip(batch.tokens, batch.positions, batch.sequences, strict=True):
            page = batch.page_table[sequence, position // self.page_size]
            self.cache[page, position % self.page_size] = token
            self.computed.append((int(sequence), int(position), int(token)))
        out = np.empty((len(batch.rows), VOCAB), np.float32)
        for r, row in enumerate(batch.rows):
            sequence, position = batch.sequences[row], batch.positions[row]
            pages = batch.page_table[sequence, np.arange(position + 1) // self.page_size]
            history = self.cache[pages, np.arange(position + 1) % self.page_size]
            out[r] = logits_of(history.tolist(), self.end_bias)
        return out


def logits_of(history: list[int], end_bias: float = 0.0) -> np.ndarray:
    """float32 [VOCAB], made from the whole history and nothing else."""
    assert min(history) >= 0, history
    seed = 0
    for token in history:
        seed = (seed * 1_000_003 + token + 1) % (1 << 61)
    out = np.random.Generator(np.random.Philox(seed)).standard_normal(VOCAB).astype(np.float32)
    out[END] += end_bias
    return out


class ToyTokenizer:
    """A token is a letter; END ends."""

    end_ids = frozenset({END})

    def stream(self):
        return self

    def push(self, token: int) -> str:
        return chr(ord("0") + token)

    def finish(self) -> str:
        return ""


def toy_engine(n_pages=16, page_size=4, max_tokens=8, max_sequences=4, context=64, end_bias=-10.0) -> Engine:
    runner = ToyRunner(n_pages, page_size, end_bias)
    scheduler = Scheduler(n_pages, page_size, max_tokens, max_sequences, context)
    return Engine(runner, scheduler, Sampler(Backend(1)), ToyTokenizer())


def toy_request(prompt: list[int], sampling: Sampling | None = None) -> Request:
    return Request(prompt, sampling or Sampling(), TextStream(ToyTokenizer()), seed=0)


def finish_all(engine: Engine, requests: list[Request], limit: int = 5000) -> None:
    """Step until all have ended; fails rather than hangs."""
    for _ in range(limit):
        if all(r.finished for r in requests):
            return
        assert engine.step(), "nothing to do, but requests are open"
    raise AssertionError(f"not finished after {limit} steps")
