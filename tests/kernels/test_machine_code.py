"""The machine code for every AMD target, compiled here without a GPU and read: what must never be in it, and what must."""

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from rocforge.gguf.formats import BY_NAME, SUPPORTED
from tests.paths import ROOT

pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.kernels.layout import PLANES  # noqa: E402
from rocforge.kernels.target import AMD  # noqa: E402

# CDNA3, RDNA3, RDNA4: in CI, the widest kernels. All others, and all kernels: -m full_matrix.
USUAL = ("gfx942", "gfx1100", "gfx1201")
TARGETS = [*USUAL, *(pytest.param(arch, marks=pytest.mark.full_matrix) for arch in AMD)]


def refused(arch):
    """Why the installed Triton compiles nothing for the target; None where it does."""
    code = (
        "from rocforge.kernels.inspect import *; from rocforge.kernels.cases import cases; t = AMD[sys.argv[1]]\n"
        "compile_for(next(c.launch for c in cases(t, False) if c.op == 'gather'), t)"
    )
    ran = run([sys.executable, "-c", code, arch])
    return None if ran.returncode == 0 else ran.stderr.strip().splitlines()[-1]


def run(command):
    """In a process of its own, in which Triton compiles."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def tables(request):
    """target -> future of the rows of `kernels.inspect`, for the tests that run; two targets are compiled at a time."""
    every = request.config.option.markexpr == "full_matrix"
    asked = dict.fromkeys(i.callspec.params["table"] for i in request.session.items if "table" in getattr(i, "fixturenames", ()))

    def rows(arch):
        if every and (why := refused(arch)):
            return why
        command = [sys.executable, "-m", "rocforge.kernels.inspect", "--target", arch, "--json"]
        ran = run(command if every else [*command, "--widest"])
        return json.loads(ran.stdout) if ran.returncode == 0 else RuntimeError(ran.stderr[-2000:])

    with ThreadPoolExecutor(2) as pool:
        yield {arch: pool.submit(rows, arch) for arch in asked}


@pytest.fixture(params=TARGETS)
def table(request, tables):
    """(target, its rows)."""
    rows = tables[request.param].result()
    if isinstance(rows, str):
        pytest.skip(rows)
    assert isinstance(rows, list), rows
    return AMD[request.param], rows


def wrong(found, *fields):
    return [{name: row[name] for name in ("kernel", "format", "tile", *fields)} for row in found]


def test_every_op_is_there(table):
    _, found = table
    ops = {row["op"] for row in found}
    assert ops >= {"embed", "linear", "rms_norm", "quantize", "swiglu", "rope_table", "rope_store", "attention", "gather"}
    for op in ("embed", "linear"):
        assert {row["format"] for row in found if row["op"] == op} == {f.name for f in SUPPORTED}


def test_no_register_is_spilled(table):
    _, found = table
    assert not wrong([row for row in found if row["spills"]], "spills", "vgprs")


def test_shared_memory_suffices(table):
    target, found = table
    assert not wrong([row for row in found if row["lds_bytes"] > target.lds_bytes], "lds_bytes")


def test_matrix_products_use_matrix_instructions(table):
    target, found = table
    attention = [row for row in found if row["op"] == "attention" and row["format"] != "f32"]
    products = [row for row in found if row["kernel"].startswith("gemm")]
    products += [row for row in attention if row["kernel"] in ("attend_tile", "attend_split")]
    assert len(products) > 15
    if target.matrix:
        assert not wrong([row for row in products if not row["matrix"]])
        # Heads of 256 leave RDNA3 no registers for its matrix instructions' operands: lanes multiply them.
        on_lanes = [row for row in attention if row["kernel"] == "attend_lanes"]
        assert not wrong([row for row in on_lanes if "D256" not in row["tile"] or not target.arch.startswith("gfx11")])


def test_halves_below_their_normal_range_are_kept(table):
    """Of such halves weights are made (weights.py)."""
    _, found = table
    assert not wrong([row for row in found if row["kernel"] == "gemm_blocks" and not row["keeps_small_halves"]])


def test_integer_products_use_dot_instructions(table):
    target, found = table
    products = [row for row in found if row["kernel"] == "gemv_blocks"]
    assert len(products) >= 2 * len(PLANES)
    if target.isa != "portable":
        # 16 words of four columns for each row that a lane has and each token.
        assert not wrong([row for row in products if row["dot"] % 16 or row["dot"] == 0], "dot")


def test_quantised_weights_are_loaded_by_64_bits_or_more(table):
    """What a lane reads of a unit: its planes of quants, wide; and of scales and activations' scales, what is left. For up
    to four tokens weights are read at two places: before the first step, and in each for the next."""
    target, found = table
    for row in (r for r in found if r["kernel"] == "gemv_blocks"):
        sizes = {name: int(n) for name, n in re.findall(r"([A-Za-z]+)(\d+)", row["tile"])}
        lanes = target.lanes * sizes["warps"]
        rows_of_lane, tokens = max(1, sizes["BN"] * sizes["BU"] // lanes), sizes["BT"]
        # Of activations, a lane's units in each row that it has; weights times the places where they are read.
        units, weights = tokens * max(1, sizes["BU"] // lanes), rows_of_lane * (2 if tokens <= 4 else 1)
        planes = PLANES[BY_NAME[row["format"]]]
        quants = [p for p in (planes.quants, planes.high) if p]
        wide_planes = sum(p.n_parts for p in quants)
        wide = row["load_128"] + row["load_64"]
        assert wide >= weights * wide_planes + 4 * units, row
        # Scales and supers of each row; of each token and unit two scales and four sums; of the end bias and residual.
        scales = sum(1 for p in (planes.scales, planes.supers) if p)
        narrow = row["load_32"] + row["load_16"]
        assert narrow <= weights * scales + 6 * units + 2 * tokens * sizes["BN"], row
