"""GPUs as their drivers' files show them, on made-up system trees."""

import os

import pytest

from rocforge.probe.gpu import AMD, GPU, NVIDIA, driver_version, find_gpus, gfx_name
from tests.probe.test_cpu import make
from tests.probe.trees import GIB, amd_tree, node_files


@pytest.mark.parametrize(
    "version, name",
    [(90006, "gfx906"), (90010, "gfx90a"), (90402, "gfx942"), (100300, "gfx1030"), (110000, "gfx1100")],
)
def test_gfx_name(version, name):
    assert gfx_name(version) == name


def test_facts_of_an_amd_gpu(tmp_path):
    (gpu,) = find_gpus(amd_tree(tmp_path))
    assert gpu == GPU(
        AMD,
        "gfx1100",
        driver_arch="gfx1100",
        pci="0000:03:00.0",
        lanes=32,
        compute_units=96,
        lds_bytes=64 * 1024,
        vram_bytes=24 * GIB,
        gtt_bytes=31 * GIB,
    )


def test_memory_by_amdkfd_where_drm_is_silent(tmp_path):
    files = node_files(1, version=110000)
    files = {path: text for path, text in files.items() if "mem_info" not in path}
    bank = "sys/class/kfd/kfd/topology/nodes/1/mem_banks"
    files[f"{bank}/0/properties"] = f"heap_type 1\nsize_in_bytes {16 * GIB}\nflags 0\n"
    files[f"{bank}/1/properties"] = f"heap_type 0\nsize_in_bytes {64 * GIB}\nflags 0\n"  # the system's
    (gpu,) = find_gpus(make(tmp_path, files))
    assert gpu.vram_bytes == 16 * GIB and gpu.gtt_bytes is None


def test_what_is_not_told_is_unknown(tmp_path):
    """A driver that tells the target and nothing else."""
    make(tmp_path, {"sys/class/kfd/kfd/topology/nodes/1/properties": "gfx_target_version 90010\n", "dev/kfd": ""})
    assert find_gpus(tmp_path) == (GPU(AMD, "gfx90a", driver_arch="gfx90a"),)


def test_amd_gpus_in_the_driver_s_order(tmp_path):
    """Node 0 is a CPU; 10 comes after 2."""
    for node, version in {0: 0, 10: 90402, 2: 110000}.items():
        make(tmp_path, node_files(node, version))
    assert [gpu.name for gpu in find_gpus(tmp_path)] == ["gfx1100", "gfx942"]


def test_node_without_properties_is_passed_over(tmp_path):
    """A container may hide a node's properties, and the file is then empty."""
    nodes = "sys/class/kfd/kfd/topology/nodes"
    make(tmp_path, {f"{nodes}/0/properties": "", f"{nodes}/1/name": "hidden\n"})
    assert find_gpus(tmp_path) == ()


def test_device_files_that_are_absent(tmp_path):
    root = amd_tree(tmp_path)
    (root / "dev/dri/renderD128").unlink()
    assert "there is no /dev/dri/renderD128" in find_gpus(root)[0].passed_over
    (root / "dev/kfd").unlink()
    reason = find_gpus(root)[0].passed_over
    assert "there is no /dev/kfd" in reason and "--device /dev/kfd" in reason


def test_device_files_that_are_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("kfd"))
    reason = find_gpus(amd_tree(tmp_path))[0].passed_over
    assert "no permission on /dev/kfd" in reason and "groups render and video" in reason


def test_amd_gpu_without_the_compute_driver(tmp_path):
    """Seen on the PCI bus alone; network cards and other makers' GPUs are none."""
    pci = "sys/bus/pci/devices"
    make(
        tmp_path,
        {
            f"{pci}/0000:03:00.0/vendor": "0x1002\n", f"{pci}/0000:03:00.0/class": "0x030000\n",
            f"{pci}/0000:03:00.0/device": "0x744c\n",
            f"{pci}/0000:03:00.1/vendor": "0x1002\n", f"{pci}/0000:03:00.1/class": "0x040300\n",
            f"{pci}/0000:04:00.0/vendor": "0x8086\n", f"{pci}/0000:04:00.0/class": "0x030000\n",
        },
    )  # fmt: skip
    (gpu,) = find_gpus(tmp_path)
    assert gpu.vendor == AMD and gpu.pci == "0000:03:00.0" and "0x744c" in gpu.name
    assert "/dev/kfd" in gpu.passed_over and "amdgpu" in gpu.passed_over


def test_a_gpu_with_a_driver_is_not_counted_twice(tmp_path):
    pci = "sys/bus/pci/devices/0000:03:00.0"
    make(tmp_path, {f"{pci}/vendor": "0x1002\n", f"{pci}/class": "0x038000\n"})
    assert len(find_gpus(amd_tree(tmp_path))) == 1


def test_nvidia_gpu(tmp_path):
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 11\n"
    make(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": information, "dev/nvidia0": ""})
    assert find_gpus(tmp_path) == (GPU(NVIDIA, "H200", pci="0000:01:00.0"),)


def test_nvidia_devices_without_the_driver_s_pages(tmp_path):
    """As in some containers; nvidiactl and nvidia-uvm are no GPUs."""
    make(tmp_path, {f"dev/{name}": "" for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm")})
    assert [gpu.name for gpu in find_gpus(tmp_path)] == ["/dev/nvidia0", "/dev/nvidia1"]


def test_no_driver_no_gpu(tmp_path):
    assert find_gpus(tmp_path) == ()


def test_driver_versions(tmp_path):
    assert driver_version(AMD, tmp_path) is None and driver_version(NVIDIA, tmp_path) is None
    make(tmp_path, {"proc/sys/kernel/osrelease": "6.8.0-45\n", "sys/module/nvidia/version": "570.1\n"})
    assert driver_version(AMD, tmp_path) == "amdgpu of Linux 6.8.0-45" and driver_version(NVIDIA, tmp_path) == "nvidia 570.1"
    make(tmp_path, {"sys/module/amdgpu/version": "6.12.12\n"})
    assert driver_version(AMD, tmp_path) == "amdgpu 6.12.12"


def test_how_a_gpu_is_called():
    assert str(GPU(AMD, "AMD Radeon RX 7900 XTX", arch="gfx1100")) == "AMD Radeon RX 7900 XTX (gfx1100)"
    assert str(GPU(AMD, "gfx1100", driver_arch="gfx1100")) == "AMD gfx1100"
    assert str(GPU(NVIDIA, "H200")) == "NVIDIA H200"
