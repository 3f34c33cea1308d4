"""That each op's time is its own, and that they add up to the step's."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

from rocforge import LLM
from rocforge.cpu import peaks
from rocforge.cpu.backend import Backend
from rocforge.cpu.threads import launch
from rocforge.engine.profile import limits, profile

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def backend():
    backend = Backend(1)  # of several threads the last decides, and others may use its core
    yield backend
    backend.close()


def test_a_launch_is_timed_in_its_place(backend):
    """Three launches take three times as long as one, an op without launches next to nothing, all together the whole."""
    x, out = np.linspace(1e-3, 2e-3, 192, dtype=np.float32), peaks._out()
    work = lambda: launch(peaks.multiply_floats, x, out)
    several = lambda: [work() for _ in range(3)]
    run = backend.profile([work, several, lambda: None, work])
    run()
    found = []
    for _ in range(25):
        start_s = time.perf_counter()
        times_s = run()
        whole_s = time.perf_counter() - start_s
        found.append((*times_s, whole_s - sum(times_s)))
    # What disturbs makes it longer. The rest is of one run each: the least times of several runs are less than any whole.
    one, three, none, last, rest = np.min(found, axis=0)
    assert three == pytest.approx(3 * one, rel=0.1) and last == pytest.approx(one, rel=0.1)
    assert 0 <= none < 0.01 * one
    assert 0 <= rest < 0.05 * (one + three + last)


def test_limits_are_the_machines(backend):
    found = limits(backend, "cpu", 32 << 20, 300 << 10)
    assert [size for size, _ in found.caches] == [64 << 10, 256 << 10, 1 << 20]
    assert found.cache_bytes_per_s(1000) >= found.cache_bytes_per_s(300 << 10) > found.memory_bytes_per_s > 1e8
    assert found.matrix_ops_per_s > found.vector_ops_per_s > 1e9
    assert found.matrix_unit and found.memory_working_set_bytes == 32 << 20


def test_ops_add_up_to_the_step():
    """Within 5 % beyond it; of three tries one, since others may use the machine."""
    calls = []
    with LLM(device="cpu", context=320, sequences=1, chunk_tokens=64) as llm:
        for _ in range(3):
            found = profile(llm.runner, "cpu", llm.config.vocab_size, 64, 256, 7, lambda *call: calls.append(call))
            if -0.05 * found["step_s"] <= found["between_s"] <= 0.2 * found["step_s"]:
                break
        else:
            pytest.fail(f"ops {found['ops_s']}, step {found['step_s']}")
        assert len(found["ops"]) == len(llm.plan.ops)
    assert sum(line["time_s"] for line in found["groups"]) + found["between_s"] == pytest.approx(found["step_s"])
    assert sum(line["launches"] for line in found["groups"]) == len(found["ops"])
    # A single op may be shorter than reading the clock is exact, where others use the machine.
    assert all(op["time_s"] >= 0 and op["bound_s"] >= 0 for op in found["ops"])
    assert sum(op["time_s"] for op in found["ops"] if op["op"] == "linear") > 0.2 * found["ops_s"] > 0
    losses = [line["loss_s"] for line in found["groups"]]
    assert losses == sorted(losses, reverse=True)
    assert {stage for stage, _, _ in calls} == {"measuring the limits", "profiling the step"}


# ---- the GPU's, from what torch's profiler tells


def event(name, start_us, end_us):
    return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start_us, elapsed_us=lambda: end_us - start_us))


def test_events_of_a_graph_become_the_times_of_ops():
    durations = pytest.importorskip("rocforge.kernels.durations", reason="torch or triton is absent")
    events = [
        event("gemv", 30, 45), event("Memcpy HtoD (Pinned -> Device)", 0, 5), event("norm", 10, 12), event("gemv", 20, 29),
        event("cudaGraphLaunch", 0, 50),
    ]  # fmt: skip
    found = durations.by_op(events, ["norm", "gemv", "gemv"], [1, 0, 2])
    assert found == pytest.approx([2e-6, 0, 24e-6])


def test_a_profiler_that_misses_kernels_is_told():
    durations = pytest.importorskip("rocforge.kernels.durations", reason="torch or triton is absent")
    from rocforge.errors import DeviceError

    for names in (["norm", "gemv"], ["gemv", "norm", "norm"]):
        with pytest.raises(DeviceError, match="torch's profiler"):
            durations.by_op([event("norm", 10, 12), event("gemv", 20, 29), event("norm", 40, 41)], names, [2])


def test_the_gpus_limits_are_measured_the_same_way(monkeypatch):
    """On tensors of the CPU: the logic, not the speed."""
    gpu = pytest.importorskip("rocforge.kernels.peaks", reason="torch or triton is absent")
    from rocforge.kernels.backend import Backend as GPUBackend

    monkeypatch.setattr(gpu, "LEAST_BYTES", 1 << 20)
    found = limits(GPUBackend("cpu"), "gpu", 4 << 20, 1, None)
    assert [size for size, _ in found.caches] == [1 << 20] and found.memory_working_set_bytes == 4 << 20
    assert min(found.memory_bytes_per_s, found.matrix_ops_per_s, found.vector_ops_per_s) > 0


def test_the_gpus_profile_knows_whose_each_launch_is(monkeypatch):
    """What is recorded for each op, without running it."""
    room = pytest.importorskip("rocforge.kernels.backend", reason="torch or triton is absent")
    import torch

    from rocforge.gguf.formats import Q8

    x = torch.zeros(4, 64)
    q8 = Q8(torch.zeros(4, 64, dtype=torch.int8), torch.zeros(4, 2), torch.zeros(4, 4, dtype=torch.int16))
    quantize = lambda: room.LAUNCHERS["quantize"](x=x, out=q8)
    given = []
    monkeypatch.setattr(room.durations, "measure", lambda run, wait, launches, counts: given.append((len(launches), counts)))
    room.Backend("cpu").profile([quantize, lambda: None, lambda: [quantize(), quantize()]])()
    assert given == [(3, [1, 0, 2])]


@pytest.mark.gpu
def test_on_a_gpu_ops_add_up_to_the_step():
    """By torch's profiler over a replayed graph; of three tries one within 5 %."""
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that this torch can use")
    with LLM(device="gpu", context=320, sequences=1, chunk_tokens=64) as llm:
        for tokens in (1, 64):
            for _ in range(3):
                found = profile(llm.runner, "gpu", llm.config.vocab_size, tokens, 256, 7)
                if found["between_s"] >= -0.05 * found["step_s"]:
                    break
            else:
                pytest.fail(f"ops {found['ops_s']}, step {found['step_s']}")
            assert all(op["time_s"] > 0 for op in found["ops"])  # each is a kernel that was traced


@pytest.mark.gpu
def test_on_a_gpu_ops_are_timed_and_right():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU that this torch can use")
    from rocforge.engine import micro, standard
    from rocforge.gguf.formats import Q4_K
    from rocforge.kernels.backend import LAUNCHERS
    from rocforge.kernels.backend import Backend as GPUBackend

    cases = micro.cases([standard.plan_of("gpu", Q4_K)], "gpu", (1, 512), (0, 4096))
    _, *rows, _ = micro.run(cases, GPUBackend("cuda"), LAUNCHERS, "gpu", 1, 5)
    assert len(rows) == len(cases)
    for row in rows:
        assert row["of_bound"] <= 1.1, row
        assert row["op"] != "linear" or row["error"] < (1e-5 if row["tokens"] == 1 else 1e-2), row
        assert (row["peer_s"] is None) == (row["op"] not in ("linear", "attention"))
