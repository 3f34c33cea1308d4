"""Where the CPU's settings are tried: so far how many threads run a model's steps. Searches nothing.

A Range, as kernels/ranges.py has them for GPUs. Blocking of the CPU's kernels would come as further keys of the
same range: their candidates, `fault` against the default's results, and a time.
"""

from collections.abc import Callable
from typing import Any

from rocforge.engine.measure import WARM_UPS, Workload, once
from rocforge.engine.tune import Subject
from rocforge.engine.tuned_threads import sources
from rocforge.probe import cpu, tuned
from rocforge.probe.tuned import THREADS, Key, Tile

# Tokens of text that one measurement of decoding takes.
TEXT_TOKENS = 16
# Numbers of threads that are tried: models are open for all of them at once.
MOST = 8


class CPURange:
    """This host's CPU. `open_model(threads)` gives what has a `runner`, a `config` and `close()`: an LLM."""

    status, triton, driver = tuned.MEASURED, None, None

    def __init__(self, open_model: Callable[[int], Any]):
        host = cpu.describe()
        self.target = self.device = host.name
        self._host, self._open_model = host, open_model
        self._models: dict[int, Any] = {}

    def subjects(self, model: str, tokens: tuple[int, ...]) -> list[Subject]:
        """A step of the model for each of these numbers of tokens."""
        return [Subject(Key(THREADS, model, (), n), "step") for n in tokens]

    def sources(self, key: Key) -> str:
        return sources()

    def candidates(self, key: Key) -> list[Tile]:
        return [{THREADS: n} for n in counts(self._host.cores, self._host.threads)]

    def predict_us(self, key: Key, tile: Tile) -> float | None:
        return None

    def fault(self, key: Key, tile: Tile) -> str | None:
        return None  # rows are computed alike whoever computes them: tests hold that

    def time_us(self, key: Key, tile: Tile) -> float:
        """A step's time: of a token of text, or of a prompt of the key's tokens."""
        threads, test = tile[THREADS], workload(key.tokens)
        if threads not in self._models:
            self._models[threads] = self._open_model(threads)
            for _ in range(WARM_UPS):
                self._rate(threads, test)
        return 1e6 * key.tokens / self._rate(threads, test)

    def _rate(self, threads: int, test: Workload) -> float:
        model = self._models[threads]
        return once(model.runner, model.config.vocab_size, test)

    def close(self) -> None:
        for model in self._models.values():
            model.close()
        self._models.clear()


def workload(tokens: int) -> Workload:
    return Workload(prompt=0, text=TEXT_TOKENS) if tokens == 1 else Workload(prompt=tokens, text=0)


def counts(cores: int, threads: int) -> list[int]:
    """Numbers of threads worth trying: one a core, the default; siblings too; then fewer and fewer, down to one."""
    if cores <= MOST:
        fewer = list(range(cores - 1, 0, -1))
    else:
        shares = (7 / 8, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 1 / 4, 1 / 8)
        fewer = sorted({max(1, round(cores * share)) for share in shares}, reverse=True)
    return list(dict.fromkeys([cores, threads, *fewer]))
