"""Triton, asked in a process of its own: what it compiles for, what it refuses, and a compiler that dies."""

import json
import os
import subprocess
import sys

import pytest

from rocforge.probe import cache, compiler
from rocforge.probe.compiler import Compiled, ask_triton


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for asked_once in (cache.user_cache_dir, ask_triton):
        asked_once.cache_clear()
    yield
    for asked_once in (cache.user_cache_dir, ask_triton):
        asked_once.cache_clear()


REAL = {
    ("hip", "gfx942", 64): Compiled(None, "v_mfma", "v_dot4_i32_i8"),
    ("hip", "gfx1100", 32): Compiled(None, "v_wmma", "v_dot4_i32_iu8"),
    ("hip", "gfx1201", 32): Compiled(None, "v_wmma", "v_dot4_i32_iu8"),
    ("cuda", "sm90", 32): Compiled(None, "mma", "dp4a"),
}


@pytest.mark.parametrize(("target", "expected"), REAL.items(), ids=[arch for _, arch, _ in REAL])
def test_real_targets(target, expected):
    """Though the tests interpret Triton, the child compiles."""
    triton = pytest.importorskip("triton", reason="triton is absent")
    assert os.environ.get("TRITON_INTERPRET") == "1"
    assert ask_triton(triton.__version__, *target) == expected


def test_a_target_that_triton_does_not_know():
    triton = pytest.importorskip("triton", reason="triton is absent")
    answer = ask_triton(triton.__version__, "hip", "gfx9999", 64)
    assert "gfx9999" in answer.refusal and answer.matrix == ""


class Child:
    """Stands in for subprocess.run."""

    def __init__(self, monkeypatch, stdout="", stderr="", code=0):
        self.runs, self.answer = 0, subprocess.CompletedProcess([], code, stdout, stderr)
        monkeypatch.setattr(compiler.subprocess, "run", self)

    def __call__(self, command, env, **_):
        assert command[:2] == [sys.executable, "-m"] and "TRITON_INTERPRET" not in env
        self.runs += 1
        return self.answer


def test_the_answer_is_remembered_for_one_version(monkeypatch):
    child = Child(monkeypatch, "a warning\n" + json.dumps({"refusal": None, "matrix": "v_mfma", "dot": ""}))
    for _ in range(2):
        ask_triton.cache_clear()  # as another process would
        assert ask_triton("3.9", "hip", "gfx90a", 64) == Compiled(None, "v_mfma", "")
    assert child.runs == 1
    ask_triton("3.10", "hip", "gfx90a", 64)
    assert child.runs == 2


DEATHS = {
    "refused": ("file.py:7:0: error: unsupported target: 'gfx1030'\nTraceback\nRuntimeError: PassManager::run failed\n", 1, True),
    "aborted": ("LLVM ERROR: Cannot select: t730: f32\nStack dump\n", -6, True),
    "no Triton": ("Traceback\nModuleNotFoundError: No module named 'triton'\n", 1, False),
    "killed": ("", -9, False),
}


@pytest.mark.parametrize(("stderr", "code", "is_final"), DEATHS.values(), ids=DEATHS)
def test_a_compiler_that_ends(monkeypatch, stderr, code, is_final):
    """What it said is the refusal, and is remembered; what kept it from being asked is not."""
    child = Child(monkeypatch, stderr=stderr, code=code)
    for _ in range(2):
        ask_triton.cache_clear()
        refusal = ask_triton("3.9", "hip", "gfx1030", 32).refusal
    expected = {0: "unsupported target: 'gfx1030'", 1: "LLVM ERROR: Cannot select: t730: f32"}
    words = [*expected.values(), "ModuleNotFoundError: No module named 'triton'", "its compiler ended with code -9"]
    assert refusal == words[list(DEATHS.values()).index((stderr, code, is_final))]
    assert child.runs == (1 if is_final else 2)
