"""Two rooms, one contract: each launcher has its twin, and the twins are called alike."""

import inspect

import pytest

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.cpu import backend as cpu  # noqa: E402
from rocforge.cpu import sample as cpu_sample  # noqa: E402
from rocforge.kernels import backend as gpu  # noqa: E402
from rocforge.kernels import sample as gpu_sample  # noqa: E402
from rocforge.plan.ir import CONTRACTS  # noqa: E402

TWINS = {kind: (cpu.LAUNCHERS[kind], gpu.LAUNCHERS[kind]) for kind in cpu.LAUNCHERS}
TWINS |= {name: (getattr(cpu_sample, name), getattr(gpu_sample, name)) for name in ("sample", "penalize")}


def parameters(function):
    """Names, order, kinds and defaults; annotations differ, as arrays do."""
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", TWINS)
def test_twins_are_called_alike(name):
    one, other = TWINS[name]
    assert one.__name__ == other.__name__ == name
    assert parameters(one) == parameters(other)


@pytest.mark.parametrize("name", TWINS)
def test_twins_live_in_files_of_one_name(name):
    one, other = TWINS[name]
    assert one.__module__ == other.__module__.replace("kernels", "cpu")


def test_every_kind_of_op_has_a_kernel_in_both_rooms():
    launched = {kind for kind, contract in CONTRACTS.items() if contract.launched}
    assert launched == set(cpu.LAUNCHERS) == set(gpu.LAUNCHERS)


@pytest.mark.parametrize("kind", cpu.LAUNCHERS)
def test_launchers_take_what_the_contract_names(kind):
    contract = CONTRACTS[kind]
    names = {*contract.inputs, *contract.outputs, *contract.weights, *contract.updates, *contract.attrs}
    assert set(inspect.signature(cpu.LAUNCHERS[kind]).parameters) == names


def test_backends_offer_the_runner_the_same():
    methods = lambda room: {n for n, f in vars(room.Backend).items() if callable(f) and not n.startswith("_")}
    assert methods(cpu) == methods(gpu)
    for name in methods(cpu):
        assert parameters(getattr(cpu.Backend, name)) == parameters(getattr(gpu.Backend, name)), name
