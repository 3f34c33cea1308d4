"""The cost model on NVIDIA: its machine code read, its cards told apart, predictions of a sane size; and bench/cost_model.py."""

import importlib.util
import json
import math
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.engine.tune import OutOfTime, Subject  # noqa: E402
from rocforge.kernels import assembly, cards  # noqa: E402
from rocforge.kernels.assembly import Loop, loop_of_sass  # noqa: E402
from rocforge.probe.compiler import child_environment  # noqa: E402
from rocforge.probe.tuned import MEASURED, Key, Unfit  # noqa: E402
from tests.paths import ROOT  # noqa: E402

SASS = """
	//----- nvinfo : EIATTR_REGCOUNT
        /*0004*/ 	.word	index@(kernel)
        /*0008*/ 	.word	0x0000006a
kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.LTC128B.64.CONSTANT R4, desc[UR4][R2.64] ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   IDP.4A.S8.S8 R0, R4, R8, R0 ;
        /*0040*/                   HGMMA.64x64x16.F32 R24, R56, gdesc[UR8], R24, gsb0 ;
        /*0050*/                   LDS.128 R8, [R90] ;
        /*0060*/                   LDG.E.U8 R5, desc[UR4][R2.64] ;
        /*0070*/                   LDGSTS.E.BYPASS.LTC128B.128 [R11+0xc000], desc[UR30][R8.64], P1 ;
        /*0080*/                   LDGSTS.E [R59+0x10000], desc[UR30][R4.64], P2 ;
        /*0090*/                   LDGDEPBAR ;
        /*00a0*/             @!UP0 BRA `(.L_x_1) ;
.L_x_0:
        /*00b0*/                   STL [R1], R4 ;
        /*00c0*/                   EXIT ;
.L_x_2:
        /*00d0*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR9+0x35000], R15 ;
        /*00e0*/              @!P0 BRA `(.L_x_2) ;
        /*00f0*/                   BRA `(.L_x_1) ;
.L_x_3:
        /*0100*/                   BRA `(.L_x_3);
        /*0110*/                   NOP ;
"""


def test_nvidia_s_code_is_read():
    assert loop_of_sass(SASS) == Loop(
        instructions=8, loaded_bytes=21, instructions_once=9, loaded_bytes_once=8, passing_bytes=16, passing_bytes_once=0,
        loads_at=0.5,
    )  # fmt: skip
    found = assembly.sass(SASS)
    assert found["vgprs"] == 106 and found["waves_per_simd"] == 4, "given out by eights: 112 of 512"
    assert (found["spills"], found["matrix"], found["dot"]) == (1, 1, 1)
    assert [found[f"load_{n}"] for n in (128, 64, 32, 16)] == [1, 1, 1, 1]


def test_the_end_of_nvidia_s_code_is_no_loop():
    alone = "        /*0000*/                   EXIT ;\n.L_x_0:\n        /*0010*/                   BRA `(.L_x_0);\n"
    assert loop_of_sass(alone) == Loop(0, 0, 2, 0)


def test_the_name_chooses_the_card():
    assert cards.card("sm90", "NVIDIA H100 80GB HBM3").gb_per_s == 3350
    assert cards.card("sm90", "NVIDIA H200") == cards.card("sm90") == cards.CARDS["sm90"]
    assert cards.card("gfx942", "AMD Instinct MI300X").name == "Instinct MI300X" and cards.card("sm80") is None


# ---- compiled for a card that need not be here, in a process of its own

