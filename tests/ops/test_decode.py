"""decode: the tables agree with the formats, and no kernel reads outside of its rows."""

import subprocess
import sys

import pytest

from rocforge.cpu import decode
from tests.ops.blocks import BLOCK_FORMATS, HALVES
from tests.paths import ROOT


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_layout_agrees_with_format(format):
    layout = getattr(decode, format.name)
    assert (layout.block, layout.block_bytes) == (format.block, format.block_bytes)
    assert layout.has_mins == (len(HALVES[format.name]) == 2)
    assert layout.block == 256 or not layout.by_halves
    assert layout.block_bytes <= decode.RAW_BYTES // 16 + 2  # what is transposed; Q6_K's d is read apart


READS_UP_TO_A_WALL = """
import ctypes, mmap
import numpy as np
from rocforge.cpu.embed import embed
from rocforge.cpu.layout import matrix
from rocforge.cpu.matmul import linear
from rocforge.cpu.rows import most_tokens
from rocforge.gguf.formats import SUPPORTED
from tests.ops.blocks import random_blocks, random_q8

PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
rng = np.random.default_rng(0)
for format in SUPPORTED:
    for rows, columns in ((1, format.block), (17, 3 * format.block), (3, 9 * format.block)):
        data = random_blocks(format, rows, columns, rng)
        inner = -(-data.nbytes // PAGE) * PAGE
        memory = mmap.mmap(-1, inner + 2 * PAGE)
        bytes_ = np.frombuffer(memory, np.uint8)
        for wall in (0, inner + PAGE):
            assert libc.mprotect(ctypes.c_void_p(bytes_.ctypes.data + wall), PAGE, 0) == 0  # 0: no access
        for start in (PAGE, PAGE + inner - data.nbytes):  # against the wall before, and the one behind
            held = bytes_[start : start + data.nbytes]
            held[:] = data.reshape(-1)
            w = matrix(held, format, rows, columns)
            for T in (1, most_tokens(), most_tokens() + 1):  # both kernels
                x = rng.standard_normal((T, columns)).astype(np.float32) if format.is_float else random_q8(T, columns, rng)
                linear(x, (w,), None, None, np.empty((T, rows), np.float32))
            embed(np.array([0, rows - 1], np.int32), w, np.empty((2, columns), np.float32))
    print(format.name)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_reads_only_its_rows():
    # In a process of its own: a read outside of the rows ends it.
    run = subprocess.run([sys.executable, "-c", READS_UP_TO_A_WALL], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f"after {run.stdout.split()[-1:]}: {run.stderr[-2000:]}"
