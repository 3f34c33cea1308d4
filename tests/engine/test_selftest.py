"""The self-test: right kernels pass it, wrong ones are named, and what became of a test is remembered rightly."""

import importlib
import inspect
import stat

import numpy as np
import pytest

from rocforge.engine import selftest
from rocforge.engine.selftest import self_test, verdict
from rocforge.engine.selftest_cases import CASES, all_cases
from rocforge.gguf.formats import Q8, SUPPORTED, Q8Cache
from rocforge.plan.ir import CONTRACTS
from rocforge.probe import cache
from rocforge.probe.gpu import AMD, GPU
from rocforge.probe.runtime import Runtime
from tests.ops.rooms import make_room

XTX = GPU(AMD, "AMD Radeon RX 7900 XTX", arch="gfx1100", driver_arch="gfx1100", index=1)


# The chain of ops that kernels do two of at once.
JOINED = "linear, rms_norm, linear and rope_store, Q8_0"


def cases_of(op, *words):
    return [case for case in all_cases() if case.op == op and (not words or case.what.startswith(words))]


def test_every_kernel_is_tested():
    kinds = {kind for kind, contract in CONTRACTS.items() if contract.launched}
    assert set(CASES) == kinds | {"chain", "penalize", "sample"}
    wide = [case for case in cases_of("linear") if case.what.endswith(" 300 tokens")]
    assert len(cases_of("embed")) == len(SUPPORTED) and len(cases_of("linear")) == 2 * len(SUPPORTED) + len(wide)
    assert {case.what.split(",")[0] for case in wide} == {"Q8_0", "Q4_K", "Q6_K", "BF16"}, "in which large tiles are tried"


@pytest.mark.parametrize("op", CASES)
def test_right_kernels_pass(op):
    """In the interpreter, which is slow: of the formats a few. Whatever is computed, twice the same."""
    make_room("triton")
    words = {"linear": ("Q4_K, 2", "Q8_0", "F16"), "chain": ("rope_store", JOINED, "norms of"), "embed": ("Q5_0", "Q6_K", "BF16"), "sample": ("5 rows of 300",)}
    assert self_test("cpu", cases=cases_of(op, *words.get(op, ()))) is None


@pytest.mark.gpu
def test_this_gpu_passes():
    make_room("gpu")
    assert self_test() is None


# ---- faults


@pytest.fixture
def spoil(monkeypatch):
    """spoil(module, op, spoiler): after each launch of the op, spoiler(number of the launch, its arguments)."""
    make_room("triton")

    def put(module, op, spoiler):
        def spoilt(**arguments):
            launches.append(op)
            right(**arguments)
            spoiler(len(launches), arguments)

        launches = []
        home = importlib.import_module(f"rocforge.kernels.{module}")
        right = getattr(home, op)
        monkeypatch.setattr(home, op, spoilt)

    return put


def add(value):
    def spoiler(_launch, arguments):
        arguments["out"][-1, -1] += value

    return spoiler


@pytest.mark.parametrize("value", [300.0, float("nan"), float("inf")])
def test_one_wrong_number_is_found_and_named(spoil, value):
    spoil("matmul", "linear", add(value))
    fault = self_test("cpu", cases=cases_of("linear", "Q4_K, 2"))
    assert fault.startswith(f"linear (Q4_K, 2 tokens): out differs by {value:.3g} at (1, 36), where "), fault


def test_what_is_not_written_is_found(spoil):
    spoil("embed", "embed", lambda _, arguments: arguments["out"][0, 3:5].fill_(float("nan")))
    assert "embed (Q6_K): out differs by nan at (0, 3)" in self_test("cpu", cases=cases_of("embed", "Q6_K"))


def test_a_race_is_found(spoil):
    """Within what is allowed, but not the same twice."""
    spoil("embed", "embed", lambda n, arguments: arguments["out"].mul_(1 + n * 2.0**-23))
    assert self_test("cpu", cases=cases_of("embed", "F32")) == "embed (F32): out differs between two runs on the same input"


def halves_swapped(x):
    half = x.shape[1] // 2
    return x.roll(half, 1)


# What a wrong kernel might do, as the right one called wrongly: module, op, cases, changes of the arguments.
MISTAKES = {
    "another scale": ("attention", "attention", "float16, 72", {"scale": lambda x: 1.2 * x}),
    "no window": ("attention", "attention", "float16, 72", {"window": lambda _: 0}),
    "pages in another order": ("attention", "attention", "float16", {"page_table": lambda x: x.roll(1, 1).contiguous()}),
    "keys for values": ("attention", "attention", "float16", {"v_cache": lambda x: x.roll(1, 1).contiguous()}),
    "the other layout": ("rope", "rope_store", "half, float16", {"layout": lambda _: "interleaved"}),
    "no norm": ("rope", "rope_store", "half, float16", {"q_norm": lambda _: None, "k_norm": lambda _: None}),
    "another row of the page": ("rope", "rope_store", "half, float16", {"positions": lambda x: x + 1}),
    "float32 angles": ("rope", "rope_table", "", {"inv_freq": lambda x: x.float().double()}),
    "gate for up": ("activation", "swiglu", "", {"gate_up": halves_swapped}),
    "no epsilon": ("norm", "rms_norm", "rows of 100", {"eps": lambda _: 1e-3}),
    "a row too far": ("gather", "gather", "", {"rows": lambda x: (x + 1) % 7}),
    "no bias": ("matmul", "linear", "Q6_K, 2", {"bias": lambda _: None}),
    "no penalty": ("sample", "penalize", "", {"repetition": lambda x: x * 0 + 1}),
    "the next candidate": ("sample", "sample", "5 rows of 300", {"uniform": lambda x: x * 0.5}),
}


