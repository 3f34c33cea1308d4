"""The lower instruction-set tiers pass the tests of the best: run once more with the tier forced."""

import os
import subprocess
import sys

import pytest

from rocforge.cpu.isa import tier
from tests.paths import ROOT


@pytest.mark.skipif(tier() == "generic", reason="this host runs the generic tier in the other tests already")
def test_the_generic_tier():
    env = {**os.environ, "ROCFORGE_CPU_ISA": "generic"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_linear.py"]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-3000:]
