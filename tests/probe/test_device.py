"""GPUs as drivers show them, on made-up system trees; and the choice of a device with its reason."""

import pytest

from rocforge.errors import DeviceError, RequestError
from rocforge.probe import device
from rocforge.probe.gpu import GPU, find_gpus, gfx_name
from tests.probe.test_cpu import make

NODES = "sys/class/kfd/kfd/topology/nodes"


@pytest.mark.parametrize(
    "version, name",
    [(90006, "gfx906"), (90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (110000, "gfx1100")],
)
def test_gfx_name(version, name):
    assert gfx_name(version) == name


def test_amd_gpus_in_the_driver_s_order(tmp_path):
    """Node 0 is a CPU; 10 comes after 2."""
    nodes = {0: 0, 10: 90402, 2: 110000}
    for node, version in nodes.items():
        properties = f"cpu_cores_count 0\ngfx_target_version {version}\nvendor_id 4098\n"
        make(tmp_path, {f"{NODES}/{node}/properties": properties})
    assert find_gpus(tmp_path) == (GPU("AMD", "gfx1100"), GPU("AMD", "gfx942"))


def test_node_without_properties_is_passed_over(tmp_path):
    """A container may hide a node's properties, and the file is then empty."""
    make(tmp_path, {f"{NODES}/0/properties": "", f"{NODES}/1/name": "hidden\n"})
    assert find_gpus(tmp_path) == ()


def test_nvidia_gpu(tmp_path):
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 11\n"
    make(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": information})
    assert find_gpus(tmp_path) == (GPU("NVIDIA", "H200"),)


def test_no_driver_no_gpu(tmp_path):
    assert find_gpus(tmp_path) == ()


@pytest.fixture(params=[(), (GPU("AMD", "gfx1100"),)], ids=["no GPU", "gfx1100"])
def gpus(request, monkeypatch):
    monkeypatch.setattr(device, "find_gpus", lambda: request.param)
    return request.param


def test_auto_takes_the_cpu_and_says_why(gpus):
    chosen = device.choose("auto")
    assert chosen.kind == "cpu" and chosen.threads >= 1 and chosen.memory_bytes > 0
    assert "no GPU kernels yet" in chosen.reason
    assert ("gfx1100" if gpus else "no GPU was found") in chosen.reason
    assert chosen.reason in str(chosen) and chosen.name in str(chosen)


def test_cpu_as_asked_for(gpus):
    chosen = device.choose("cpu", threads=3)
    assert chosen.kind == "cpu" and chosen.reason == "as asked for" and chosen.threads == 3


def test_gpu_is_refused_with_reason_and_remedy(gpus):
    with pytest.raises(DeviceError, match=r"no GPU kernels yet.*use device cpu"):
        device.choose("gpu")


@pytest.mark.parametrize("arguments, named", [(("tpu",), "'tpu'.*auto, cpu, gpu"), (("cpu", 0), "threads is 0")])
def test_unknown_choice_is_refused(arguments, named):
    with pytest.raises(RequestError, match=named):
        device.choose(*arguments)
