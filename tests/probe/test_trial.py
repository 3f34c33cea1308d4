"""The CPU as it is when tried. What runs here is found on this machine; what assembles, for all."""

import platform

import pytest

from rocforge.probe import cpu, trial


def test_every_extension_that_matters_has_a_trial():
    assert {*trial.X86, *trial.ARM} == set(cpu.EXTENSIONS)


def test_what_is_reported_runs():
    """AMX apart, which a system may report and not lend."""
    ran = trial.try_isa()
    if ran is None:
        pytest.skip(f"nothing to try on {platform.machine()}")
    assert {e for e in cpu.describe().isa if not e.startswith("amx")} <= set(ran)


def test_an_instruction_that_is_none_ends_a_fork_and_nothing_else():
    if platform.machine() != "x86_64":
        pytest.skip("ud2 is x86's")
    assert trial._runs("", "nop", 0) and not trial._runs("", "ud2", 0)


def test_nothing_is_tried_on_an_unknown_machine(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert trial.try_isa() is None


def test_a_child_that_says_nothing_is_no_answer(monkeypatch):
    monkeypatch.setattr(trial, "child_environment", dict)
    monkeypatch.setattr(trial.sys, "executable", "/bin/false")
    assert trial.try_isa() is None


def test_memory_is_read_at_some_speed(monkeypatch):
    monkeypatch.setattr(trial, "_BYTES", 32 << 20)
    monkeypatch.setattr(trial, "_READ_S", 0.02)
    assert 1e8 < trial.read_bytes_per_s(2) < 1e13
