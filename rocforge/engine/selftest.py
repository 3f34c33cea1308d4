"""The kernels' self-test: each runs on the GPU and in the CPU's room on the same small inputs. Times nothing.

A card is used only after it has computed rightly: this catches a driver, a compiler or a card that
makes of correct programs wrong numbers. It runs in a process of its own, since a GPU that faults may
take the process along, and one that hangs may never return; the verdict is remembered.
"""

import contextlib
import importlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rocforge.engine.selftest_cases import Blocks, Case, Of, all_cases
from rocforge.gguf.formats import Q8, Q8Cache
from rocforge.probe import cache
from rocforge.probe.compiler import child_environment
from rocforge.probe.gpu import GPU, driver_version
from rocforge.probe.runtime import ask_torch, first_line

log = logging.getLogger(__name__)

# Longest wait for one case, its compilation included.
CASE_TIMEOUT_S = 300
# Exit codes by SIGINT, SIGKILL, SIGTERM.
_ENDED = (-2, -9, -15)
# Of values in 8 bits, the share that may be rounded to the neighbour.
OFF_BY_ONE = 0.02

# The module of either room that has the op, where it is called otherwise.
MODULES = {
    "rms_norm": "norm", "swiglu": "activation", "rope_table": "rope", "rope_store": "rope", "linear": "matmul",
    "penalize": "sample",
}  # fmt: skip

Progress = Callable[[str, int, int], None]


# ---- the verdict


def verdict(gpu: GPU, progress: Progress | None = None, again: bool = False) -> str | None:
    """Why `gpu` must not be used, None where it passes: what is remembered of it or, the first time, a test of it.

    Remembered for one device, driver, torch, Triton and version of the kernels; `again` forgets. A test that
    never got as far as to compute decides nothing for the next process. `progress("self-test", done, total)`.
    """
    key = _key(gpu)
    known = None if again else _judged.get(key) or cache.recall("self-test", key)
    if known is None:
        log.info("testing the kernels on %s, once for this driver and version", gpu)
        fault, is_final = _test_in_child(gpu.index, progress)
        known = {"fault": fault}
        if is_final:
            cache.remember("self-test", key, known)
    _judged[key] = known
    if known["fault"] is None:
        return None
    return f"self-test failed: {known['fault']} (`rocforge probe --test` runs it again)"


# By this process: even a test that decides nothing is run once in it.
_judged: dict[tuple, dict[str, str | None]] = {}


def _key(gpu: GPU) -> tuple[str | None, ...]:
    runtime = ask_torch()
    kernels = Path(__file__).parents[1] / "kernels"
    sources = [*sorted(Path(__file__).parent.glob("selftest*.py")), *sorted(kernels.rglob("*"))]
    versions = driver_version(gpu.vendor), runtime.hip or runtime.cuda, runtime.torch, runtime.triton
    return (gpu.name, gpu.arch, gpu.driver_arch, *versions, cache.hash_of(s for s in sources if s.suffix in (".py", ".json")))  # code and tiles


def _test_in_child(index: int, progress: Progress | None) -> tuple[str | None, bool]:
    """The fault or None, and whether that is a verdict."""
    command = [sys.executable, "-m", __name__, str(index)]
    begun, has_begun = "the start", False
    with (
        tempfile.TemporaryFile("w+", errors="replace") as words,
        subprocess.Popen(command, env=child_environment(), stdout=subprocess.PIPE, stderr=words, text=True) as child,
    ):
        try:
            for told in _messages(child):
                if "fault" in told:
                    child.kill()  # it has said all; some drivers take long to let go
                    return told["fault"], told["is_final"]
                if "begun" in told:
                    begun, has_begun = told["begun"], True
                    if progress:
                        progress("self-test", told["done"], told["total"])
        except TimeoutError:
            return f"{begun}: no end after {CASE_TIMEOUT_S} s", has_begun
        except BaseException:
            child.kill()
            raise
        code = child.wait()
        words.seek(0)
        last = "".join(words.read().strip().splitlines()[-1:])
    # A signal is the driver's way to tell that a kernel went astray. Ended from outside (Ctrl-C, the system
    # out of memory), or by an error of Python's: that says nothing of the GPU.
    is_final = has_begun and code < 0 and code not in _ENDED
    return f"{begun}: the process ended with code {code}, {last or 'without a word'}", is_final


def _messages(child: subprocess.Popen) -> Iterator[dict]:
    """What the child tells, until it ends. Ends it, and raises TimeoutError, where a case takes too long."""
    while True:
        start_s, timer = time.monotonic(), threading.Timer(CASE_TIMEOUT_S, child.kill)
        timer.daemon = True
        timer.start()
        try:
            line = child.stdout.readline()
        finally:
            timer.cancel()
        if not line:
            if time.monotonic() - start_s >= CASE_TIMEOUT_S:
                raise TimeoutError
            return
        try:
            told = json.loads(line)
        except ValueError:
            continue  # other libraries may write there too
        if isinstance(told, dict):
            yield told


def _main(index: str) -> None:
    """Tells each case before it runs, and the fault at the end."""
    import torch

    def tell(**what) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    torch.cuda.set_device(int(index))
    try:
        fault = self_test("cuda", lambda begun, done, total: tell(begun=begun, done=done, total=total))
        tell(fault=fault, is_final=True)
    except MemoryError as error:
        tell(fault=str(error), is_final=False)


# ---- the test


