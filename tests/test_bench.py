"""`rocforge bench` as a person and a program see it, on the built-in model."""

import csv
import importlib.util
import io
import json
import subprocess
import sys

import pytest

from rocforge.commands import results as bench_results
from rocforge.llm import BUILTIN
from tests.paths import ROOT

pytestmark = pytest.mark.alone

QUICK = ("-p", "16", "-n", "4", "-r", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    ran = run_bench(*QUICK, "--json")
    assert ran.returncode == 0, ran.stderr
    path = tmp_path_factory.mktemp("bench") / "results.json"
    path.write_text(ran.stdout)
    return path


def run_bench(*args):
    code = "import sys; from rocforge.cli import main; sys.exit(main(['bench', *sys.argv[1:]]))"
    return subprocess.run([sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True)


def test_json_says_what_ran_where(results):
    found = json.loads(results.read_text())
    assert found["machine"]["device"].startswith("cpu:") and found["machine"]["numba"] and found["machine"]["date"]
    assert [r["test"] for r in found["results"]] == ["pp16", "tg4"]
    for row in found["results"]:
        assert row["tokens_per_s"] > 0 and len(row["rates"]) == 2 and row["model_bytes"] > 0


def test_csv_and_markdown_hold_the_same_tests():
    ran = run_bench(*QUICK, "-d", "0,8", "-o", "csv")
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert [r["test"] for r in rows] == ["pp16", "tg4", "pp16 @ d8", "tg4 @ d8"], ran.stderr
    ran = run_bench(*QUICK, "-b", "2", "-o", "markdown")
    assert "| tg4 x 2 |" in ran.stdout, ran.stderr


def fake_llama_bench(path, says, code=0):
    path.write_text(f"#!/bin/sh\necho \"$@\" > {path}.asked\necho '{says}'\necho what is wrong >&2\nexit {code}\n")
    path.chmod(0o755)
    return path


def test_llama_cpp_is_timed_beside(tmp_path):
    program = fake_llama_bench(tmp_path / "llama-bench", '[{"avg_ts": 2.0}]')
    ran = run_bench(*QUICK, "-d", "8", "-b", "1,2", "--threads", "1", "--llama-bench", program, "--json")
    found = json.loads(ran.stdout)["results"]
    assert [r.get("llama_cpp_tokens_per_s") for r in found] == [2.0, 2.0, None, None]
    asked = (tmp_path / "llama-bench.asked").read_text()
    assert f"-m {BUILTIN} -p 0 -n 4 -d 8 -r 2 -o json -t 1" in asked, asked
    ran = run_bench(*QUICK, "--llama-bench", program)
    assert "times as fast" in ran.stdout and f"{found[0]['llama_cpp_tokens_per_s']:.2f}" in ran.stdout


def test_a_llama_bench_that_fails_loses_nothing(tmp_path):
    for says in ("no json", "[]"):
        ran = run_bench(*QUICK, "--llama-bench", fake_llama_bench(tmp_path / "llama-bench", says, 3), "--json")
        assert ran.returncode == 2 and "ended with code 3 and no result: what is wrong" in ran.stderr.splitlines()[-1]
        assert [r["test"] for r in json.loads(ran.stdout)["results"]] == ["pp16"]


def test_slower_than_before_is_exit_code_1(results, tmp_path):
    earlier = json.loads(results.read_text())
    for row in earlier["results"]:
        row.update(tokens_per_s=row["tokens_per_s"] * 1e6, deviation=0.0)
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(earlier))
    ran = run_bench(*QUICK, "--compare", path)
    assert ran.returncode == 1 and "slower" in ran.stderr, ran.stderr
    for row in earlier["results"]:
        row.update(tokens_per_s=row["tokens_per_s"] / 1e12)
    path.write_text(json.dumps(earlier))
    ran = run_bench(*QUICK, "--compare", path)
    assert ran.returncode == 0 and "faster" in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-p", "x"), "no list of whole numbers"),
        (("-p", "0", "-n", "0"), "nothing to time"),
        (("--compare", "absent.json"), "absent.json"),
        (("--compare", "README.md"), "no JSON"),
        (("-m", "absent.gguf"), "absent.gguf"),
        (("-d", "100000000"), "lower the context"),
        (("--plot", "absent/x.png", "-d", "0,8"), "no directory absent"),
        (("--plot", "x.txt", "-d", "0,8"), ".png .svg .pdf"),
        (("--plot", "x.png"), "give several (-d"),
        (("--ops", "softmax"), "no such op; there are embed"),
        (("--ops", "--compare", "README.md"), "no JSON of `rocforge bench --ops --json`"),
        (("--ops", "-p", "8"), "--prompt goes not with --ops"),
        (("--tokens", "8"), "--tokens goes with --ops"),
        (("--ops", "--tokens", "0"), "no list of whole numbers from 1 on"),
    ],
)
def test_bad_input_gets_one_line(args, words):
    ran = run_bench(*args, "--device", "cpu")
    assert ran.returncode == 2 and words in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
    assert ran.stderr.count("rocforge: error:") == 1


# ---- ops

OPS = ("--ops", "rms_norm,swiglu,gather", "-m", str(BUILTIN), "--tokens", "1,16", "-r", "3", "--device", "cpu")


