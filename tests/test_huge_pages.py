"""Weights copied into huge pages: the same bits, memory that is what it says, and one line where there is none."""

import gc
import json
import mmap
import subprocess
import sys

import gguf
import numpy as np
import pytest

from rocforge import LLM
from rocforge.cpu import pages
from rocforge.cpu.backend import Backend
from rocforge.errors import CapacityError, DeviceError
from rocforge.gguf.formats import F32
from rocforge.llm import BUILTIN, draw
from rocforge.probe import cpu
from tests.paths import ROOT

TOKENS = list(range(40))
here = pytest.mark.skipif(not cpu.gives_huge_pages(), reason="this system gives no huge pages: transparent ones are off or unknown")


def huge_bytes():
    return sum(n for _, _, n in cpu.huge_mappings())


@pytest.fixture(scope="module")
def mapped_logits():
    with LLM(device="cpu", context=64, huge_pages=False) as llm:
        return llm.logits(TOKENS)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """The built-in model in several files; the path of the last."""
    directory, source = tmp_path_factory.mktemp("split"), gguf.GGUFReader(BUILTIN)
    architecture = "general.architecture"
    writer = gguf.GGUFWriter(directory / "model.gguf", source.fields[architecture].contents(), split_max_tensors=20)
    for name, held in source.fields.items():
        if not name.startswith("GGUF.") and name != architecture:
            writer.add_key_value(name, held.contents(), held.types[0], held.types[-1] if len(held.types) > 1 else None)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parts = sorted(directory.glob("*.gguf"))
    assert len(parts) > 2
    return parts[-1]


@here
@pytest.mark.parametrize("is_split", [False, True], ids=["one file", "several"])
def test_logits_are_the_same_to_the_last_bit(mapped_logits, split, is_split):
    with LLM(split if is_split else None, device="cpu", context=64, huge_pages=True) as llm:
        assert llm.device.huge_pages and "weights in huge pages" in str(llm.device)
        np.testing.assert_array_equal(llm.logits(TOKENS), mapped_logits)


@here
def test_pages_are_huge_and_closing_gives_them_back():
    before = huge_bytes()
    llm = LLM(device="cpu", context=64, huge_pages=True)
    matrices_bytes = sum(w.n_bytes for w in llm.plan.weights if len(w.shape) == 2)
    if huge_bytes() - before < 0.9 * matrices_bytes:
        pytest.skip("the system has no huge pages left")
    llm.close()
    gc.collect()
    assert huge_bytes() - before < 0.1 * matrices_bytes


@here
def test_what_is_asked_for_twice_is_copied_once(tmp_path):
    """And in pieces, with progress; the file's pages leave this process, and what is in them stays."""
    (tmp_path / "file").write_bytes(bytes(range(256)) * 4096 * 32)
    with open(tmp_path / "file", "rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    reports, shape = [], (1 << 10, len(data) >> 12)
    backend = Backend(1, huge_pages=True)
    (one,), (other,) = (backend.matrices([(data, F32, shape)]) for _ in range(2))
    assert one.data.__array_interface__["data"] == other.data.__array_interface__["data"] and not one.data.any()
    backend.load(lambda done, total: reports.append((done, total)))
    assert reports == [(16 << 20, 32 << 20), (32 << 20, 32 << 20)]
    np.testing.assert_array_equal(one.data.reshape(-1), data)
    backend.close()


def test_pieces_share_regions_and_begin_on_cache_lines():
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system knows no huge pages")
    taken = pages.Pages()
    sizes = (100, 1 << 20, 3, pages.REGION_BYTES, 64)
    pieces = [taken.take(n) for n in sizes]
    starts = [p.__array_interface__["data"][0] for p in pieces]
    assert [len(p) for p in pieces] == list(sizes) and not any(start % 64 for start in starts)
    assert starts[1] - starts[0] == 128 and starts[2] - starts[1] == 1 << 20
    assert starts[0] % pages.HUGE_BYTES == starts[3] % pages.HUGE_BYTES == 0
    with pytest.raises(CapacityError, match=r"the system has no .* MiB .*--no-huge-pages"):
        taken.take(1 << 60)


def test_only_what_a_file_can_give_again_is_dropped():
    private = np.ones(1 << 16, np.uint8)
    anonymous = np.frombuffer(mmap.mmap(-1, 1 << 16), np.uint8)
    anonymous[:] = 1
    for array in (private, anonymous, private[5:], private[:0]):
        pages.drop(array)
    assert private.all() and anonymous.all()


# ---- where there are none


def test_a_system_without_says_so(monkeypatch):
    monkeypatch.setattr(cpu, "gives_huge_pages", lambda: False)
    with pytest.raises(DeviceError, match="huge pages: this system gives none"):
        draw(None, "cpu", huge_pages=True)
    design = draw(None, "cpu")
    design.file.close()
    assert not design.device.huge_pages


def memory_of(**settings):
    """The built-in model's memory plan."""
    design = draw(None, "cpu", context=64, chunk_tokens=64, sequences=1, **settings)
    design.file.close()
    return design.memory


def test_too_little_memory_is_told_with_both_remedies(monkeypatch):
    """The mapping needs none for the weights: its pages can be dropped and read again."""
    monkeypatch.setattr(cpu, "gives_huge_pages", lambda: True)
    enough_bytes = memory_of(huge_pages=True).total_bytes
    assert memory_of(huge_pages=False).total_bytes == enough_bytes
    monkeypatch.setattr(cpu, "available_bytes", lambda: enough_bytes - 1)
    with pytest.raises(CapacityError, match=r"needs 4 MiB of weights, .* MiB are free; .*; or .*--no-huge-pages"):
        memory_of(huge_pages=True)
    memory_of(huge_pages=False)


def test_a_system_that_gives_too_few_is_told_of(monkeypatch, caplog):
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        pytest.skip("this system knows no huge pages")
    monkeypatch.setattr(pages, "huge_mappings", lambda: [])
    backend = Backend(1, huge_pages=True)
    backend.matrices([(np.ones(4 << 20, np.uint8), F32, (1 << 10, 1 << 10))])
    backend.load(lambda done, total: None)
    backend.close()
    assert "of 4 MiB of weights the system has put 0 MiB into huge pages" in caplog.text


@here
def test_commands_take_the_option():
    code = "import sys; from rocforge.cli import main; sys.exit(main(sys.argv[1:]))"
    run = lambda *args: subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)
    said = run("explain", "--device", "cpu", "--huge-pages").stdout
    assert "weights in huge pages" in said.splitlines()[0]
    timed = run("bench", "--device", "cpu", "--huge-pages", "-p", "8", "-n", "0", "-r", "1", "--json")
    assert "weights in huge pages" in json.loads(timed.stdout)["machine"]["device"]
    told = run("generate", "--device", "cpu", "--huge-pages", "a", "-n", "2", "--ignore-eos").stderr
    assert "weights in huge pages" in told.splitlines()[0]
