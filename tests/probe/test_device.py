"""The choice of a device, with its reason."""

import pytest

from rocforge.errors import DeviceError, RequestError
from rocforge.probe import device
from rocforge.probe.gpu import AMD, GPU
from rocforge.probe.survey import Survey

GIB = 2**30
XTX = GPU(
    AMD, "AMD Radeon RX 7900 XTX", arch="gfx1100", driver_arch="gfx1100", index=1, matrix="v_wmma", dot="v_dot4_i32_iu8"
)  # fmt: skip
APU = GPU(AMD, "AMD Radeon Graphics", arch="gfx1036", index=0, passed_over="it is integrated, and the other is not")
CLOSED = GPU(AMD, "gfx1100", driver_arch="gfx1100", passed_over="no permission on /dev/kfd")


@pytest.fixture
def here(monkeypatch):
    """here(*gpus): what the survey finds; the verdicts it was given are in here.verdicts."""

    def set_gpus(*gpus):
        def survey(verdict=None):
            verdicts.append(verdict)
            return Survey(gpus, None, None, {})

        monkeypatch.setattr(device, "survey", survey)

    verdicts = set_gpus.verdicts = []
    monkeypatch.setattr(device, "free_bytes", lambda index: {1: 23 * GIB}[index])
    set_gpus()
    return set_gpus


@pytest.mark.parametrize("gpus", [(), (CLOSED,)], ids=["no GPU", "closed"])
def test_auto_takes_the_cpu_and_says_why(here, gpus):
    here(*gpus)
    chosen = device.choose("auto")
    assert chosen.kind == "cpu" and chosen.threads >= 1 and chosen.memory_bytes > 0 and chosen.index is None
    assert ("AMD gfx1100 is passed over: no permission on /dev/kfd" if gpus else "no GPU was found") in chosen.reason
    assert chosen.reason in str(chosen) and chosen.name in str(chosen)


@pytest.mark.parametrize("wanted", ["auto", "gpu"])
def test_a_gpu_is_taken_and_the_others_are_named(here, wanted):
    here(XTX, APU)
    chosen = device.choose(wanted, threads=3)
    assert (chosen.kind, chosen.name, chosen.index, chosen.threads) == ("gpu", "AMD Radeon RX 7900 XTX", 1, 3)
    assert chosen.memory_bytes == 23 * GIB and chosen.isa == ("gfx1100", "v_wmma", "v_dot4_i32_iu8")
    assert "AMD Radeon Graphics (gfx1036) is passed over: it is integrated" in chosen.reason
    assert str(chosen).startswith("gpu: AMD Radeon RX 7900 XTX, gfx1100 (")


def test_a_gpu_that_poses_as_another_is_told(here):
    here(GPU(AMD, "AMD Radeon RX 6600", arch="gfx1030", driver_arch="gfx1032", index=1))
    assert "it is gfx1032 and poses as gfx1030" in device.choose().reason


def test_verdict_is_passed_on(here):
    here(XTX)
    device.choose("gpu", verdict=len)
    assert here.verdicts == [len]


def test_cpu_as_asked_for_looks_at_no_gpu(here):
    here(XTX)
    chosen = device.choose("cpu", threads=3)
    assert chosen.kind == "cpu" and chosen.reason == "as asked for" and chosen.threads == 3
    assert here.verdicts == []


def test_huge_pages_are_a_cpu_s_and_only_where_the_system_gives_them(here, monkeypatch):
    monkeypatch.setattr(device.cpu, "gives_huge_pages", lambda: True)
    assert "threads, weights in huge pages (" in str(device.choose("cpu", 3, huge_pages=True))
    assert not device.choose("cpu").huge_pages
    here(XTX)
    assert not device.choose("gpu", huge_pages=True).huge_pages
    monkeypatch.setattr(device.cpu, "gives_huge_pages", lambda: False)
    device.choose("gpu", huge_pages=True)
    with pytest.raises(DeviceError, match="huge pages: this system gives none .*leave out --huge-pages"):
        device.choose("cpu", huge_pages=True)


@pytest.mark.parametrize(("gpus", "told"), [((), "no GPU was found"), ((CLOSED,), "no permission on /dev/kfd")])
def test_gpu_is_refused_with_reason_and_remedy(here, gpus, told):
    here(*gpus)
    with pytest.raises(DeviceError, match=f"device gpu: .*{told}.*use device cpu"):
        device.choose("gpu")


@pytest.mark.parametrize("arguments, named", [(("tpu",), "'tpu'.*auto, cpu, gpu"), (("cpu", 0), "threads is 0")])
def test_unknown_choice_is_refused(arguments, named):
    with pytest.raises(RequestError, match=named):
        device.choose(*arguments)
