"""The AMX tier where there is no AMX: its tiles emulated, every format's products to the bit those of this host's tier."""

import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from rocforge.cpu.layout import matrix
from rocforge.cpu.matmul import linear
from rocforge.gguf.formats import BY_NAME
from tests.ops.blocks import random_blocks, random_q8
from tests.paths import ROOT

# One and two scales a strip, with and without minimums, values of all of 8 bits; tokens that fill tiles,
# and not; rows that fill no panel.
FORMATS = ("Q4_K", "Q6_K", "Q2_K", "Q8_0", "IQ4_XS")
SIZES = ((16, 40, 256), (53, 35, 512))


def products():
    """out of linear() for each format and size, from numbers that are the same in every process."""
    for name in FORMATS:
        for T, N, K in SIZES:
            rng, format = np.random.default_rng(0), BY_NAME[name]
            w, x = matrix(random_blocks(format, N, K, rng), format, N, K), random_q8(T, K, rng)
            out = np.empty((T, N), np.float32)
            linear(x, (w,), None, None, out)
            yield out


EMULATED = """
import sys
import tests.cpu.amx_emulator
import numpy as np
from tests.cpu.test_amx import products
np.savez(sys.argv[1], *products())
"""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    home = tmp_path_factory.mktemp("amx")
    env = {**os.environ, "XDG_CACHE_HOME": str(home)}  # what is compiled here is for no other process
    ran = subprocess.run([sys.executable, "-c", EMULATED, home / "out.npz"], cwd=ROOT, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    with np.load(home / "out.npz") as found:
        return list(found.values())


def test_the_same_bits(emulated):
    expected = list(products())
    assert len(emulated) == len(expected) == len(FORMATS) * len(SIZES)
    for got, wanted in zip(emulated, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


MACHINE_CODE = """
import numba
numba.config.CPU_NAME, numba.config.CPU_FEATURES = "sapphirerapids", ""
from rocforge.cpu import tier
tier.tier = lambda: "amx"
from rocforge.cpu import threads, tiles
from rocforge.gguf.formats import Q6_K
compiled = numba.cfunc(threads._SIGNATURE, error_model="numpy")(tiles.TILES[Q6_K].function)
asm = compiled._library.get_asm_str()
print(*(asm.count(name) for name in ("ldtilecfg", "tdpbsud", "tilerelease")))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX is x86's")
def test_llvm_makes_the_instructions():
    ran = subprocess.run([sys.executable, "-c", MACHINE_CODE], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    configured, products, released = map(int, ran.stdout.split())
    assert configured == 1 and products >= 2 and released >= 1, ran.stdout
