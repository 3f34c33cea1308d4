"""`rocforge explain --analyze` as a person and a program see it, on the built-in model."""

import json
import os
import subprocess
import sys

import pytest

from tests.paths import ROOT


def run_explain(*args, interpret=False):
    code = "import sys; from rocforge.cli import main; sys.exit(main(['explain', *sys.argv[1:]]))"
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    command = [sys.executable, "-c", code, *args, "--device", "cpu"]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


def test_depth_adds_the_cache_that_attention_reads():
    near, far = (json.loads(run_explain("--json", "-d", str(depth)).stdout)["ops"] for depth in (0, 100))
    grown = {a["op"] for a, b in zip(near, far, strict=True) if b["memory_bytes"] > a["memory_bytes"]}
    assert grown == {"attention"}


def test_analyze_adds_up_to_the_step():
    ran = run_explain("--analyze", "--tokens", "32", "-d", "64", "-r", "5", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["tokens"] == 32 and found["depth"] == 64 and found["machine"]["date"] and found["roofline"]["matrix_unit"]
    assert sum(g["time_s"] for g in found["groups"]) + found["between_s"] == pytest.approx(found["step_s"])
    kinds = {g["op"] for g in found["groups"]}
    assert kinds == {"embed", "rope_table", "rms_norm", "linear", "rope_store", "attention", "swiglu", "gather"}
    assert found["memory"]["weights_bytes"] > 1_000_000


def test_analyze_as_a_table_ends_with_the_whole_step():
    lines = run_explain("--analyze", "-r", "3").stdout.splitlines()
    assert lines[1] == "a step of 1 token:" and "loss ms" in lines[2]
    starts = [line.split("  ")[0].strip() for line in lines]
    assert starts[-5:-3] == ["between launches", "the whole step"] and lines[-3].startswith("limits, measured in this run: memory ")
    end = lines[2].index("loss ms") + len("loss ms")
    losses = [float(line[:end].split()[-1].replace(",", "")) for line in lines[3:-5]]
    assert losses == sorted(losses, reverse=True)


def test_tiles_of_a_target_that_is_not_here():
    """Every launch of a kind that has tiles, each with one and where it comes from."""
    pytest.importorskip("triton", reason="triton is absent: pip install triton")
    found = json.loads(run_explain("--target", "gfx1100", "--json").stdout)
    assert {t["op"] for t in found["tiles"]} >= {"linear", "attention", "rms_norm", "swiglu"}
    assert all(t["tile"] and t["origin"] in ("user", "shipped", "family", "default") for t in found["tiles"])
    assert sum(t["launches"] for t in found["tiles"] if t["op"] == "attention") == 6  # the built-in model's layers
    table = run_explain("--target", "gfx1100").stdout
    assert "gfx1100" in table.splitlines()[0] and "num_warps=" in table


def test_blocking_of_the_cpu(tmp_path, monkeypatch):
    """What launches of this CPU get, each with where it comes from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # a database of nobody's
    few, many = (json.loads(run_explain("--json", "--tokens", n).stdout)["tiles"] for n in ("1", "64"))
    assert {t["kernel"] for t in few} == {"rows", "attend"} and {t["kernel"] for t in many} > {"rows", "attend"}
    assert all(t["tile"] and t["origin"] == "default" for t in few + many)
    assert sum(t["launches"] for t in many if t["op"] == "attention") == 6
    assert "AHEAD=8" in run_explain().stdout


def test_the_interpreter_has_no_tiles_to_show():
    pytest.importorskip("triton", reason="triton is absent: pip install triton")
    ran = run_explain("--target", "gfx1100", interpret=True)
    assert ran.returncode == 2 and "TRITON_INTERPRET is set" in ran.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--analyze", "--tokens", "8", "-d", "60", "-c", "64"), "8 tokens behind 60 do not fit into a context of 64"),
        (("--analyze", "-d", "900000000"), "KV cache"),
        (("--analyze", "-m", "absent.gguf"), "absent.gguf"),
        (("--analyze", "--target", "gfx1100"), "leave out --target"),
        (("--target", "gfx77"), "gfx77 is unknown"),
    ],
)
def test_bad_input_gets_one_line(args, words):
    ran = run_explain(*args)
    assert ran.returncode == 2 and words in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
    assert ran.stderr.count("rocforge: error:") == 1
