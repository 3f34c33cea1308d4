"""`rocforge probe`, as text and as JSON, over made-up surveys."""

import dataclasses
import json

import pytest

from rocforge.cli import main
from rocforge.commands import probe as command
from rocforge.probe import device
from rocforge.probe.gpu import AMD, GPU
from rocforge.probe.survey import Survey
from tests.probe.trees import GIB, rocm

XTX = GPU(
    AMD, "AMD Radeon RX 7900 XTX", arch="gfx1100", driver_arch="gfx1100", pci="0000:03:00.0", lanes=32, compute_units=96,
    lds_bytes=65536, vram_bytes=24 * GIB, gtt_bytes=31 * GIB, is_integrated=False, index=0, matrix="v_wmma", dot="v_dot4_i32_iu8",
)  # fmt: skip
APU = GPU(AMD, "gfx1036", driver_arch="gfx1036", passed_over="torch has no code for it")


@pytest.fixture
def run(monkeypatch, capsys):
    def call(found, *arguments):
        def survey(verdict):
            seen.append(verdict)
            return found

        monkeypatch.setattr(command, "survey", survey)
        code = main(["probe", *arguments])
        return code, capsys.readouterr().out

    seen = call.verdicts = []
    monkeypatch.setattr(command, "try_isa", lambda: ("avx2", "no host has this"))
    monkeypatch.setattr(command, "read_bytes_per_s", lambda threads: 27.4e9)
    monkeypatch.setattr(device, "free_bytes", lambda index: 23 * GIB)
    return call


NOTHING = Survey((), None, None, {})
DESKTOP = Survey((XTX, APU), rocm(), "amdgpu 6.12", {"HSA_OVERRIDE_GFX_VERSION": "11.0.0"})


def test_no_gpu(run):
    code, out = run(NOTHING)
    assert code == 0
    for told in ("device   cpu: ", "no GPU was found", "GPUs     none found", "27 GB/s", "torch was not asked"):
        assert told in out
    assert "but is not reported: " in out and "override" not in out


def test_gpus_with_facts_and_reasons(run):
    code, out = run(DESKTOP)
    assert code == 0
    for told in (
        "device   gpu: AMD Radeon RX 7900 XTX",
        "memory   23.0 GiB available",
        "GPU      AMD Radeon RX 7900 XTX (gfx1100), used",
        "wave of 32, 96 compute units, LDS 64 KiB, VRAM 24.0 GiB, GTT 31.0 GiB, discrete, at 0000:03:00.0",
        "matrix instructions v_wmma, dot instructions v_dot4_i32_iu8",
        "GPU      AMD gfx1036, passed over: torch has no code for it",
        "wave of unknown, unknown compute units, LDS unknown, VRAM unknown",
        "torch 2.9.0+rocm6.4, hip 6.4.43484, cuda absent, triton 3.5.0, driver amdgpu 6.12",
        "HSA_OVERRIDE_GFX_VERSION is 11.0.0",
    ):
        assert told in out, told


@pytest.mark.parametrize("found", [NOTHING, DESKTOP], ids=["no GPU", "two"])
def test_json_holds_the_same(run, found):
    code, out = run(found, "--json")
    told = json.loads(out)
    assert code == 0 and told["gpus"] == [dataclasses.asdict(gpu) for gpu in found.gpus]
    assert told["device"]["kind"] == ("gpu" if found.gpus else "cpu") and told["device"]["reason"]
    assert told["cpu"]["isa_ran"] == ["avx2", "no host has this"] and told["cpu"]["read_bytes_per_s"] == 27.4e9
    assert told["overrides"] == found.overrides and told["versions"]["rocforge"]
    assert told["versions"].get("hip") == (found.runtime and found.runtime.hip)


@pytest.mark.parametrize("flags", [(), ("--test",)])
def test_self_test_is_the_verdict(run, flags):
    run(NOTHING, *flags)
    (verdict,) = run.verdicts
    assert verdict.keywords["again"] is bool(flags)
