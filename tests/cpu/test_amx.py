"""The AMX tier where there is no AMX: its tiles emulated, every kind of format's products within their bound."""

import os
import platform
import subprocess
import sys

import pytest

from rocforge.cpu.tier import at_least
from tests.paths import ROOT

EMULATED = """
import tests.cpu.amx_emulator
import numpy as np
from rocforge.cpu import bfloats
from rocforge.gguf.formats import BY_NAME
from rocforge.probe.book import use
from tests.ops.blocks import random_blocks, random_q8
from tests.ops.rooms import BLOCKINGS, Blocked
from tests.ops.test_linear import check, multiply, tokens_of

# One and two scales a strip, with and without minimums, values of all of 8 bits; tokens that fill blocks,
# and not; rows that fill no panel, or not two; more columns than are unpacked at a time; however it is blocked.
bfloats.DEPTH = 256
for name in ("Q4_K", "Q6_K", "Q2_K", "Q8_0", "IQ4_XS"):
    for T, N, K in ((16, 40, 256), (53, 35, 512), (33, 5, 256)):
        rng, format = np.random.default_rng(0), BY_NAME[name]
        data, x = random_blocks(format, N, K, rng), random_q8(T, K, rng)
        check(x, data, format)
        # Otherwise tiles were not used at all.
        whole = multiply(x, data, format)
        assert (whole[:1] != multiply(tokens_of(x, slice(0, 1)), data, format)).any()
        for sizes in BLOCKINGS:
            with use(Blocked(sizes)):
                assert (multiply(x, data, format) == whole).all()
        print(name, T, N, K)
"""


@pytest.mark.skipif(not at_least("avx512vnni"), reason="beside tiles its kernels have AVX-512's instructions, which this machine lacks")
def test_products_are_within_their_bound(tmp_path):
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}  # what is compiled here is for no other process
    ran = subprocess.run([sys.executable, "-c", EMULATED], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert len(ran.stdout.splitlines()) == 15


MACHINE_CODE = """
import numba
numba.config.CPU_NAME, numba.config.CPU_FEATURES = "sapphirerapids", ""
from rocforge.cpu import tier
tier.tier = lambda: "amx"
from rocforge.cpu import bfloats, machine_code
from rocforge.gguf.formats import Q6_K
compiled = machine_code.compiled(bfloats.BFLOATS[Q6_K].function, 3)
asm = compiled._library.get_asm_str()
print(*(asm.count(name) for name in ("ldtilecfg", "tdpbf16ps", "tilerelease")))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86's")
def test_llvm_makes_the_instructions():
    ran = subprocess.run([sys.executable, "-c", MACHINE_CODE], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    configured, products, released = map(int, ran.stdout.split())
    assert configured == 1 and products >= 4 and released >= 1, ran.stdout
