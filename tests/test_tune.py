"""`rocforge tune` as a person and a program see it: a fake timer for the GPU, the real compiler for a target, the CPU."""

import json
import os
import re
import subprocess
import sys

import pytest

from rocforge import cli
from rocforge.commands import tune
from rocforge.cpu import tuning
from rocforge.engine import operands
from rocforge.probe import tuned
from tests.engine.test_tune import SUBJECTS, TIMES, FakeRange
from tests.paths import ROOT

MODEL = ROOT / "rocforge" / "assets" / "builtin.gguf"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(tuned, "user_cache_dir", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def gpu(monkeypatch):
    """The command tunes a range of a fake timer; its whole model becomes twice as fast."""
    range_, rates = FakeRange(TIMES), {False: {"pp512": [99.0, 101.0], "tg64": [10.0]}, True: {"pp512": [200.0], "tg64": [20.0]}}
    monkeypatch.setitem(tune.JOBS, "gpu", lambda **_: tune.Job(range_, SUBJECTS, rates.get))
    return range_


def run(capsys, *args):
    """(exit code, stdout, stderr) of the command in this process."""
    code = cli.main(["tune", *args])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_ends_with_a_table_and_the_whole_model_before_and_after(gpu, capsys):
    code, out, err = run(capsys, "-m", "model.gguf")
    assert code == 0
    assert re.search(r"linear +gemv_blocks +Q4_K +1024 x 4096 +1 +10\.00 +8\.00 +1\.25x +BN4 +BN2", out), out
    assert "pp512: 100.0 tokens/s before, 200.0 after (2.00x)" in out
    assert "1/3 gemv_blocks Q4_K 1024x4096 T1: BN 2 1.25x" in err and "kept in" in err


def test_json(gpu, capsys):
    code, out, _ = run(capsys, "-m", "model.gguf", "--json")
    found = json.loads(out)
    assert code == 0 and found["done"] == found["subjects"] == 3 and found["status"] == "measured"
    assert found["results"][0]["tile"] == {"BN": 2} and found["results"][0]["gain"] == 1.25
    assert found["end_to_end"]["after"]["tg64"] == 20.0


def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on(gpu, capsys):
    gpu.interrupt_at = 25
    code, out, err = run(capsys, "-m", "model.gguf")
    assert code == 130 and "1 of 3 are done and kept" in err and "1024 x 4096" in out and "2048 x 4096" not in out
    assert "Traceback" not in err
    gpu.interrupt_at, gpu.timed = None, []
    code, out, _ = run(capsys, "-m", "model.gguf")
    assert code == 0 and out.count("1.25x") == 3 and SUBJECTS[0].key not in {key for key, _ in gpu.timed}


def test_export_and_import(gpu, capsys, own_cache, monkeypatch):
    run(capsys, "-m", "model.gguf")
    monkeypatch.setattr(tune, "_gpu_target", lambda target: ("gfx1100", "3.9.0"))
    shared, users = own_cache / "shared.json", tuned.user_path("gfx1100", "3.9.0")
    code, out, _ = run(capsys, "--export", str(shared))
    assert code == 0 and "3 entries for gfx1100" in out and tuned.read(shared) == tuned.read(users)
    users.unlink()
    code, out, _ = run(capsys, "--import", str(shared), "--json")
    assert code == 0 and json.loads(out)["entries"] == 3 and tuned.read(shared) == tuned.read(users)


def test_a_broken_database_is_set_aside_and_the_search_goes_on(gpu, capsys, caplog):
    path = tuned.user_path("gfx1100", "3.9.0")
    path.parent.mkdir()
    path.write_text("{")
    code, _, _ = run(capsys, "-m", "model.gguf")
    assert code == 0 and "set aside as gfx1100-triton3.9.json.broken" in caplog.text and len(tuned.read(path).entries) == 3


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "either -m MODEL or --all"),
        (("-m", "a", "--all"), "either -m MODEL or --all"),
        (("--cpu", "--all"), "give one with -m"),
        (("--cpu", "--target", "gfx1100", "-m", "a"), "leave out --cpu"),
        (("--cpu", "-m", "absent.gguf"), "absent.gguf"),
        (("-m", "a", "--tokens", "0"), "above 0"),
        (("-m", "a", "--budget", "0"), "budget"),
        (("--import", "absent.json"), "absent.json"),
        (("--import", "README.md"), "no tuning database"),
        (("--cpu", "--export", "a.json"), "nothing to export"),
        (("--database", "README.md/a.json", "-m", "model.gguf"), "README.md/a.json"),
    ],
)
def test_bad_input_gets_one_line(gpu, capsys, monkeypatch, args, words):
    monkeypatch.chdir(ROOT)
    code, out, err = run(capsys, *args)
    assert code == 2 and not out and words in err and err.count("rocforge: error:") == 1 and "Traceback" not in err


