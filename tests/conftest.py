"""What several test files share: figures shown at the end of a run, and a model of real size.

Triton's interpreter and its compiler do not share a process. Tests run Triton kernels in the
interpreter, unless `-m gpu` picks those that run on the GPU; what compiles for AMD targets
starts a process of its own.
"""

import logging
import os
import subprocess
import sys

import pytest

from tests.paths import SHARED

_FIGURES = pytest.StashKey[dict[str, list[str]]]()


def pytest_configure(config):
    if config.option.markexpr != "gpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
    config.stash[_FIGURES] = {}


@pytest.fixture(autouse=True)
def usual_log_level():
    """A command that ran in this process may have been told to be quiet; the next test's is not."""
    logging.getLogger("rocforge").setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def figures(request):
    """figures(title, line): `line` is shown under `title` when the run ends, whether tests passed or not."""

    def add(title, line):
        request.config.stash[_FIGURES].setdefault(title, []).append(line)

    return add


def pytest_terminal_summary(terminalreporter, config):
    for title, lines in config.stash[_FIGURES].items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def llama_1b(tmp_path_factory):
    """Path of a model with the shape of Llama 3.2 1B, random weights in Q4_K_M, Llama 3's vocabulary (0.8 GB)."""
    tool = SHARED / "tools" / "synth_gguf.py"
    vocabulary = SHARED / "data" / "vocab" / "ggml-vocab-llama-bpe.gguf"
    if not (tool.is_file() and vocabulary.is_file()):
        pytest.skip(f"{tool} or {vocabulary} is absent: no model of real size to make")
    path = tmp_path_factory.mktemp("llama-1b") / "model.gguf"
    subprocess.run([sys.executable, tool, "llama-3.2-1b", "Q4_K_M", path, "--vocab", vocabulary], check=True)
    yield path
    path.unlink()  # pytest keeps the directories of three runs
