"""Launches that begin early: each kernel of a step waits before it touches what another has written."""

import ast
import inspect
import subprocess
import sys
import textwrap

import pytest

pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.kernels.cases import cases  # noqa: E402
from rocforge.kernels.target import AMD, Target  # noqa: E402
from rocforge.probe.compiler import child_environment  # noqa: E402
from tests.paths import ROOT  # noqa: E402

HOPPER = Target("cuda", "sm90", 32, "ptx", "", 227 * 1024, 132)
AMPERE = Target("cuda", "sm80", 32, "ptx", "", 99 * 1024, 108)
# What is not of a step: weights are repacked before any, and what draws from logits is launched after it, by itself.
BESIDE_STEPS = {"repack", "sample", "penalize"}


def first_of_each_kernel():
    """One launch of each kernel of a step, for Hopper."""
    found = {}
    for case in cases(HOPPER, every=False):
        if case.op not in BESIDE_STEPS:
            found.setdefault(case.kernel, case.launch)
    assert len(found) >= 18
    return found


launches = pytest.fixture(scope="module")(first_of_each_kernel)


def test_all_kernels_of_a_step_begin_early(launches):
    late = [name for name, made in launches.items() if not (made.constants.get("EARLY") and made.options.get("launch_pdl"))]
    assert not late


def calls_of(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function.fn)))
    nodes = sorted((n for n in ast.walk(tree) if isinstance(n, ast.Call)), key=lambda n: (n.lineno, n.col_offset))
    return [ast.unparse(node.func) for node in nodes]


def test_only_what_is_settled_is_read_before_the_wait(launches):
    """Among the calls of a kernel, in the order in which they stand, `wait` is the first that touches memory, but for weights
    and what launches before the one before have written: those say so."""
    for name, made in launches.items():
        calls = calls_of(made.kernel)
        if "wait" not in calls:  # all that it does one other does, with one matrix or another
            (does,) = {call for call in calls if not call.startswith(("tl.", "triton."))}
            calls = calls_of(made.kernel.fn.__globals__[does])
        before = {call for call in calls[: calls.index("wait")] if not call.startswith(("tl.", "triton.")) and not call.endswith(".to")}
        assert before <= {"read_values", "read_scales", "zeros", "settled", "fetch", "rows_of", "share_of", "load_pages", "angles_of"}, (name, before)
        assert not {"tl.load", "tl.store"} & set(calls[: calls.index("wait")]), name


COMPILE = """
from rocforge.kernels.inspect import compile_for
from tests.kernels.test_early import HOPPER, first_of_each_kernel
made = first_of_each_kernel()["rms_norm_q8"]
print(*("griddepcontrol" in compile_for(each, HOPPER).asm["ptx"] for each in (made, made.apart())))
"""


def test_what_waits_is_in_the_code(launches):
    made = launches["rms_norm_q8"]
    apart = made.apart()
    assert "launch_pdl" not in apart.options and not apart.constants["EARLY"] and apart.apart() is apart
    # Compiling and interpreting do not share a process.
    ran = subprocess.run([sys.executable, "-c", COMPILE], cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True", "False"], ran.stderr[-2000:]


COMPILE_NEXT = """
import re
from rocforge.gguf.formats import Q4_K, Q6_K
from rocforge.kernels import layout, launch
from rocforge.kernels.cases import _meta, _q8
from rocforge.kernels.inspect import compile_for
from rocforge.kernels.matmul import linear
from rocforge.kernels.target import use
from tests.kernels.test_early import HOPPER
for tokens in (8, 32):
    with use(HOPPER), launch.record() as program:
        weights = tuple(layout.empty(format, 1024, 4096, "meta") for format in (Q4_K, Q6_K))
        linear(_q8(tokens, 4096), weights, None, None, _meta(tokens, 2048))
        for made in program.launches[1:3]:
            ptx = compile_for(made, HOPPER).asm["ptx"]
            wait, store = (re.search(part, ptx).start() for part in ("griddepcontrol.wait", r"st\\.global"))
            products = [at.start() for at in re.finditer(r"mma\\.", ptx)]
            copies = re.findall(r"cp\\.async\\.(c[ag])[^;]*, 0x10,", ptx)  # of 16 bytes
            fetches = [at.start() for at in re.finditer(r"prefetch\\.global\\.L2", ptx)]
            print(wait, products[0], products[-1], store, "ca" in copies, "cg" in copies, len(fetches), max(fetches, default=0), sep=",")
"""


def test_the_next_matrix_does_not_wait_for_the_one_before():
    """Of two matrices by the same x, the second's launch waits when it has multiplied, and before it writes; activations come past the
    first cache. Lines are fetched before a wait alone."""
    ran = subprocess.run([sys.executable, "-c", COMPILE_NEXT], cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    found = [tuple(map(ast.literal_eval, line.split(","))) for line in ran.stdout.split()]
    assert len(found) == 4, ran.stderr[-2000:]
    for i, (wait, first_product, last_product, store, kept, past, n_fetches, last_fetch) in enumerate(found):
        assert wait > last_product if i % 2 else wait < first_product, i
        assert wait < store and not kept
        assert past or i >= 2, i  # 32 tokens come by boxes
        # Of 32 tokens, what waits first has lines of its weights fetched meanwhile; what does not wait, and 8 tokens, nothing.
        assert (n_fetches > 0) == (i == 2) and last_fetch < wait, i


@pytest.mark.parametrize("target", [AMD["gfx942"], AMD["gfx1100"], AMPERE], ids=lambda target: target.arch)
def test_elsewhere_launches_are_ordinary(target):
    for case in cases(target, every=False):
        assert not case.launch.constants.get("EARLY") and "launch_pdl" not in case.launch.options
