"""The lower instruction-set tiers pass the tests of the best: run once more with the tier forced."""

import os
import subprocess
import sys

import pytest
from llvmlite import binding

from rocforge.cpu.tier import TIERS, tier
from tests.paths import ROOT

FEATURES = binding.get_host_cpu_features()
LOWER = [name for name, needed in TIERS.items() if name != tier() and all(FEATURES.get(f) for f in needed)]


def run(code, forced):
    env = {**os.environ, "ROCFORGE_CPU_ISA": forced}
    return subprocess.run([sys.executable, *code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.skipif(not LOWER, reason="this host runs the lowest tier in the other tests already")
@pytest.mark.parametrize("forced", LOWER)
def test_a_lower_tier(forced):
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/test_linear.py"], forced)
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_tier_that_is_not_to_be_had():
    done = run(["-c", "from rocforge.cpu.tier import tier; tier()"], "sse9")
    assert done.returncode != 0 and "ROCFORGE_CPU_ISA is 'sse9'; this machine has generic" in done.stderr