def self_test(device: str = "cuda", begin: Progress | None = None, cases: list[Case] | None = None) -> str | None:
    """The first op that computes wrongly on the current GPU, and how; None where all cases are right.

    `cases` None are all there are; `begin(case, done, total)` is called before each. Raises MemoryError
    where the GPU has none left: others may be using it now.
    """
    cases = all_cases() if cases is None else cases
    if device != "cpu":
        _compile(cases, device, begin)
    for done, case in enumerate(cases):
        if begin:
            begin(str(case), done, len(cases))
        expected = _on_cpu(case)
        try:
            got, again = _on_gpu(case, device), _on_gpu(case, device)
        except Exception as error:  # whatever torch, Triton, the driver or an assert has to say is the verdict
            words = f"{case}: {first_line(error)}"
            if "out of memory" in words:
                raise MemoryError(words) from error
            return words
        for name, (relative, absolute) in case.written.items():
            fault = _compare(got[name], expected[name], relative, absolute)
            if fault:
                return f"{case}: {name} {fault}"
            parts = zip(_parts(got[name]), _parts(again[name]), strict=True)
            if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in parts):
                return f"{case}: {name} differs between two runs on the same input"
    return None


def _compile(cases: list[Case], device: str, begin: Progress | None) -> None:
    """All that the cases launch, side by side. What does not compile is left to its case, which will say so."""
    from rocforge.kernels import launch

    kernels = {}
    with contextlib.suppress(Exception):
        for case in cases:
            with launch.record() as program:
                _on_gpu(case, device)
            kernels |= {made.key: made for made in program.launches}
        found = [launch.Kernel(made) for made in kernels.values()]
        launch.compile_all(found, lambda done, total: begin and begin("compiling the kernels", done, total))


def _on_cpu(case: Case) -> dict[str, Any]:
    if case.exact is not None:
        return case.exact
    from rocforge.cpu.layout import matrix

    make = lambda blocks: matrix(blocks.data, blocks.format, len(blocks.data), blocks.columns)
    arguments = {name: _map(value, np.copy, make) for name, value in case.arguments.items()}
    _launcher("cpu", case.op)(**arguments)
    return {name: arguments[name] for name in case.written}


def _on_gpu(case: Case, device: str) -> dict[str, Any]:
    import torch

    from rocforge.kernels import repack
    from rocforge.kernels.layout import matrix

    make = lambda blocks: matrix(blocks.data, blocks.format, len(blocks.data), blocks.columns, device, repack.fill)
    to_device = lambda array: torch.from_numpy(np.copy(array)).to(device)
    arguments = {name: _map(value, to_device, make) for name, value in case.arguments.items()}
    _launcher("kernels", case.op)(**arguments)
    return {name: _back(arguments[name]) for name in case.written}


def _launcher(room: str, op: str) -> Callable[..., None]:
    if op == "chain":
        return {"cpu": _chain_on_cpu, "kernels": _chain_on_gpu}[room]
    return getattr(importlib.import_module(f"rocforge.{room}.{MODULES.get(op, op)}"), op)


def _chain_on_cpu(ops: Sequence, **arguments) -> None:
    from rocforge.cpu.backend import LAUNCHERS

    for kind, given in _bound(ops, arguments):
        LAUNCHERS[kind](**given)


def _chain_on_gpu(ops: Sequence, **arguments) -> None:
    from rocforge.kernels.backend import LAUNCHERS
    from rocforge.kernels.chain import launch_all

    launch_all(LAUNCHERS, _bound(ops, arguments))


def _bound(ops: Sequence, arguments: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The ops of a chain with the arguments that they name."""

    def bound(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(bound, value))
        return arguments[value] if isinstance(value, Of) else value

    return [(kind, {name: bound(value) for name, value in given.items()}) for kind, given in ops]


def _map(value: Any, array: Callable, matrix: Callable) -> Any:
    """The value with what each room makes of its arrays and blocks."""
    if isinstance(value, np.ndarray):
        return array(value)
    if isinstance(value, Blocks):
        return matrix(value)
    if isinstance(value, tuple):
        parts = [_map(part, array, matrix) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _back(value: Any) -> Any:
    return type(value)(*map(_back, value)) if isinstance(value, tuple) else value.cpu().numpy()


def _parts(value: Any) -> tuple[np.ndarray, ...]:
    return value if isinstance(value, tuple) else (value,)


def _compare(got: Any, expected: Any, relative: float, absolute: Any) -> str | None:
    """How `got` is off by more than allowed; None where it is not."""
    if isinstance(expected, (Q8, Q8Cache)):
        return _compare_8_bits(got, expected, relative)
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        off = np.where((got == expected) | np.isnan(got) & np.isnan(expected), 0.0, np.abs(got - expected))
        allowed = np.where(off == 0, 0.0, relative * np.abs(expected) + absolute)
        wrong = ~(off <= allowed)  # no number is within no bound
        if not wrong.any():
            return None
        at = np.unravel_index(np.argmax(np.where(wrong, np.nan_to_num(off - allowed, nan=np.inf), -np.inf)), off.shape)
    return f"differs by {off[at]:.3g} at {tuple(map(int, at))}, where {allowed[at]:.3g} is allowed"


def _compare_8_bits(got: Any, expected: Any, relative: float) -> str | None:
    """A number close to a half may be rounded either way: few values may be off by one. Sums are held against these."""
    fault = _compare(got.values, expected.values, 0, 1) or _compare(got.scales, expected.scales, relative, 0)
    if fault:
        return fault
    share = np.mean((got.values != expected.values)[expected.values != 0])
    if share > OFF_BY_ONE:
        return f"is rounded otherwise in {100 * share:.0f} % of the values, where {100 * OFF_BY_ONE:.0f} % are allowed"
    if isinstance(expected, Q8Cache):
        return None
    fault = _compare(got.sums, got.values.reshape(len(got.values), -1, 16).sum(2, dtype=np.int16), 0, 0)
    return fault and f"has sums of its values of which one {fault}"


if __name__ == "__main__":
    _main(*sys.argv[1:])