@pytest.mark.parametrize(("module", "op", "words", "changes"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_found(monkeypatch, module, op, words, changes):
    make_room("triton")
    home = importlib.import_module(f"rocforge.kernels.{module}")
    right = getattr(home, op)

    def wrong(**arguments):
        right(**{name: changes[name](value) if name in changes else value for name, value in arguments.items()})

    monkeypatch.setattr(home, op, wrong)
    fault = self_test("cpu", cases=cases_of(op, words))
    assert fault.startswith(f"{op} (") and " differs by " in fault, fault


# The same of launches that do several ops: module, what it calls, the beginning of the case, changes.
JOINED_MISTAKES = {
    "one position back": ("attention", "rope_attention", "half, float16", {"positions": lambda x: x - 1}),
    "the own key for the value": ("attention", "rope_attention", "half, 8 bits", {"qkv": lambda x: x.roll(2 * 64, 1)}),
    "no norm": ("attention", "rope_attention", "half, 8 bits", {"q_norm": lambda _: None, "k_norm": lambda _: None}),
    "a root of another norm": ("gemv_norm", "linear_norm", JOINED, {"eps": lambda x: 2 * x}),
    "no root": ("gemv_rope", "linear_rope", JOINED, {"root": lambda _: None}),
    "an x shifted": ("gemv_rope", "linear_rope", JOINED, {"x": lambda x: type(x)(x[0].roll(1, 1), *x[1:])}),
    "the other layout": ("gemv_rope", "linear_rope", JOINED, {"layout": lambda _: "interleaved"}),
    "no bias": ("gemv_rope", "linear_rope", JOINED, {"bias": lambda _: None}),
    "keys for values": ("gemv_rope", "linear_rope", JOINED, {"v_cache": lambda x: x.roll(1, 1) + 1}),
    "another row of the page": ("gemv_rope", "linear_rope", JOINED, {"positions": lambda x: x - 1}),
}


@pytest.mark.parametrize(("module", "called", "words", "changes"), JOINED_MISTAKES.values(), ids=JOINED_MISTAKES)
def test_mistakes_of_joined_launches_are_found(monkeypatch, module, called, words, changes):
    make_room("triton")
    home = importlib.import_module(f"rocforge.kernels.{module}")
    right = getattr(home, called)
    parameters = inspect.signature(right)

    def wrong(*args, **keywords):
        given = parameters.bind(*args, **keywords).arguments
        given |= given.pop("both", {})  # what is passed on
        return right(**{name: changes[name](value) if name in changes else value for name, value in given.items()})

    monkeypatch.setattr(home, called, wrong)
    fault = self_test("cpu", cases=[case for case in cases_of("chain") if words in case.what][:1])
    assert fault.startswith("chain (") and " differs by " in fault, fault


@pytest.mark.parametrize("format", ["Q4_K", "Q8_0"])
def test_weights_repacked_wrongly_are_found(monkeypatch, format):
    """The bits of a plane's last byte, moved to the next place each."""
    make_room("triton")
    from rocforge.kernels import repack

    right = repack.fill

    def wrong(matrix, raw, first=0):
        right(matrix, raw, first)
        bytes_ = matrix.planes.quants.view(-1).view(repack.torch.uint8)
        bytes_[-1] = (int(bytes_[-1]) << 1 | int(bytes_[-1]) >> 7) & 255

    monkeypatch.setattr(repack, "fill", wrong)
    assert self_test("cpu", cases=cases_of("linear", f"{format}, 2")).startswith(f"linear ({format}, 2 tokens): out differs by ")


def fail(words):
    def spoiler(_launch, _arguments):
        raise RuntimeError(words)

    return spoiler


def test_what_the_driver_says_is_the_fault(spoil):
    spoil("embed", "embed", fail("HIP error: invalid device function\nCompile with TORCH_USE_HIP_DSA"))
    assert self_test("cpu", cases=cases_of("embed", "F32")) == "embed (F32): HIP error: invalid device function"


def test_too_little_memory_is_no_fault_of_the_kernels(spoil):
    spoil("embed", "embed", fail("HIP out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(MemoryError, match="out of memory"):
        self_test("cpu", cases=cases_of("embed", "F32"))


def rounded(x, how):
    """Q8 of float32 [T, K], its values rounded by `how`."""
    blocks = x.reshape(len(x), -1, 32)
    scales = np.abs(blocks).max(2) / np.float32(127)
    values = how(blocks / scales[:, :, None]).astype(np.int8).reshape(x.shape)
    return Q8(values, scales, values.reshape(len(x), -1, 16).sum(2, dtype=np.int16))


def test_8_bits_may_be_rounded_otherwise_in_few_places_only():
    x = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    right = rounded(x, np.rint)
    compare = lambda got: selftest._compare(got, right, 1e-6, 0)
    assert compare(right) is None
    few = Q8(right.values.copy(), *right[1:])
    few.values[0, 0] += 1
    assert "sums of its values of which one differs by 1" in compare(few)
    few = Q8(few.values, right.scales, few.values.reshape(4, -1, 16).sum(2, dtype=np.int16))
    assert compare(few) is None
    assert "is rounded otherwise in" in compare(rounded(x, np.trunc))
    assert "differs by" in compare(Q8(right.values, right.scales * np.float32(1.001), right.sums))
    pages = Q8Cache(right.values.reshape(1, 1, 8, 128), right.scales.reshape(1, 1, 8, 4).astype(np.float16))
    assert selftest._compare(pages, pages, 0, 0) is None


# ---- the verdict


@pytest.fixture
def child(tmp_path, monkeypatch):
    """child(script): a shell script in place of the process that tests; child.runs holds a line for each run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.user_cache_dir.cache_clear()
    selftest._judged.clear()
    monkeypatch.setattr(selftest, "ask_torch", lambda: Runtime("2.9", "6.4", None, "3.5"))
    log = tmp_path / "runs"

    def put(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\necho $3 >> {log}\n{script}\n")
        file.chmod(file.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(selftest.sys, "executable", str(file))

    put.runs = lambda: log.read_text().split()
    put.next_process = selftest._judged.clear
    yield put
    selftest._judged.clear()
    cache.user_cache_dir.cache_clear()


BEGUN = """echo '{"begun": "attention (float16)", "done": 4, "total": 9}'\n"""
TOLD = BEGUN + "echo noise\n" + """echo '{"fault": %s, "is_final": %s}'"""


def test_a_pass_is_remembered(child):
    child(TOLD % ("null", "true"))
    told = []
    for _ in range(2):
        assert verdict(XTX, lambda *progress: told.append(progress)) is None
        child.next_process()
    assert child.runs() == ["1"] and told == [("self-test", 4, 9)]
    assert verdict(XTX, again=True) is None and child.runs() == ["1", "1"]


def test_a_fault_is_remembered_and_told_with_the_op(child):
    child(TOLD % ('"attention (float16): out differs by 3"', "true"))
    for _ in range(2):
        assert verdict(XTX).startswith("self-test failed: attention (float16): out differs by 3 (`rocforge probe --test`")
        child.next_process()
    assert child.runs() == ["1"]


ENDS = {
    "driver's abort": (BEGUN + "echo Memory access fault by GPU node-1 >&2; kill -6 $$", "ended with code -6, Memory access", 1),
    "hang": (BEGUN + "exec sleep 60", "attention (float16): no end after 0.5 s", 1),
    "too little memory": (TOLD % ('"embed: out of memory"', "false"), "embed: out of memory", 2),
    "no torch": ("echo ModuleNotFoundError >&2; exit 1", "the start: the process ended with code 1, ModuleNotFoundError", 2),
    "our own error": (BEGUN + "exit 1", "attention (float16): the process ended with code 1, without a word", 2),
    "killed": (BEGUN + "kill -9 $$", "ended with code -9", 2),
}


@pytest.mark.parametrize(("script", "told", "runs"), ENDS.values(), ids=ENDS)
def test_a_test_that_does_not_end_well(child, monkeypatch, script, told, runs):
    """A GPU that faults or hangs is remembered; what says nothing of the GPU is not."""
    monkeypatch.setattr(selftest, "CASE_TIMEOUT_S", 0.5)
    child(script)
    for _ in range(2):
        assert told in verdict(XTX) and told in verdict(XTX)  # once in a process, whatever came of it
        child.next_process()
    assert len(child.runs()) == runs


def test_another_driver_card_or_version_is_tested_anew(child, monkeypatch):
    child(TOLD % ("null", "true"))
    keys = {selftest._key(XTX)}
    monkeypatch.setattr(selftest, "driver_version", lambda vendor: "amdgpu 6.13")
    keys.add(selftest._key(XTX))
    monkeypatch.setattr(selftest, "ask_torch", lambda: Runtime("2.10", "6.4", None, "3.5"))
    keys.add(selftest._key(XTX))
    keys.add(selftest._key(GPU(AMD, XTX.name, arch="gfx1100", driver_arch="gfx1103", index=1)))
    assert len(keys) == 4


def test_the_real_child_without_a_gpu_decides_nothing():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    fault, is_final = selftest._test_in_child(0, None)
    assert fault.startswith("the start: the process ended with code 1, ") and not is_final