@pytest.mark.skipif(os.path.exists("/dev/kfd") or os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_without_a_gpu_one_line(capsys):
    code, _, err = run(capsys, "--all")
    assert code == 2 and "device gpu" in err and err.count("rocforge: error:") == 1


@pytest.fixture
def quick(monkeypatch):
    """Few copies of a kernel's operands, one measurement of the whole model; what was read of databases is forgotten."""
    monkeypatch.setattr(operands, "ROTATED_BYTES", 1 << 20)
    monkeypatch.setattr(tune, "RUNS", 1)
    monkeypatch.setattr(tune, "ROUNDS", 1)
    tuning.own_book.cache_clear()
    yield
    tuning.own_book.cache_clear()


def test_a_cpu_s_settings_and_blocking(quick, capsys, own_cache):
    """On the built-in model; whatever wins, it is written under the CPU's name, and the same command has nothing left to do."""
    code, out, err = run(capsys, "--cpu", "-m", str(MODEL), "--tokens", "1,16", "--json")
    found = json.loads(out)
    assert code == 0, err
    (step, *kernels) = found["results"]
    assert (step["op"], step["kernel"], step["tokens"]) == ("step", "step", 1) and step["default"]["huge_pages"] == 0
    assert {(r["op"], r["tokens"]) for r in kernels} >= {("linear", 1), ("linear", 16)} and {r["kernel"] for r in kernels} >= {"rows"}
    assert all(r["time_us"] > 0 for r in found["results"]) and found["done"] == found["subjects"]
    assert found["end_to_end"]["before"].keys() == found["end_to_end"]["after"].keys() == {"pp512", "tg64"}
    path = tuned.user_path(found["target"], None)
    assert len(tuned.read(own_cache / "tuning" / path.name).entries) == found["subjects"]
    code, out, err = run(capsys, "--cpu", "-m", str(MODEL), "--tokens", "1,16", "--json")
    assert code == 0 and all(r["is_known"] for r in json.loads(out)["results"])


def test_without_huge_pages_that_is_told_and_the_rest_is_tuned(quick, capsys, monkeypatch):
    monkeypatch.setattr("rocforge.probe.cpu.gives_huge_pages", lambda: False)
    code, out, err = run(capsys, "--cpu", "-m", str(MODEL), "--tokens", "1", "--json")
    assert code == 0 and "huge pages are not tried: huge pages: this system gives none" in err
    assert json.loads(out)["results"][0]["tile"]["huge_pages"] == 0


def test_ctrl_c_while_the_whole_model_is_timed_keeps_the_table(gpu, capsys, monkeypatch):
    def measure(is_tuned):
        if is_tuned:
            raise KeyboardInterrupt
        return {"pp512": 100.0}

    monkeypatch.setitem(tune.JOBS, "gpu", lambda **_: tune.Job(gpu, SUBJECTS, measure))
    code, out, err = run(capsys, "-m", "model.gguf")
    assert code == 130 and out.count("1.25x") == 3 and "before" not in out and "kept in" in err


def compiled(tmp_path, *args):
    """The command in a process in which Triton compiles, with two candidates a kernel."""
    code = (
        "import sys; from rocforge.kernels import candidates; candidates.MOST = 2\n"
        "from rocforge.cli import main; sys.exit(main(['tune', *sys.argv[1:]]))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"XDG_CACHE_HOME": str(tmp_path)}
    return subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_target_that_is_not_here(tmp_path):
    pytest.importorskip("triton", reason="triton is absent: pip install triton")
    ran = compiled(tmp_path, "--target", "gfx1100", "-m", MODEL, "--tokens", "1", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["status"] == "predicted" and found["done"] == found["subjects"] > 3 and found["end_to_end"] is None
    kernels = {row["kernel"] for row in found["results"]}
    assert {"gemv_blocks", "rms_norm_q8"} <= kernels and all(row["time_us"] > 0 for row in found["results"])
    written = tuned.read(tmp_path / "rocforge" / "tuning" / found["database"].rpartition("/")[2])
    assert written.target == "gfx1100" and {e.status for e in written.entries.values()} == {"predicted"}
    ran = compiled(tmp_path, "--target", "gfx9", "-m", MODEL)
    assert ran.returncode == 2 and "gfx9 is unknown; known are" in ran.stderr
