"""What is timed: the right tokens at the right places, as llama-bench would have them."""

from types import SimpleNamespace

import numpy as np
import pytest

from rocforge.engine.measure import WARM_UPS, Result, Workload, measure, workloads
from rocforge.plan.ir import PAGE


class RecordingRunner:
    """Takes steps of up to `most` tokens and remembers them."""

    def __init__(self, most, sequences, pages):
        self.memory = SimpleNamespace(sizes={"T": most, "S": sequences, "P": pages})
        self.steps, self.waits = [], 0

    def run(self, batch):
        copied = SimpleNamespace(**{n: np.array(getattr(batch, n)) for n in ("tokens", "positions", "sequences", "rows", "page_table")})
        self.steps.append(copied)

    def synchronize(self):
        self.waits += 1


def test_names_are_llama_benchs():
    assert [t.name for t in workloads((512, 0), (128,), (0, 4096), (1, 8))] == [
        "pp512", "tg128", "pp512 @ d4096", "tg128 @ d4096", "pp512 x 8", "tg128 x 8", "pp512 @ d4096 x 8", "tg128 @ d4096 x 8",
    ]  # fmt: skip


def test_context_is_whole_pages_for_each_sequence():
    assert Workload(0, 1, depth=PAGE, sequences=3).context == 3 * 2 * PAGE


@pytest.mark.parametrize("test", [Workload(70, 0), Workload(0, 5, depth=33), Workload(10, 0, depth=3, sequences=3), Workload(0, 4, sequences=3)])
def test_every_position_of_every_sequence_once(test):
    runner = RecordingRunner(16, test.sequences + 1, test.context // PAGE)
    result = measure(runner, 100, test, 2)
    assert len(result.rates) == 2 and all(rate > 0 for rate in result.rates)
    assert runner.waits == len(runner.steps)  # a step counts until the device is done
    one_run = len(runner.steps) // (WARM_UPS + 2)
    seen, rows = [], 0
    for step in runner.steps[:one_run]:
        assert len(step.tokens) <= 16 and (step.tokens < 100).all()
        seen += zip(step.sequences.tolist(), step.positions.tolist(), strict=True)
        rows += len(step.rows)
        for row in step.rows:  # the logits after the last of what is computed at once
            assert step.positions[row] in (test.depth - 1, test.length - 1) or test.text
    assert sorted(seen) == [(s, p) for s in range(test.sequences) for p in range(test.length)]
    assert rows == test.sequences * ((test.depth > 0) + (test.text or 1))
    pages = runner.steps[0].page_table[: test.sequences, : -(-test.length // PAGE)]
    assert len(np.unique(pages)) == pages.size  # no two share a page


def test_mean_and_deviation():
    result = Result(Workload(1, 0), (10.0, 14.0))
    assert result.mean == 12 and result.deviation == pytest.approx(8**0.5)
    assert Result(Workload(1, 0), (10.0,)).deviation == 0
