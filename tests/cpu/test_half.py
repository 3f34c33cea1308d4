"""float16 by integers: every half, and floats of every size, as numpy has them; and a host without F16C needs no library."""

import platform
import subprocess
import sys

import numpy as np
import pytest
from llvmlite import ir
from numba import types

from rocforge.cpu.half import narrow_by_integers, widen_by_integers
from rocforge.cpu.isa import I16, Vec, instruction, load, pointer, store
from rocforge.cpu.threads import kernel, launch, words
from tests.paths import ROOT

SHORT = ir.VectorType(I16, 16)
load16, store16 = load(16, "f32"), store(16, "f32")
widened = instruction(Vec(16, "f32"), (types.intp,), lambda b, a: widen_by_integers(b, b.load(pointer(b, a, SHORT), align=1)))
store_narrowed = instruction(
    None, (types.intp, Vec(16, "f32")), lambda b, a, x: b.store(narrow_by_integers(b, x), pointer(b, a, SHORT), align=1)
)


@kernel
def widen_all(args, tid, team):
    x, out, n = words(args, 3)
    for i in range(0, n, 16):
        store16(out + 4 * i, widened(x + 2 * i))


@kernel
def narrow_all(args, tid, team):
    x, out, n = words(args, 3)
    for i in range(0, n, 16):
        store_narrowed(out + 2 * i, load16(x + 4 * i))


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_every_half():
    out = np.empty(len(HALVES), np.float32)
    launch(widen_all, HALVES, out, len(HALVES))
    np.testing.assert_array_equal(out, HALVES.astype(np.float32))  # NaN counts as NaN
    assert np.signbit(out[HALVES == 0]).sum() == 1


def test_floats_of_every_size_and_between_halves():
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 1 << 32, 1 << 16, dtype=np.uint32).view(np.float32)
    near = HALVES.astype(np.float32)
    finite = near[np.isfinite(near)]
    between = (finite + np.float32(2.0**-25)) * np.float32(1 + 2.0**-12)  # ties, and what is beside them
    ends = np.array([65519.9, 65520, 65535, 1e30, 2.0**-25, 2.0**-24 * 1.5], np.float32)
    x = np.concatenate([wide, near, between, np.nextafter(finite, np.float32(np.inf)), ends])
    x = np.concatenate([x, np.zeros(-len(x) % 16, np.float32)])
    out = np.empty(len(x), np.float16)
    launch(narrow_all, x, out, len(x))
    with np.errstate(over="ignore"):
        expected = x.astype(np.float16)
    real = ~np.isnan(x)
    np.testing.assert_array_equal(out[real].view(np.uint16), expected[real].view(np.uint16))
    assert np.isnan(out[~real]).all()


WITHOUT_F16C = """
import numba
numba.config.CPU_NAME, numba.config.CPU_FEATURES = "nehalem", ""
from rocforge.cpu import half, tier
tier.tier, half.converts_halves = (lambda: "generic"), (lambda: False)
from rocforge.cpu import machine_code, rope, tiles
from rocforge.gguf.formats import Q4_K
import numpy as np
for function in (tiles.TILES[Q4_K].function, rope.STORE[np.dtype(np.float16)].function):
    asm = machine_code.compiled(function, 3)._library.get_asm_str()
    print(any(name in asm for name in ("vcvtph2ps", "vcvtps2ph", "__extendhfsf2", "__truncsfhf2")))
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="F16C is x86's")
def test_a_host_without_f16c():
    ran = subprocess.run([sys.executable, "-c", WITHOUT_F16C], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split() == ["False", "False"]
