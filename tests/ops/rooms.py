"""One call for both rooms: an op by its name over numpy arrays, whatever the room computes with.

`cpu` is Numba. `triton` is the Triton kernels, in Triton's interpreter or, under `pytest -m gpu`, on
the GPU: arrays are copied to its device, and what the kernel wrote is copied back into them.
"""

import importlib
from typing import NamedTuple

import numpy as np
import pytest

from rocforge.probe.book import TRIED

# Modules of either room, by op; those not named here are called as their op.
MODULES = {
    "rms_norm": "norm", "swiglu": "activation", "linear": "matmul", "rope_store": "rope", "rope_table": "rope",
    "penalize": "sample",
}  # fmt: skip


# Sizes that no kernel of the CPU has by default, for all of them.
BLOCKINGS = (
    {"PANELS": 1, "SHARES": 1, "AHEAD": 1, "ROWS": 1}, {"PANELS": 3, "SHARES": 5, "AHEAD": 7, "ROWS": 12},
    {"PANELS": 64, "SHARES": 99, "AHEAD": 999, "ROWS": 4000},
)  # fmt: skip


class Blocked(NamedTuple):
    """In a book's place (probe/book.py): these sizes for every launch."""

    sizes: dict[str, int]

    def find(self, key, kernel, fields):
        return {name: self.sizes[name] for name in fields}, TRIED


class CPURoom:
    """The Numba kernels."""

    name = "cpu"
    is_slow = False

    def __getattr__(self, op):
        return getattr(importlib.import_module(f"rocforge.cpu.{MODULES.get(op, op)}"), op)

    def matrix(self, data, format, rows, columns):
        from rocforge.cpu.layout import matrix

        return matrix(data, format, rows, columns)

    def launch_all(self, ops):
        """Ops one after the other: (kind, its launcher's keywords) each."""
        from rocforge.cpu.backend import LAUNCHERS

        for kind, given in ops:
            LAUNCHERS[kind](**given)


class TritonRoom:
    """The Triton kernels, over copies of the arrays on `device`."""

    name = "triton"

    def __init__(self, device):
        self.device = device
        self.is_slow = device == "cpu"  # the interpreter: small cases only

    def __getattr__(self, op):
        launcher = getattr(importlib.import_module(f"rocforge.kernels.{MODULES.get(op, op)}"), op)

        def call(*args, **keywords):
            copies = []
            args = [self._to(a, copies) for a in args]
            keywords = {k: self._to(v, copies) for k, v in keywords.items()}
            launcher(*args, **keywords)
            self._back(copies)

        return call

    def launch_all(self, ops):
        """Ops one after the other, or neighbours by one launch: (kind, its launcher's keywords) each. What is launched is
        recorded first; -> the kernels' names. An array that is in several ops is one tensor."""
        from rocforge.kernels.backend import LAUNCHERS
        from rocforge.kernels.chain import launch_all
        from rocforge.kernels.launch import record

        copies = []
        ops = [(kind, {name: self._to(value, copies) for name, value in given.items()}) for kind, given in ops]
        with record() as program:
            launch_all(LAUNCHERS, ops)
        program.run()
        self._back(copies)
        return [made.kernel.__name__ for made in program.launches]

    def most_few_tokens(self):
        """Up to so many tokens `linear` multiplies in integers, lane by lane."""
        from rocforge.kernels.gemv import most_tokens

        return most_tokens()

    def matrix(self, data, format, rows, columns):
        from rocforge.kernels.layout import matrix

        return matrix(data, format, rows, columns, device=self.device)

    def _back(self, copies):
        for array, tensor in copies:
            if array.flags.writeable:
                array[...] = tensor.cpu().numpy()

    def _to(self, value, copies):
        import torch

        if isinstance(value, np.ndarray):
            known = [tensor for array, tensor in copies if array is value]
            if known:
                return known[0]
            # A strided view keeps its strides: launchers read them.
            base = value.base if isinstance(value.base, np.ndarray) and value.base.ndim == value.ndim else value
            tensor = torch.from_numpy(np.array(value, copy=True)).to(self.device)
            if base is not value and value.ndim == 2 and value.strides[-1] == value.itemsize:
                stride = value.strides[0] // value.itemsize
                wide = torch.empty((len(value), stride), dtype=tensor.dtype, device=self.device)
                wide[:, : value.shape[1]] = tensor
                tensor = wide[:, : value.shape[1]]
            copies.append((value, tensor))
            return tensor
        if isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
            parts = [self._to(v, copies) for v in value]
            return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
        return value


@pytest.fixture(scope="session", params=["cpu", "triton", pytest.param("gpu", marks=pytest.mark.gpu)])
def room(request):
    """CPURoom, TritonRoom in the interpreter, and under -m gpu TritonRoom on the GPU."""
    return make_room(request.param)


def make_room(name):
    if name == "cpu":
        return CPURoom()
    torch = pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
    triton = pytest.importorskip("triton", reason="triton is absent: pip install triton")
    if name == "gpu":
        if triton.knobs.runtime.interpret:
            pytest.skip("Triton interprets in this process; run pytest -m gpu by itself")
        if not torch.cuda.is_available():
            pytest.skip("no GPU that this torch can use")
        return TritonRoom("cuda")
    assert triton.knobs.runtime.interpret, "conftest.py turns the interpreter on unless -m gpu is given"
    return TritonRoom("cpu")
