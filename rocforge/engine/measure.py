"""How fast a model's steps are: prompts and text, at a depth, of several sequences. Draws no tokens, prints nothing.

The conventions are llama-bench's: tokens are random, a prompt is computed in chunks, text a token a
step, nothing is sampled, and a step counts until the device is done with it. What stands before
(the depth) is computed and not timed, and so are two runs of everything for warming up: a GPU's
steps are recorded in the first and become graphs in the second.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rocforge.engine.runner import Runner
from rocforge.engine.scheduler import Batch
from rocforge.plan.ir import PAGE


WARM_UPS = 2
# Random tokens of a sequence's text, which then come again.
TEXT_TOKENS = 256


@dataclass(frozen=True)
class Workload:
    """`prompt` tokens computed at once, or `text` tokens a step each (the other is 0), for each of
    `sequences` sequences, behind `depth` tokens that are in the cache already."""

    prompt: int
    text: int
    depth: int = 0
    sequences: int = 1

    @property
    def name(self) -> str:
        """pp512, tg128, tg128 @ d4096, tg128 x 8."""
        name = f"pp{self.prompt}" if self.prompt else f"tg{self.text}"
        if self.depth:
            name += f" @ d{self.depth}"
        return name + (f" x {self.sequences}" if self.sequences > 1 else "")

    @property
    def length(self) -> int:
        """Tokens that each sequence has at the end."""
        return self.depth + self.prompt + self.text

    @property
    def context(self) -> int:
        """Tokens of KV cache that it needs: whole pages for each sequence."""
        return -(-self.length // PAGE) * PAGE * self.sequences


@dataclass(frozen=True)
class Result:
    """Tokens a second (of all sequences together) in each repetition."""

    test: Workload
    rates: tuple[float, ...] = field(default=())

    @property
    def mean(self) -> float:
        return statistics.fmean(self.rates)

    @property
    def deviation(self) -> float:
        return statistics.stdev(self.rates) if len(self.rates) > 1 else 0.0


def workloads(prompts: Iterable[int], texts: Iterable[int], depths: Iterable[int], sequences: Iterable[int]) -> list[Workload]:
    """Each prompt and each text at each depth, for each number of sequences."""
    return [
        Workload(prompt, text, depth, n)
        for n in sequences
        for depth in depths
        for prompt, text in [*((p, 0) for p in prompts if p), *((0, t) for t in texts if t)]
    ]


def measure(
    runner: Runner, vocab_size: int, test: Workload, repetitions: int, report: Callable[[int, int], None] | None = None
) -> Result:
    """Run a test `repetitions` times; the runner's memory must hold `test.context` tokens and its sequences.

    report(done, total) is called before each repetition, the warming up among them.
    """
    rates = []
    for i in range(WARM_UPS + repetitions):
        if report:
            report(i, WARM_UPS + repetitions)
        rates.append(once(runner, vocab_size, test))
    return Result(test, tuple(rates[WARM_UPS:]))


def once(runner: Runner, vocab_size: int, test: Workload) -> float:
    """Tokens a second of one run, its depth computed before and not timed."""
    steps = Steps(runner, vocab_size, test)
    steps.compute(test.depth)
    start_s = time.perf_counter()
    if test.prompt:
        steps.compute(test.prompt)
    else:
        for _ in range(test.text):
            steps.compute(1)
    return test.sequences * (test.prompt or test.text) / (time.perf_counter() - start_s)


class Steps:
    """Sequences that grow by random tokens, their pages one behind the other."""

    def __init__(self, runner: Runner, vocab_size: int, test: Workload):
        self._runner, self._vocab_size, self._n = runner, vocab_size, test.sequences
        self._length = 0
        self._random, self._each = np.random.default_rng(0), np.arange(test.sequences, dtype=np.int32)
        # Of a step of text: made once, for making them takes as long as a tenth of a small model's step.
        self._drawn = self._random.integers(0, vocab_size, (TEXT_TOKENS, test.sequences), dtype=np.int32)
        self._positions = np.zeros(test.sequences, np.int32)
        pages = -(-test.length // PAGE)
        sizes = runner.memory.sizes
        self._table = np.zeros((sizes["S"], sizes["P"]), np.int32)
        self._table[: self._n, :pages] = np.arange(self._n * pages).reshape(self._n, pages)

    def compute(self, n_tokens: int) -> None:
        """n_tokens more for each sequence; done when the device is done."""
        for batch in self.batches(n_tokens):
            self._runner.run(batch)
            self._runner.synchronize()
        self._length += n_tokens

    def batches(self, n_tokens: int) -> Iterator[Batch]:
        """The steps that compute n_tokens more: all sequences' tokens one behind the other, the last of each with
        its logits."""
        if not n_tokens:
            return
        if n_tokens == 1 and self._n <= self._runner.memory.sizes["T"]:
            self._positions.fill(self._length)
            tokens = self._drawn[self._length % TEXT_TOKENS]
            yield Batch(tokens, self._positions, self._each, self._table, self._each, self._length + 1)
            return
        positions = np.tile(np.arange(self._length, self._length + n_tokens, dtype=np.int32), self._n)
        sequences = np.repeat(np.arange(self._n, dtype=np.int32), n_tokens)
        tokens = self._random.integers(0, self._vocab_size, len(positions), dtype=np.int32)
        last = positions == self._length + n_tokens - 1
        most = self._runner.memory.sizes["T"]
        for start in range(0, len(tokens), most):
            part = slice(start, start + most)
            rows = np.flatnonzero(last[part]).astype(np.int32)
            length = int(positions[part].max()) + 1
            yield Batch(tokens[part], positions[part], sequences[part], self._table, rows, length)
