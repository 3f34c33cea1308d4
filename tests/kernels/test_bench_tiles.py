"""bench/tiles.py in Triton's interpreter: what it times, what it says of a tile that computes something else or nothing."""

import importlib.util
import json

import pytest
from click.testing import CliRunner

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.engine.tiles import random_blocks  # noqa: E402
from rocforge.kernels import ranges  # noqa: E402
from tests.ops.rooms import make_room  # noqa: E402
from tests.paths import ROOT  # noqa: E402


@pytest.fixture(scope="module")
def script():
    make_room("triton")
    spec = importlib.util.spec_from_file_location("bench_tiles", ROOT / "bench/tiles.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Range = ranges.DeviceRange


def range_of(choices):
    return Range(choices, "the interpreter", random_blocks, lambda program: 1e-6, "cpu")


def test_times_and_faults(script):
    choices = script.made_for(script.keys_of(["Q4_K"], [(19, 256)], [16]))
    default = script.book.as_dict(choices[0].default)
    range_ = range_of(choices)
    smaller = {**default, "BT": 16, "BN": 16}
    rows = script.times(range_, choices[0], [default, smaller, {**default, "BN": 3}])
    assert [row["tile"]["BN"] for row in rows] == [default["BN"], 16, 3]
    assert rows[0]["us"] == rows[1]["us"] == 1.0 and "us" not in rows[2] and rows[2]["fault"]
    range_._expected[0].mul_(1.25)
    assert script.times(range_, choices[0], [smaller])[0]["fault"].startswith("differs: off by")


def test_few_tokens_have_no_such_tile(script):
    with pytest.raises(script.click.ClickException, match="--tokens 1"):
        script.made_for(script.keys_of(["Q4_K"], [(19, 256)], [1]))


@pytest.mark.parametrize("wrong", [["--tile", "8,32"], ["--tile", "a,b,c,d,e,f"], ["--shape", "19"], ["--shape", "4096x100"], ["--format", "F16"]])
def test_bad_arguments_are_one_line(script, wrong):
    ran = CliRunner().invoke(script.main, wrong)
    assert ran.exit_code == 2 and wrong[0] in ran.output and "Traceback" not in ran.output


def test_what_is_printed(script, monkeypatch):
    class Here:
        name, index = "the interpreter", 0

        def __str__(self):
            return "gpu: the interpreter"

    import torch

    monkeypatch.setattr(script, "choose", lambda *_: Here())
    monkeypatch.setattr(script, "describe", lambda device: {"device": str(device)})
    monkeypatch.setattr(script, "compile_all", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(ranges, "DeviceRange", lambda choices, *_: range_of(choices))
    arguments = ["--shape", "19x256", "--tokens", "16", "--tile", "16,16,2,1,1,1"]
    found = json.loads(CliRunner().invoke(script.main, [*arguments, "--json"], catch_exceptions=False).stdout)
    assert [r["us"] for r in found["results"]] == [1.0, 1.0] and found["results"][1]["tile"]["BN"] == 16
    table = CliRunner().invoke(script.main, arguments, catch_exceptions=False).stdout
    assert "19 x 256" in table and "BT16 BN16" in table