KEYS = {
    "gemv": Key("gemv_blocks", "Q4_K", (4096, 4096), 1),
    "gemm": Key("gemm_blocks", "Q4_K", (28_672, 4096), 64),
    "plain": Key("gemm_plain", "F16", (4096, 4096), 512),
    "norm": Key("rms_norm_q8", "", (4096,), 1),
    "gemv_norm": Key("gemv_norm", "Q4_K", (4096, 14336), 1),
    "gemv_rope": Key("gemv_rope", "Q4_K", (6144, 4096), 1),
}
COMPILE = """
import json
from dataclasses import asdict
from rocforge.kernels import cost, trials
from rocforge.kernels.launch import record
from rocforge.kernels.ranges import PredictedRange
from rocforge.kernels.target import nvidia, use
from rocforge.probe import book
from rocforge.probe.tuned import Unfit
from tests.kernels.test_cost_model import KEYS
found = {}
for name, key in KEYS.items():
    with use(nvidia("sm90")), book.watch() as choices, record():
        trials.make(key, "meta").call(0)
    choice = next(c for c in choices if c.key == key)
    range_ = PredictedRange(nvidia("sm90"), [choice])
    try:
        us = range_.model_us(key, choice.tile)
    except Unfit as error:
        raise SystemExit(str(error))
    made = trials.launches_of(key, range_._recorded(key, choice.tile))[0]
    row, loop = range_._code(key, made)
    need = cost.work(key, made)
    bound_us = 1e6 * max(need.bytes / (range_.card.gb_per_s * 1e9), need.flops / (range_.card.matrix_tflops * 1e12))
    boxed = cost.boxed_bytes(key, made, nvidia("sm90"))
    found[name] = {"row": asdict(row), "loop": asdict(loop), "us": us, "bound_us": bound_us, "boxed_bytes": boxed}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def compiled():
    command = [sys.executable, "-c", COMPILE]
    ran = subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    if ran.returncode and any(words in ran.stderr for words in ("cannot be read", "does not compile")):
        pytest.skip(ran.stderr.strip().splitlines()[-1])
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)


def test_compiled_code_is_read(compiled):
    gemv, gemm, plain, norm, *joined = (compiled[name] for name in KEYS)
    assert gemv["row"]["dot"] % 16 == 0 < gemv["row"]["dot"] and not gemv["row"]["matrix"]
    assert gemv["loop"]["loaded_bytes"] == 4 * 40, "of four of Q4_K's units 32 bytes of quants, 4 of scales, 4 of supers each"
    for product in joined:
        assert product["row"]["dot"] % 16 == 0 < product["row"]["dot"] and not product["row"]["matrix"]
    for product in (gemm, plain):
        loop, boxed = product["loop"], product["boxed_bytes"]
        assert product["row"]["matrix"] and product["row"]["lds_bytes"]
        assert loop["loads_at"] > (0.3 if boxed else 0.5), "what the next steps need is asked for when this one's is there"
        assert 0.9 * (loop["loaded_bytes"] + boxed) < loop["passing_bytes"] + boxed <= loop["loaded_bytes"] + boxed
    # Of 64 tokens by 128 rows and 4 units: 2 bytes an activation, half a byte a weight, 128 lanes.
    assert gemm["boxed_bytes"] == (2 * 64 + 128 // 2) * 4 * 64 / 128 and not plain["boxed_bytes"]
    assert norm["loop"]["instructions"] == 0 < norm["loop"]["instructions_once"]
    for each in compiled.values():
        assert not each["row"]["spills"] and 16 < each["row"]["vgprs"] <= 255 and 1 < each["row"]["waves_per_simd"] <= 16


def test_predictions_are_of_a_sane_size(compiled):
    for name in ("gemv", "gemm", "plain", "gemv_norm", "gemv_rope"):
        assert 0.5 * compiled[name]["bound_us"] < compiled[name]["us"] < 20 * compiled[name]["bound_us"], name
    assert 0.5 < compiled["norm"]["us"] < 20


# ---- bench/cost_model.py


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("cost_model", ROOT / "bench" / "cost_model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_times_of_another_day_are_predicted_anew(tmp_path):
    """Without a GPU, in a process of its own: the keys, candidates and times are the file's."""
    found = json.loads((ROOT / "bench/results/h200-llama-3-8b-Q4_K_M-cost-model.json").read_text())
    found["results"] = [r for r in found["results"] if r["kernel"] == "rms_norm_q8"][:2]
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(found))
    command = [sys.executable, "bench/cost_model.py", "--measured", str(path), "--json"]
    run = lambda: subprocess.run(command, cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    ran = run()
    if any(words in ran.stderr for words in ("cannot be read", "does not compile")):
        pytest.skip(ran.stderr.strip().splitlines()[-1])
    again = json.loads(ran.stdout)
    assert again["machine"]["card"] == "H200" and again["summary"]["keys"] == 2
    times = lambda result: [[(c["tile"], c["measured_us"]) for c in row["candidates"]] for row in result["results"]]
    assert times(again) == times(found) and all(c["predicted_us"] > 0 for row in again["results"] for c in row["candidates"])
    path.write_text("[]")
    broken = run()
    assert broken.returncode == 1 and "not what this script prints" in broken.stderr and "Traceback" not in broken.stderr


def test_rank_correlation(bench):
    assert bench.spearman([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert bench.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert bench.ranks([1, 2, 2, 3, math.inf]) == [1, 2.5, 2.5, 4, 5]
    assert bench.spearman([1, 2, 2, 3, math.inf], [2, 1, 3, 5, 4]) == pytest.approx(7 / math.sqrt(9.5 * 10))
    assert bench.spearman([1, 1, 1], [1, 2, 3]) is None


class FakeRange:
    """Tiles BN 4, 1, 2, 8 with these times and predictions; None: cannot be launched, or the model never would."""

    status = MEASURED

    def __init__(self, times, predicted):
        self.times, self.predicted = times, predicted

    def candidates(self, key):
        return [{"BN": n, "num_warps": 1} for n in (4, 1, 2, 8)]

    def model_us(self, key, tile):
        if self.predicted[tile["BN"]] is None:
            raise Unfit("its registers do not suffice")
        return self.predicted[tile["BN"]]

    def fault(self, key, tile):
        return None

    def time_us(self, key, tile):
        if self.times[tile["BN"]] is None:
            raise Unfit("out of resources")
        return self.times[tile["BN"]]


SUBJECT = Subject(KEYS["gemv"], "linear", 32)
TIMES = {4: 10.0, 1: 20.0, 2: 8.0, 8: 9.0}


def test_a_pick_is_held_against_the_best(bench):
    found = bench.compare(FakeRange(TIMES, {4: 50.0, 1: 90.0, 2: None, 8: 20.0}), SUBJECT, lambda: False)
    assert found.of_best == pytest.approx(9 / 8) and found.kept_of_best == pytest.approx(9 / 8), "the best is left out"
    assert found.correlation == pytest.approx(-0.2)
    other = bench.compare(FakeRange({**TIMES, 8: None}, {4: 3.0, 1: 2.0, 2: 1.9, 8: 1.0}), SUBJECT, lambda: False)
    assert [tile["BN"] for tile in other.tiles] == [4, 1, 2] and other.of_best == 1 and other.kept_of_best == 1
    total = bench.summary([found, other])
    assert total["keys"] == 2 and total["picks_within"] == 1 and total["defaults_within"] == 0
    assert total["median_correlation"] == pytest.approx((-0.2 + 0.5) / 2)
    assert "within 15% of the best for 100% of 2 keys" in bench.said(total, "H200")
    assert bench.cells(found)[-2:] == ("BN8", "BN2")
    assert json.loads(json.dumps(bench.as_row(found), allow_nan=False))["candidates"][2]["predicted_us"] is None


def test_what_cannot_be_compared_says_so(bench):
    with pytest.raises(Unfit, match="no opinion"):
        bench.compare(FakeRange(TIMES, dict.fromkeys(TIMES)), SUBJECT, lambda: False)
    with pytest.raises(OutOfTime):
        bench.compare(FakeRange(TIMES, TIMES), SUBJECT, lambda: True)
    assert bench.said(bench.summary([]), "H200") == "no key could be compared"
