"""What drivers, torch and Triton say, put together: which GPU is the best, and why each other is not used."""

import logging

import pytest

from rocforge.probe import survey as module
from rocforge.probe.compiler import Compiled
from rocforge.probe.gpu import AMD, GPU, NVIDIA
from rocforge.probe.runtime import Runtime
from rocforge.probe.survey import survey
from tests.probe.test_cpu import make
from tests.probe.trees import CUDA, GIB, PLAIN, amd_tree, node_files, rocm, torch_gpu

DESKTOP = (node_files(1, 110000), node_files(2, 100306, bus=0x13, minor=129, simds=4, vram_gib=1))  # RX 7900 and an APU's


@pytest.fixture
def look(tmp_path, monkeypatch):
    """look(runtime, *nodes, ...) -> Survey over a made-up tree; Triton compiles for all but `refused`."""

    def run(runtime, *nodes, verdict=None, environment=None, refused=(), tree=amd_tree):
        def ask(version, backend, arch, lanes):
            asked.append((backend, arch, lanes))
            return Compiled("unsupported target") if arch in refused else Compiled(None, "v_wmma", "v_dot4_i32_iu8")

        monkeypatch.setattr(module, "ask_torch", lambda: runtime)
        monkeypatch.setattr(module, "ask_triton", ask)
        return survey(verdict, tree(tmp_path, *nodes), environment or {})

    asked = run.asked = []
    return run


def test_one_gpu_with_all_its_facts(look):
    found = look(rocm(torch_gpu()))
    assert found.gpus == (
        GPU(
            AMD,
            "AMD Radeon RX 7900 XTX",
            arch="gfx1100",
            driver_arch="gfx1100",
            pci="0000:03:00.0",
            lanes=32,
            compute_units=96,  # the driver's; torch counts 48 pairs
            lds_bytes=64 * 1024,
            vram_bytes=24 * GIB,
            gtt_bytes=31 * GIB,
            is_integrated=False,
            index=0,
            matrix="v_wmma",
            dot="v_dot4_i32_iu8",
        ),
    )
    assert found.best is found.gpus[0] and look.asked == [("hip", "gfx1100", 32)]


def test_without_a_driver_torch_is_not_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ask_torch", lambda: pytest.fail("torch was asked"))
    found = survey(root=tmp_path, environment={})
    assert found.gpus == () and found.best is None and "no GPU was found" in found.why_no_gpu


NONE_SHOWN = {
    "no torch": (Runtime(fault="torch is not installed"), "torch is not installed: install torch's ROCm build"),
    "torch for CPUs": (PLAIN, r"torch 2\.13\.0\+cpu is built without ROCm: install torch's ROCm build, see docs/AMD.md"),
    "torch for NVIDIA": (CUDA, r"torch 2\.13\.0\+cu130 is built without ROCm: install"),
    "no HIP device": (rocm(fault="No HIP GPUs are available"), "torch 2.9.0.* cannot use it: No HIP GPUs are available"),
    "not shown": (rocm(), "torch 2.9.0.* does not show it"),
}


@pytest.mark.parametrize(("runtime", "told"), NONE_SHOWN.values(), ids=NONE_SHOWN)
def test_a_gpu_that_torch_lacks_is_told_with_the_remedy(look, runtime, told):
    import re

    found = look(runtime)
    assert found.best is None and re.search(told, found.gpus[0].passed_over), found.gpus[0].passed_over
    assert "gfx1100" in found.why_no_gpu


def test_variables_that_hide_a_gpu_are_named(look):
    found = look(rocm(), environment={"HIP_VISIBLE_DEVICES": "7"})
    assert "HIP_VISIBLE_DEVICES is '7'" in found.gpus[0].passed_over


