"""The runner: which program a batch runs, and that it finds the pages of each sequence."""

import subprocess
import sys

import numpy as np
import pytest

from rocforge.cpu.backend import LAUNCHERS, Backend
from rocforge.engine.measure import Steps, Workload
from rocforge.engine.runner import Runner
from rocforge.llm import draw
from rocforge.probe.compiler import child_environment
from tests.paths import ROOT

CONTEXT, SEQUENCES = 512, 2


class InSteps(Backend):
    """A CPU that records programs by the pages of a sequence, as GPUs do; what it was told of the inputs."""

    def __init__(self):
        super().__init__(1)
        self.copied = []

    def page_counts(self, most):
        return (2, 5, most)

    def record(self, n_bytes=0):
        self.copied.append(n_bytes)
        return super().record(n_bytes)


def logits(backend):
    """(those of prompts and text of two sequences that grow page by page, the memory plan)"""
    design = draw(None, "cpu", context=CONTEXT, sequences=SEQUENCES)
    with design.file:
        runner = Runner(design.plan, design.memory, design.file, backend, LAUNCHERS)
        try:
            runner.load()
            found, run = [], runner.run
            runner.run = lambda batch: found.append(np.array(run(batch)))
            steps = Steps(runner, design.config.vocab_size, Workload(0, 200, sequences=SEQUENCES))
            for n_tokens in (40, 1, 30, 1, 100, 1):
                steps.compute(n_tokens)
            return found, design.memory
        finally:
            runner.close()


def test_a_short_sequence_sees_few_pages():
    in_steps = InSteps()
    found, memory = logits(in_steps)
    expected, _ = logits(Backend(1))
    assert len(found) == 6 and all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    # Of the inputs, which the page table ends, no more is copied than the step sees.
    table, rows, pages = memory.offsets["page_table"], SEQUENCES + 1, memory.sizes["P"]
    assert table == max(memory.offsets[name] for name in ("tokens", "positions", "sequences", "rows", "page_table"))
    assert set(in_steps.copied) == {table + 4 * rows * n for n in (2, 5, pages)}
    assert table + 4 * rows * pages <= memory.inputs_bytes


def test_pages_of_a_gpu_s_programs():
    room = pytest.importorskip("rocforge.kernels.backend", reason="torch or triton is absent")
    counts = room.Backend("meta").page_counts
    assert [counts(n) for n in (1, 8, 9, 32, 128)] == [(1,), (8,), (8, 9), (8, 32), (8, 32, 128)]
    assert counts(8192) == (8, 32, 128, 512, 2048, 8192)


class Kept(Backend):
    """A CPU of whose kernels some name's are kept, as a GPU's may be; what it compiled."""

    prompts = (4, 16)

    def __init__(self, names):
        super().__init__(1)
        self.names, self.compiled = names, []

    def is_kept(self, what):
        return repr(what) in self.names

    def compile(self, kernels, report=None, what=None):
        self.compiled.append(repr(what))
        self.names.add(repr(what))
        super().compile(kernels, report)


def test_kernels_that_are_kept_are_not_compiled_before():
    """Programs between one token and a full chunk are recorded when they are needed, then; and answer the same."""
    found, names = [], set()
    for backend in (Kept(names), Kept(names)):
        design = draw(None, "cpu", context=CONTEXT, sequences=SEQUENCES)
        with design.file:
            runner = Runner(design.plan, design.memory, design.file, backend, LAUNCHERS)
            try:
                runner.prepare()
                recorded = len(runner._programs)
                runner.load()
                steps = Steps(runner, design.config.vocab_size, Workload(0, 20))
                answer = [np.array(runner.run(batch)) for n in (9, 1) for batch in steps.batches(n)]
                found.append((recorded, runner.backend.compiled, answer))
            finally:
                runner.close()
    (all_of_them, names, expected), (few, none, got) = found
    assert (all_of_them, few) == (4, 2) and len(names) == 1 and none == []
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


CHANGING = """
from rocforge.engine.runner import Runner
from rocforge.kernels.backend import LAUNCHERS, Backend
from rocforge.kernels.target import AMD, nvidia, use
from rocforge.llm import draw
for target in (nvidia("sm90"), AMD["gfx942"], AMD["gfx1100"]):
    design = draw(None, "cpu", context=2048, sequences=8)
    with design.file, use(target):
        runner = Runner(design.plan, design.memory, design.file, Backend("meta"), LAUNCHERS)
        for n in (1, 2, 64):
            programs = [runner.program(n, 1, pages) for pages in (8, 9)]
            for a, b in zip(*(program.launches for program in programs), strict=True):
                named = {a.kernel.arg_names[i] if isinstance(i, int) else i for i in a.kernel.do_not_specialize or ()}
                for name, x, y in zip(a.kernel.arg_names, a.args, b.args):
                    if isinstance(x, int) and x != y and name not in named:
                        print(target.arch, n, a.kernel.__name__, name)
            turning = {made.kernel.__name__ for made in programs[0].launches} & {"rope_store_heads"}
            if bool(turning) != (n > 1):
                print(target.arch, n, "tokens: RoPE's own launches", turning)
"""


def test_programs_of_a_gpu():
    """What changes with the pages of a step is no constant of a kernel's, of which there would be one more for each. And one
    token's RoPE is no launch of its own."""
    pytest.importorskip("triton", reason="triton is absent: pip install triton")
    ran = subprocess.run([sys.executable, "-c", CHANGING], cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr[-2000:]