@pytest.fixture(scope="module")
def ops(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "ops.json"
    picture = path.with_name("roofline.png")
    ran = run_bench(*OPS, "--json", "--plot", picture)
    assert ran.returncode == 0, ran.stderr
    path.write_text(ran.stdout)
    return path, picture


def test_ops_are_each_timed_beside_the_limits(ops):
    found = json.loads(ops[0].read_text())
    machine, rows = found["machine"], found["results"]
    assert machine["roofline"]["memory_bytes_per_s"] > 0 and machine["date"] and "commit" in machine
    # The last norm, of one row whatever the tokens, is the same op as a layer's of one token.
    tests = [(r["op"], r["format"], *r["shape"], r["tokens"]) for r in rows]
    assert tests == [
        ("rms_norm", "q8", 1, 256, 1), ("swiglu", "q8", 1, 768, 1), ("gather", "f32", 1, 256, 1),
        ("rms_norm", "q8", 16, 256, 16), ("swiglu", "q8", 16, 768, 16), ("gather", "f32", 1, 256, 16),
    ]  # fmt: skip
    for row in rows:
        assert row["time_s"] > 0 and 0 <= row["of_bound"] and row["limit"] in ("memory", "cache", "compute") and row["error"] is None


def test_a_roofline_is_drawn(ops):
    assert ops[1].read_bytes().startswith(b"\x89PNG") and ops[1].stat().st_size > 20_000


def test_an_op_slower_than_before_is_exit_code_1(ops, tmp_path):
    earlier = json.loads(ops[0].read_text())
    for row in earlier["results"]:
        row.update(time_s=row["time_s"] / 1e3, times_s=[t / 1e3 for t in row["times_s"]])
    path = tmp_path / "earlier.json"
    path.write_text(json.dumps(earlier))
    ran = run_bench(*OPS, "--compare", path, "-o", "csv")
    assert ran.returncode == 1 and "swiglu q8 16 x 768, tokens 16, depth 0: +" in ran.stderr, ran.stderr
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert [r["shape"] for r in rows][:2] == ["1 x 256", "1 x 768"] and "times_s" not in rows[0]


def test_results_of_models_and_of_ops_are_not_compared(results, ops):
    ran = run_bench(*OPS, "--compare", results)
    assert ran.returncode == 2 and "no JSON of `rocforge bench --ops --json`" in ran.stderr
    ran = run_bench(*QUICK, "--compare", ops[0])
    assert ran.returncode == 2 and "no JSON of `rocforge bench --json`" in ran.stderr


# ---- what needs no run


def test_change_is_told_beyond_the_noise_only(capsys):
    row = {
        "op": "linear", "format": "Q4_K", "shape": [8, 256], "tokens": 1, "depth": 0, "time_s": 1.0, "times_s": [0.99, 1.0, 1.01],
    }  # fmt: skip
    later = lambda factor: {**row, "time_s": factor, "times_s": [t * factor for t in row["times_s"]]}
    earlier = {bench_results.OPS.key(row): row}
    assert bench_results.compare(earlier, [later(1.06)], bench_results.OPS)
    assert not bench_results.compare(earlier, [later(1.02)], bench_results.OPS)
    assert not bench_results.compare(earlier, [later(0.9)], bench_results.OPS)
    assert not bench_results.compare({}, [row], bench_results.OPS)
    words = capsys.readouterr().err
    assert all(word in words for word in ("slower", "the same, within the noise", "faster", "not among the earlier"))
    many = [{**later(1.02), "tokens": n} for n in range(30)]
    assert not bench_results.compare({bench_results.OPS.key(r): r for r in many}, many, bench_results.OPS)
    assert capsys.readouterr().err == "30 the same\n"


@pytest.mark.parametrize("batches", [(1,), (1, 8)])
def test_speed_against_depth_is_drawn(tmp_path, batches):
    rows = [
        {"model": "m", "kv": "f16", "prompt": p, "text": t, "depth": d, "sequences": b, "tokens_per_s": 100.0 * b / (1 + d), "deviation": 1.0}
        for p, t in ((512, 0), (0, 128)) for d in (0, 1024) for b in batches
    ]  # fmt: skip
    path = tmp_path / "depth.svg"
    plots = pytest.importorskip("rocforge.commands.plots")
    pytest.importorskip("matplotlib", reason="matplotlib is absent: pip install matplotlib")
    plots.depths(str(path), {"device": "cpu: test (why)", "date": "2026-01-01"}, rows)
    assert path.read_text().startswith("<?xml")


def test_without_matplotlib_a_plot_is_refused_before_anything_is_timed(monkeypatch):
    from rocforge.commands import plots
    from rocforge.errors import RequestError

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(RequestError, match="rocforge\\[bench\\]"):
        plots.check("x.png")


def test_ctrl_c_keeps_what_was_measured(monkeypatch, capsys):
    from rocforge.cli import main
    from rocforge.engine import micro

    whole = micro.time_case
    seen = []

    def interrupted(case, *rest):
        seen.append(case)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return whole(case, *rest)

    monkeypatch.setattr(micro, "time_case", interrupted)
    monkeypatch.setattr(micro, "ROTATED_BYTES", 1 << 20)
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "reconfigure", lambda **_: None, raising=False)
    assert main(["bench", *OPS, "--json"]) == 130
    assert len(json.loads(capsys.readouterr().out)["results"]) == 2
