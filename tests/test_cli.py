"""The command line with a stand-in for the model: what is asked of it, what is printed where, which exit code."""

import dataclasses
import io
import json
import logging
import sys
from types import SimpleNamespace

import pytest

from rocforge import cli
from rocforge.commands import progress as progress_module
from rocforge.commands.progress import Progress
from rocforge.engine.request import Sampling
from rocforge.errors import ModelError
from rocforge.probe.device import choose
from rocforge.probe.survey import Survey


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    """Whatever the machine has: the commands' own words are tested here."""
    monkeypatch.setattr("rocforge.probe.device.survey", lambda verdict=None: Survey((), None, None, {}))


class FakeLLM:
    """Stands in for rocforge.llm.LLM: tokens are code points, and the text is what the test sets."""

    has_chat_template = False
    pieces = ("Once", " upon", " a time.")
    interrupt_after = None
    load_error = None
    made = []
    tuned = {}  # fields of the device that this model is run with

    def __init__(self, path=None, *, device, context, threads, kv_format, huge_pages, progress):
        if self.load_error:
            raise self.load_error
        self.path, self.device, self.context = path, dataclasses.replace(choose(device, threads, None, huge_pages), **self.tuned), context
        self.closed = self.cancelled = False
        FakeLLM.made.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.closed = True

    def tokenize(self, text, add_special=True, parse_special=False):
        self.parse_special = parse_special
        return [1] * add_special + [ord(c) for c in text]

    def render_chat(self, messages):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)

    def stream(self, tokens, sampling):
        self.prompt, self.sampling = tokens, sampling
        try:
            for i, piece in enumerate(self.pieces):
                if i == self.interrupt_after:
                    raise KeyboardInterrupt
                last = i == len(self.pieces) - 1
                yield SimpleNamespace(text=piece, tokens=[i], finish_reason="stop" if last else None)
        finally:
            self.cancelled = True


@pytest.fixture
def llm(monkeypatch):
    """The class that the commands find where they look for LLM; `llm.made` are its objects."""
    fake = type("Fake", (FakeLLM,), {})
    FakeLLM.made = []
    monkeypatch.setitem(sys.modules, "rocforge.llm", SimpleNamespace(LLM=fake))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return fake


@pytest.fixture
def run(capsys):
    """run(*args) -> (exit code, stdout, stderr)."""

    def run(*args):
        code = cli.main(args)
        return code, *capsys.readouterr()

    return run


def prompt_text(model):
    return "".join(map(chr, model.prompt[1:]))


# ---- the group


def test_every_command_is_there_under_its_name():
    for name, summary in cli.COMMANDS.items():
        command = cli.cli.get_command(None, name)
        assert command.name == name
        assert command.help.splitlines()[0] == summary


