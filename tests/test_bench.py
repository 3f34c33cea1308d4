"""`rocforge bench` as a person and a program see it, on the built-in model."""

import csv
import io
import json
import subprocess
import sys

import pytest

from tests.paths import ROOT

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
    ],
)
def test_bad_input_gets_one_line(args, words):
    ran = run_bench(*args, "--device", "cpu")
    assert ran.returncode == 2 and words in ran.stderr and "Traceback" not in ran.stderr, ran.stderr
    assert ran.stderr.count("rocforge: error:") == 1