def test_closed_device_file_is_the_reason_and_not_torch_s_words(look, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "no permission on /dev/kfd" in look(rocm(fault="No HIP GPUs are available")).gpus[0].passed_over


def test_discrete_comes_before_integrated(look):
    shown = (torch_gpu(0, "AMD Radeon Graphics", "gfx1036", is_integrated=True, memory_bytes=64 * GIB), torch_gpu(1))
    found = look(rocm(*shown), *DESKTOP)
    assert [(g.arch, g.index, g.compute_units) for g in found.gpus] == [("gfx1100", 1, 96), ("gfx1036", 0, 2)]
    assert found.gpus[1].passed_over == "it is integrated, and AMD Radeon RX 7900 XTX (gfx1100) is not"


def test_more_memory_comes_first_and_equals_keep_their_order(look):
    nodes = [node_files(n, 110000, bus=n, minor=127 + n, vram_gib=gib) for n, gib in ((1, 16), (2, 24), (3, 24))]
    found = look(rocm(*(torch_gpu(i, f"card {i}", memory_bytes=0) for i in range(3))), *nodes)
    assert [gpu.index for gpu in found.gpus] == [1, 2, 0]
    assert "comes after" in found.gpus[1].passed_over and "less memory" in found.gpus[2].passed_over


def test_pci_addresses_tell_which_is_which(look):
    """torch lists them the other way round."""
    nodes = [node_files(n, 110000, bus=n, minor=127 + n, vram_gib=gib) for n, gib in ((1, 16), (2, 24))]
    shown = (torch_gpu(0, "large", pci="0000:02:00.0"), torch_gpu(1, "small", pci="0000:01:00.0"))
    found = look(rocm(*shown), *nodes)
    assert [(g.name, g.vram_bytes // GIB) for g in found.gpus] == [("large", 24), ("small", 16)]


def test_one_of_two_is_hidden(look):
    found = look(rocm(torch_gpu()), *DESKTOP, environment={"ROCR_VISIBLE_DEVICES": "0"})
    assert found.best.arch == "gfx1100"
    assert found.gpus[1].driver_arch == "gfx1036" and "ROCR_VISIBLE_DEVICES" in found.gpus[1].passed_over


def test_the_compiler_s_refusal_is_told_in_its_words(look):
    found = look(rocm(torch_gpu()), refused=["gfx1100"])
    assert found.best is None
    assert "Triton 3.5.0 does not compile for gfx1100 (unsupported target)" in found.gpus[0].passed_over


def test_triton_is_absent(look):
    found = look(rocm(torch_gpu(), triton=None, triton_fault="Triton is not installed: it comes with torch's build"))
    assert "Triton is not installed" in found.gpus[0].passed_over


def test_torch_without_code_for_the_target(look):
    found = look(rocm(torch_gpu(arch="gfx1036"), arches=("gfx900", "gfx1030")), node_files(1, 100306))
    assert "has no code for gfx1036, only for gfx900 gfx1030" in found.gpus[0].passed_over
    assert look(rocm(torch_gpu(), arches=("gfx900", "gfx11-generic"))).best is not None


@pytest.mark.parametrize("name", ["HSA_OVERRIDE_GFX_VERSION", "HSA_OVERRIDE_GFX_VERSION_1"])
def test_override_is_noticed(look, caplog, name):
    """The driver tells what the card is, torch what it is taken for."""
    shown = torch_gpu(arch="gfx1030", name="AMD Radeon RX 6600")
    with caplog.at_level(logging.WARNING, logger="rocforge"):
        found = look(rocm(shown), node_files(1, 100302), environment={name: "10.3.0", "HSA_ENABLE_SDMA": "0"})
    assert found.overrides == {name: "10.3.0"} and f"{name} is 10.3.0" in caplog.text
    assert (found.best.driver_arch, found.best.arch) == ("gfx1032", "gfx1030") and look.asked == [("hip", "gfx1030", 32)]


def test_verdict_rejects_the_best(look):
    """The next one is asked, the rest are not."""
    nodes = [node_files(n, 110000, bus=n, minor=127 + n) for n in (1, 2, 3)]
    asked = []

    def verdict(gpu):
        asked.append(gpu.index)
        return "self-test failed: attention" if gpu.index == 0 else None

    found = look(rocm(*(torch_gpu(i) for i in range(3))), *nodes, verdict=verdict)
    assert asked == [0, 1] and found.best.index == 1
    assert [gpu.passed_over for gpu in found.gpus][0] == "self-test failed: attention"
    assert "comes after" in found.gpus[2].passed_over


def test_device_whose_driver_s_files_are_hidden(look):
    found = look(rocm(torch_gpu(0), torch_gpu(1, "AMD Instinct MI210", "gfx90a", lanes=64, units=104)))
    assert [(g.name, g.compute_units) for g in found.gpus if g.arch == "gfx90a"] == [("AMD Instinct MI210", 104)]


@pytest.mark.parametrize("pci", [None, "0000:01:00.0"])
def test_nvidia_gpu(look, pci):
    """In a container that has the device and not the driver's pages."""

    def tree(root):
        return make(root, {"dev/nvidia0": "", "sys/module/nvidia/version": "570.1\n"})

    shown = torch_gpu(0, "NVIDIA H200", "sm90", units=132, memory_bytes=141 * GIB, pci=pci)
    found = look(Runtime(torch="2.13.0", cuda="13.0", triton="3.9.0", devices=(shown,)), tree=tree)
    (gpu,) = found.gpus
    assert (gpu.vendor, gpu.name, gpu.arch, gpu.compute_units) == (NVIDIA, "NVIDIA H200", "sm90", 132)
    assert look.asked == [("cuda", "sm90", 32)] and found.driver == "nvidia 570.1"