def test_help_and_no_arguments_list_the_commands(run):
    for arguments in (["--help"], ["-h"], []):
        code, out, err = run(*arguments)
        assert code == 0 and not err
        assert all(f"  {name} " in out for name in cli.COMMANDS)


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["fly"], "No such command 'fly'"),
        (["--fly"], "--fly"),
        (["generate", "--fly"], "--fly"),
        (["generate", "a", "b"], "unexpected extra argument"),
        (["generate", "-n", "many", "a"], "'many' is not a valid integer"),
        (["generate", "-t", "0", "a"], "--threads"),
        (["generate", "-c", "-5", "a"], "--context"),
        (["generate", "--device", "tpu", "a"], "tpu"),
        (["generate", "-n", "-3", "a"], "-3"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "-m", "model.gguf"], "there is no prompt"),
        (["generate", "--system", "Be kind."], "there is no prompt"),
        (["generate", "-f", "absent.txt"], "--file absent.txt: No such file"),
        (["generate", "-f", "."], "--file .: Is a directory"),
        (["generate", "-f", "absent.txt", "a"], "two prompts"),
        (["generate", "--raw", "--system", "Be kind.", "a"], "--system"),
        (["generate", "a\udcff"], "not UTF-8"),
        (["generate", "--stop", "\udcff", "a"], "not UTF-8"),
        (["generate", "--device", "gpu", "a"], "no GPU was found"),
    ],
)
def test_a_user_s_fault_is_one_line_and_exit_code_2(run, llm, arguments, named):
    code, out, err = run(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("rocforge: error: ") and err.count("\n") == 1 and named in err


def test_unreadable_prompt_files(run, llm, tmp_path):
    for name, content, named in (("empty", b"\n", "empty"), ("bytes", b"abc\xff", "byte 3 is not UTF-8")):
        (tmp_path / name).write_bytes(content)
        code, out, err = run("generate", "--file", str(tmp_path / name))
        assert code == 2 and err.count("\n") == 1 and named in err


def test_an_error_of_the_model_is_one_line(run, llm):
    llm.load_error = ModelError("model.gguf: byte 0: not a GGUF file")
    code, out, err = run("generate", "-q", "-m", "model.gguf", "a")
    assert (code, out, err) == (2, "", "rocforge: error: model.gguf: byte 0: not a GGUF file\n")


def test_verbose_before_and_after_the_command(run, llm):
    for arguments in (["-v", "generate", "a"], ["generate", "-v", "a"]):
        logging.getLogger("rocforge").setLevel(logging.WARNING)
        assert run(*arguments)[0] == 0
        assert logging.getLogger("rocforge").level == logging.INFO
    logging.getLogger("rocforge").setLevel(logging.NOTSET)


# ---- generate


def test_text_on_stdout_all_else_on_stderr(run, llm):
    code, out, err = run("generate", "Tell", "--seed", "5")
    assert code == 0
    assert out == "Once upon a time.\n"
    lines = err.splitlines()
    assert lines[0] == str(choose("auto"))
    for part in ("prompt: 5 tokens at", "text: 3 tokens at", "first token after", "peak memory", "by stop", "seed 5"):
        assert part in lines[-1]
    assert llm.made[0].closed


def test_what_was_tuned_for_the_model_is_told_when_it_is_open(run, llm):
    llm.tuned = {"threads": 77, "huge_pages": True, "reason": "for a reason; 77 threads by `rocforge tune`"}
    first, then, _ = run("generate", "Tell", "--device", "cpu")[2].splitlines()
    assert first == str(choose("cpu")) and then.endswith("77 threads, weights in huge pages (for a reason; 77 threads by `rocforge tune`)")


def test_no_second_newline(run, llm):
    llm.pieces = ("The end.\n",)
    assert run("generate", "a")[1] == "The end.\n"


def test_quiet_prints_the_text_only(run, llm):
    llm.has_chat_template = True
    assert run("generate", "-q", "a") == (0, "Once upon a time.\n", "")


def test_json_is_one_object(run, llm):
    code, out, err = run("generate", "--json", "--seed", "5", "-m", "tiny.gguf", "Tell")
    report = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert report["text"] == "Once upon a time." and report["finish_reason"] == "stop"
    assert (report["prompt_tokens"], report["generated_tokens"], report["seed"]) == (5, 3, 5)
    assert report["model"] == "tiny.gguf" and report["device"]["kind"] == "cpu" and report["device"]["reason"]
    timing = report["timing"]
    assert timing["prompt_tokens_per_s"] == pytest.approx(5 / timing["first_token_s"])
    assert timing["generated_tokens_per_s"] == pytest.approx(2 / (timing["total_s"] - timing["first_token_s"]))
    assert report["peak_memory_bytes"] > 10_000_000  # Python alone needs more


def test_prompt_from_argument_file_and_stdin(run, llm, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("from a file: ä\n", encoding="utf-8")
    run("generate", "from the argument")
    run("generate", "-f", str(tmp_path / "prompt.txt"))
    for arguments in (["generate"], ["generate", "-f", "-"]):
        monkeypatch.setattr(sys, "stdin", io.StringIO("from stdin\n"))
        run(*arguments)
    assert [prompt_text(m) for m in llm.made] == ["from the argument", "from a file: ä", "from stdin", "from stdin"]


def test_without_a_prompt_the_built_in_model_begins(run, llm, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    for stdin in (io.StringIO(""), terminal, None):
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("generate")[0] == 0
        assert llm.made[-1].prompt == [1]


def test_options_reach_the_model(run, llm):
    arguments = {
        "--max-tokens": 7,
        "--temperature": 0.5,
        "--top-k": 9,
        "--top-p": 0.25,
        "--min-p": 0.125,
        "--repetition-penalty": 1.5,
        "--frequency-penalty": 0.75,
        "--presence-penalty": 0.625,
        "--penalty-window": 32,
        "--seed": 11,
    }
    flat = [str(word) for pair in arguments.items() for word in pair]
    run("generate", "a", *flat, "--stop", "x", "--stop", "y", "--ignore-eos", "-c", "64", "-t", "3", "-m", "some.gguf")
    fields = {name.removeprefix("--").replace("-", "_"): value for name, value in arguments.items()}
    assert {*fields, "stop", "ignore_eos"} == {field.name for field in dataclasses.fields(Sampling)}
    model = llm.made[0]
    assert model.sampling == Sampling(**fields, stop=("x", "y"), ignore_eos=True)
    assert (model.path, model.context, model.device.threads) == ("some.gguf", 64, 3)


def test_defaults_are_sampling_s(run, llm):
    run("generate", "a")
    sampling = llm.made[0].sampling
    assert dataclasses.replace(sampling, seed=None) == Sampling()
    run("generate", "a")
    assert llm.made[1].sampling.seed != sampling.seed, "each run has a seed of its own, so that it can be repeated"


@pytest.mark.parametrize(
    "template, flags, prompt, said",
    [
        (False, [], "\1Hello", False),
        (False, ["--chat"], "<user>Hello", False),
        (False, ["--system", "Be kind."], "<system>Be kind.<user>Hello", True),
        (True, [], "<user>Hello", True),
        (True, ["--chat"], "<user>Hello", False),
        (True, ["--raw"], "\1Hello", False),
    ],
)
def test_chat_where_the_model_has_a_template(run, llm, template, flags, prompt, said):
    llm.has_chat_template = template
    code, _, err = run("generate", "Hello", *flags)
    model = llm.made[0]
    assert code == 0 and ("--raw" in err) == said
    assert model.prompt == [ord(c) for c in prompt] and model.parse_special


def test_ctrl_c_keeps_what_there_is(run, llm):
    llm.interrupt_after = 2
    code, out, err = run("generate", "a")
    assert code == 130 and out == "Once upon\n" and "by cancelled" in err
    assert llm.made[0].closed and llm.made[0].cancelled
    code, out, _ = run("generate", "a", "--json")
    assert code == 130 and json.loads(out)["text"] == "Once upon" and json.loads(out)["finish_reason"] == "cancelled"


def test_ctrl_c_before_the_first_token(run, llm):
    llm.interrupt_after = 0
    code, out, err = run("generate", "a")
    assert code == 130 and out == "\n" and "text: 0 tokens;" in err


def test_ctrl_c_while_loading(run, llm):
    llm.load_error = KeyboardInterrupt()
    code, out, err = run("generate", "-q", "a")
    assert code == 130 and out == "" and "Traceback" not in err


def test_a_letter_that_the_terminal_lacks_does_not_end_the_text(llm, monkeypatch):
    llm.pieces = ("naïve →", " end")
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="iso-8859-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli.main(["generate", "-q", "a"]) == 0
    assert stdout.buffer.getvalue() == b"na\xefve ? end\n"


# ---- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds that progress sees: set clock.now."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: clock.now)
    return clock


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_quick_load_shows_nothing(monkeypatch, clock, stream):
    monkeypatch.setattr(sys, "stderr", stream())
    with Progress() as progress:
        for done in range(11):
            clock.now = done * 0.09
            progress("compile", done, 10)
        clock.now = 2.0
        progress("compile", 10, 10)  # it is over: nothing left to wait for
    assert sys.stderr.getvalue() == ""


def test_a_slow_stage_says_so_once(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with Progress() as progress:
        for stage, step_s in (("load", 0.2), ("compile", 0.6)):
            for done in range(4):
                clock.now += step_s
                progress(stage, done, 4)
    assert sys.stderr.getvalue() == "compiling kernels, once for this machine ...\n"


def test_a_slow_stage_shows_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(progress_module, "_PATIENCE_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Progress() as progress:
        for done in range(4):
            progress("compile", done, 4)
    shown = sys.stderr.getvalue()
    assert "compiling kernels" in shown and " 75%" in shown
