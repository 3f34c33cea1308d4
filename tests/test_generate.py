"""The installed command on the built-in model, in processes of its own: signals, pipes, time to the first letter."""

import json
import signal
import subprocess
import time

import pytest

from tests.test_package import ROCFORGE

pytestmark = pytest.mark.alone

ENDLESS = ("generate", "a", "--ignore-eos", "-c", "4096")


def run(*args, stdin=""):
    return subprocess.run([ROCFORGE, *args], input=stdin, capture_output=True, text=True, timeout=120)


def start(*args):
    """The program, which Ctrl-C interrupts even where these tests run in the background and ignore it."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([ROCFORGE, *args], **pipes, text=True, preexec_fn=listen)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """The kernels are in the cache before anything is timed or interrupted."""
    assert run("generate", "a", "-n", "1", "-q").returncode == 0


def test_a_story_and_where_it_goes():
    ran = run("generate", "-n", "40", "--seed", "3")
    assert ran.returncode == 0 and len(ran.stdout.split()) > 10 and ran.stdout.endswith("\n")
    lines = ran.stderr.splitlines()
    assert len(lines) == 2 and lines[0].startswith("cpu: ") and "tokens at" in lines[1]


def test_a_seed_repeats_a_story():
    first, again, other = (run("generate", "-q", "-n", "40", "--seed", seed).stdout for seed in ("3", "3", "4"))
    assert first == again != other


def test_json_counts():
    report = json.loads(run("generate", "Once upon a time", "-n", "12", "--temp", "0", "--ignore-eos", "--json").stdout)
    assert report["generated_tokens"] == 12 and report["finish_reason"] == "length"
    assert report["prompt_tokens"] >= 4 and report["model"].endswith("builtin.gguf")
    assert 0 < report["timing"]["first_token_s"] < report["timing"]["total_s"]


def test_stdin_is_a_prompt():
    argument, stdin = run("generate", "-q", "-n", "8", "--temp", "0", "Once upon a time"), None
    stdin = run("generate", "-q", "-n", "8", "--temp", "0", stdin="Once upon a time\n")
    assert argument.stdout == stdin.stdout


def test_first_letter_within_a_second_of_pressing_return():
    """The bar is the best of five: what the program needs, not what else the machine is doing."""
    times_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        process = start("generate", "-n", "1", "-q", "Once upon a time")
        assert process.stdout.read(1)
        times_s.append(time.perf_counter() - start_s)
        process.communicate(timeout=60)
    assert min(times_s) < 1.0, times_s


def test_ctrl_c_ends_it_with_what_there_is():
    process = start(*ENDLESS)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate(timeout=60)
    assert process.returncode == 130 and text.endswith("\n")
    assert "ended by cancelled" in err and "Traceback" not in err


def test_a_closed_pipe_ends_it_quietly():
    process = start(*ENDLESS, "-q")
    assert process.stdout.read(1)
    process.stdout.close()
    assert process.wait(timeout=60) == 1
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["-c", "16", "word " * 50], "context"),
        (["-m", "absent.gguf", "a"], "absent.gguf"),
        (["-m", __file__, "a"], "test_generate.py"),
        (["-n", "0", "a"], "max_tokens"),
        (["--temp", "-1", "a"], "temperature"),
        (["--chat", "a"], "template"),
    ],
)
def test_faults_that_the_model_or_the_request_shows(arguments, named):
    ran = run("generate", *arguments)
    assert ran.returncode == 2 and ran.stdout == "" and "Traceback" not in ran.stderr
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("rocforge: error: ") and named in last
    assert ran.stderr.count("rocforge: error: ") == 1


def test_explain_as_table_and_as_json():
    ran = run("explain", "--json")
    plan = json.loads(ran.stdout)
    assert ran.returncode == 0 and plan["memory"]["weights_bytes"] > 1_000_000
    table = run("explain").stdout
    for op in plan["ops"]:
        assert op["op"] in table and f"{op['bytes']:,}" in table
