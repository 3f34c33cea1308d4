"""Which tile a launch gets: the order of the databases, what is stale, and that without any nothing changes."""

import dataclasses
import math
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is absent: pip install triton")
import torch  # noqa: E402

from rocforge.engine import tiles  # noqa: E402
from rocforge.engine.tiles import random_blocks  # noqa: E402
from rocforge.engine.tune import Subject, search  # noqa: E402
from rocforge.errors import DeviceError  # noqa: E402
from rocforge.gguf.formats import F16, Q4_K, Q8_0  # noqa: E402
from rocforge.kernels import attention, candidates, cases, cost, embed, gemm, gemv, gemv_norm, gemv_rope, launch, norm, ranges, trials, tuning  # noqa: E402
from rocforge.kernels.assembly import Loop, loop_of_amdgcn  # noqa: E402
from rocforge.kernels.cards import CARDS, OTHERS  # noqa: E402
from rocforge.kernels.inspect import Row  # noqa: E402
from rocforge.kernels.target import AMD, nvidia, use  # noqa: E402
from rocforge.llm import draw  # noqa: E402
from rocforge.probe import book, tuned  # noqa: E402
from rocforge.probe.compiler import child_environment  # noqa: E402
from rocforge.probe.tuned import Entry, Key  # noqa: E402
from tests.paths import ROOT  # noqa: E402

KEY = Key("gemv_blocks", "Q4_K", (64, 256), 1)
DEFAULT = {"BN": 16, "BU": 4, "num_warps": 1, "programs": 16}


def entry(BN, key=KEY, kernel=gemv.gemv_blocks, default=DEFAULT, **fields):
    made = Entry(
        *key, tile={**default, "BN": BN}, default=default, time_us=1.0, default_us=2.0, status=tuned.MEASURED,
        sources=tuning.source_hash(kernel, key.format), device="a card", driver=None, date="2026",
    )  # fmt: skip
    return dataclasses.replace(made, **fields)


def database(*entries, target="gfx1100"):
    return tuned.merged(tuned.empty(target, tuning.triton.__version__), entries)


def asked(known):
    """(BN, origin) of a launch for gfx1100, as the launch and as the choice have it."""
    x, w, out = cases._q8(1, 256), cases.layout.empty(Q4_K, 64, 256, "meta"), cases._meta(1, 64)
    with use(AMD["gfx1100"]), book.use(known), book.watch() as found, launch.record() as program:
        cases.linear(x, (w,), None, None, out)
    (choice,), (made,) = found, program.launches
    assert choice.key == KEY and made.constants["BN"] == choice.tile["BN"] and made.grid == (-(-64 // choice.tile["BN"]),)
    return choice.tile["BN"], choice.origin


def test_without_a_database_the_default():
    assert asked(None) == asked(tuning.book_of([])) == (16, "default")


def test_user_then_shipped_then_family():
    layers = [("user", None, database(entry(1))), ("shipped", None, database(entry(2))), ("family", None, database(entry(8)))]
    assert [asked(tuning.book_of(layers[n:])) for n in range(4)] == [(1, "user"), (2, "shipped"), (8, "family"), (16, "default")]


def test_the_users_word_for_the_default_outweighs_what_was_shipped():
    kept = entry(16, default_us=1.0)
    assert asked(tuning.book_of([("user", None, database(kept)), ("shipped", None, database(entry(2)))])) == (16, "default")


def test_a_prediction_of_less_than_ten_percent_displaces_nothing():
    for default_us, expected in ((1.09, (16, "default")), (1.2, (2, "shipped"))):
        predicted = entry(2, status=tuned.PREDICTED, default_us=default_us)
        assert asked(tuning.book_of([("shipped", None, database(predicted))])) == expected


@pytest.mark.parametrize(
    ("fields", "why"),
    [({"sources": "of long ago"}, "another version of the kernels"), ({"tile": {"BN": 2}}, "a tile of BN where")],
)
def test_what_is_stale_is_ignored_aloud_and_once(caplog, tmp_path, fields, why):
    stale = [entry(1, **fields), entry(1, Key("gemv_blocks", "Q4_K", (65, 256), 1), **fields)]
    known = tuning.book_of([("user", tmp_path, database(*stale)), ("shipped", None, database(entry(2)))])
    assert asked(known) == asked(known) == (2, "shipped")
    assert len(caplog.records) == 1 and why in caplog.text and str(tmp_path) in caplog.text


def test_files_are_found_by_target_and_generation(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tuning, "SHIPPED_DIR", tmp_path / "shipped")
    monkeypatch.setattr(tuned, "user_cache_dir", lambda: tmp_path)
    find = lambda arch: tuning.book_for.__wrapped__(AMD[arch])
    tuned.write(tmp_path / "shipped" / "gfx1101.json", database(entry(8), target="gfx1101"))
    assert asked(find("gfx1100")) == (8, "family")
    tuned.write(tmp_path / "shipped" / "gfx1100.json", database(entry(2)))
    assert asked(find("gfx1100")) == (2, "shipped")
    user = tuned.user_path("gfx1100", tuning.triton.__version__)
    tuned.write(user, database(entry(1)))
    assert asked(find("gfx1100")) == (1, "user")
    user.write_text("{")
    assert asked(find("gfx1100")) == (2, "shipped") and "no tuning database" in caplog.text
    tuned.write(user, tuned.Database("gfx1100", ("2.0", "2.1"), {KEY: entry(1)}))
    assert asked(find("gfx1100")) == (2, "shipped"), "made with another Triton"
    assert asked(find("gfx1201")) == (16, "default"), "RDNA4 is no near relative of RDNA3"


def test_relatives_share_registers_and_instructions():
    assert "gfx90a" in tuning.relatives(AMD["gfx908"]) and "gfx906" not in tuning.relatives(AMD["gfx908"])
    assert "gfx1151" in tuning.relatives(AMD["gfx1151"]) and "gfx942" not in tuning.relatives(AMD["gfx950"])


def test_hashes_know_what_a_kernel_calls():
    hashes = {tuning.source_hash(k, f) for k, f in ((gemv.gemv_blocks, "Q4_K"), (gemv.gemv_blocks, "Q8_0"), (gemm.gemm_plain, "F16"))}
    assert len(hashes) == 3
    seen = {}
    tuning._gather(norm.rms_norm_q8, seen)
    assert {name.rpartition(".")[2] for name in seen} >= {"rms_norm_q8", "store_q8", "quantize_tile", "round_even", "TINY", "ROUND"}


def test_buckets():
    assert [book.bucket(n) for n in (1, 3, 8, 9, 17, 63, 64, 65, 512, 5000)] == [1, 4, 8, 16, 32, 64, 64, 128, 512, 512]
    assert set(gemv.TOKENS.values()) <= set(book.BUCKETS)
    # Of the tokens that share a tile, the default is one.
    for arch in ("gfx942", "gfx1100", "gfx906"):
        with use(AMD[arch]):
            assert set(gemm.sizes()) <= set(book.BUCKETS)


# ---- what is shipped

SHIPPED = sorted(tuning.SHIPPED_DIR.glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_entries_are_of_these_sources_and_marked_as_predicted(path):
    """A changed kernel makes them stale: docs/TUNING.md says how they are made again."""
    found = tuned.read(path)
    assert found.target == path.stem and found.target in AMD and found.entries
    kernels = {choice.key.kernel: choice.kernel for _, choice in cases.watched(AMD[found.target])}
    stale = [str(e.key) for e in found.entries.values() if e.sources != tuning.source_hash(kernels[e.kernel], e.format)]
    assert not stale
    assert {e.status for e in found.entries.values()} == {tuned.PREDICTED}
    assert all(e.is_better or e.tile == e.default for e in found.entries.values())


def test_files_are_shipped():
    assert {path.stem for path in SHIPPED} >= {"gfx942", "gfx1100", "gfx1201"}


# ---- candidates


@pytest.mark.parametrize("arch", ["gfx906", "gfx942", "gfx1030", "gfx1100", "gfx1201", "sm90"])
def test_candidates_of_every_kernel_are_few_and_can_be_launched(arch):
    """Recorded as a launcher would have them: asserts within launchers and grids hold."""
    seen, at = set(), AMD.get(arch) or nvidia(arch)
    for _, choice in cases.watched(at):
        if choice.key in seen:
            continue
        seen.add(choice.key)
        found = candidates.candidates(choice.key, choice.default, at)
        assert found[0] == choice.default and 1 <= len(found) <= candidates.MOST and len(set(found)) == len(found)
        trial, most_stages = trials.make(choice.key, "meta"), 4 if at.backend == "hip" else 8
        for tile in found:
            for name, n, default in zip(tile._fields, tile, choice.default, strict=True):
                is_size = 1 <= n <= most_stages if name == "num_stages" else n >= 1 and (name == "programs" or n & (n - 1) == 0)
                assert n == default or is_size, tile
            with use(at), book.use(book.Tried(choice.key, book.as_dict(tile))), launch.record() as program:
                trial.call(0)
            (made, *_) = trials.launches_of(choice.key, program)
            assert made.options.get("num_warps", tile.num_warps) == tile.num_warps and 0 not in made.grid
    assert {key.kernel for key in seen} >= {"embed_blocks", "embed_floats", "gemv_blocks", "gemv_floats", "gemm_blocks", "rms_norm_q8", "swiglu_q8", "quantize_rows"}
    assert ({"gemv_norm", "gemv_rope"} <= {key.kernel for key in seen}) == (arch == "sm90")


def test_no_candidate_has_lanes_without_work():
    """They would load what others do, or nothing, which a cost model takes for more bytes in flight."""
    key = Key("embed_blocks", "Q4_K", (128_256, 4096), 1)
    for arch in ("gfx942", "gfx1100"):
        found = candidates.candidates(key, embed.BLOCKS, AMD[arch])
        assert all(AMD[arch].lanes * tile.num_warps <= tile.BU <= 64 for tile in found)


# ---- the cost model

ROW = Row("linear", "gemv_blocks", "Q4_K", "", 64, 32, 0, 0, 16, 0, 64, 8, 0, 4, 4, 4000, True)
LOOP = Loop(100, 128, 100, 16)


def cost_of(key=KEY, target="gfx1100", grid=(1024,), row=ROW, loop=LOOP, warps=1, stages=2, **constants):
    made = launch.Launch(gemv.gemv_blocks, grid, (), {"BN": 4, "BU": 32, **constants}, {"num_warps": warps, "num_stages": stages})
    return cost.seconds(key, made, row, loop, AMD[target], CARDS[target])


def test_no_tile_is_faster_than_memory():
    big = Key("gemv_blocks", "Q4_K", (128_256, 4096), 1)
    least_s = cases.layout.n_bytes(Q4_K, 128_256, 4096) / (CARDS["gfx1100"].gb_per_s * 1e9)
    assert least_s < cost_of(big, grid=(32_064,)) < 1.5 * least_s


def test_what_spills_or_does_not_fit_is_never_chosen():
    assert math.isinf(cost_of(row=dataclasses.replace(ROW, spills=1)))
    assert math.isinf(cost_of(row=dataclasses.replace(ROW, lds_bytes=65 * 1024)))


def test_what_costs_time_in_the_model():
    base = cost_of()
    assert cost_of(loop=dataclasses.replace(LOOP, instructions=100_000)) > 2 * base, "instructions"
    big = Key("gemv_blocks", "Q4_K", (1024, 65_536), 1)
    assert cost_of(big, loop=dataclasses.replace(LOOP, loaded_bytes=8)) > 2 * cost_of(big), "too little in flight"
    few_bytes = {"grid": (10_000,), "loop": dataclasses.replace(LOOP, loaded_bytes=16)}
    assert cost_of(big, row=dataclasses.replace(ROW, waves_per_simd=1), **few_bytes) > 2 * cost_of(big, **few_bytes), "waves hide latency"
    assert cost_of(big, row=dataclasses.replace(ROW, lds_bytes=60 * 1024), **few_bytes) > 2 * cost_of(big, **few_bytes), "shared memory"
    slow = {"loop": dataclasses.replace(LOOP, instructions=100_000)}
    alone = {"row": dataclasses.replace(ROW, waves_per_simd=1), "warps": 2, **slow}
    assert cost_of(grid=(97,), **alone) == pytest.approx(2 * cost_of(grid=(96,), **alone), rel=0.1), "one program too many for 96 CUs"
    assert cost_of(grid=(97,), **slow) < 1.1 * cost_of(grid=(96,), **slow), "there is room beside another"
    assert cost_of(target="gfx942", **slow) != cost_of(**slow)
    late = {"loop": dataclasses.replace(LOOP, loads_at=1.0), "grid": (96,)}
    waits = [cost_of(big, stages=n, **late) for n in (1, 2, 3, 4)]
    assert waits[0] >= waits[1] > waits[2] > waits[3], "loads on their way ahead of their step"
    assert cost_of(big, stages=2, **{**late, "loop": LOOP}) < waits[1], "and early within a step"


def test_loads_past_the_cache_are_slower():
    grid = {"grid": (100_000,)}
    assert cost_of(loop=dataclasses.replace(LOOP, passing_bytes=LOOP.loaded_bytes), **grid) > 1.5 * cost_of(**grid)


def test_cards_are_of_targets_that_there_are():
    assert CARDS.keys() <= AMD.keys() | {"sm90"} and OTHERS.keys() <= CARDS.keys()
    for arch in AMD.keys() - CARDS.keys():
        with pytest.raises(DeviceError, match="knows no card"):
            ranges.PredictedRange(AMD[arch], [])


def test_loops_of_the_assembly():
    asm = """
	s_load_dwordx4 s[0:3], s[0:1], 0x0
	global_load_dwordx2 v[0:1], v0, s[0:1]
.LBB0_1:
	v_add_u32 v0, v1, v2
.LBB0_2:
	global_load_dwordx4 v[0:3], v0, s[0:1]
	buffer_load_ushort v4, v0, s[0:3], 0 offen
	v_dot4_i32_i8 v0, v1, v2, v0
	s_cbranch_scc1 .LBB0_2
	s_cbranch_vccnz .LBB0_1
	s_cbranch_scc1 .LBB0_3
.LBB0_3:
	s_endpgm
"""
    assert loop_of_amdgcn(asm) == Loop(instructions=4, loaded_bytes=18, instructions_once=6, loaded_bytes_once=8, loads_at=0.125)
    assert loop_of_amdgcn("\tv_add_u32 v0, v1, v2\n\ts_endpgm\n") == Loop(0, 0, 2, 0)


# ---- on a device: Triton's interpreter


def choice_for(call):
    with book.watch() as found, launch.record():
        call()
    return found[-1]


def device_range(key, default, kernel, timer=lambda program: 1e-6):
    choice = book.Choice(key, book.as_dict(default), "default", kernel, default)
    return ranges.DeviceRange([choice], "the interpreter", random_blocks, timer, "cpu")


SMALL = {
    "gemv": (Key("gemv_blocks", "Q8_0", (19, 96), 1), gemv.GemvTile(16, 4, 1, 8), gemv.gemv_blocks, {"BN": 8, "BU": 2, "num_warps": 1, "programs": 3}),
    "gemv_norm": (Key("gemv_norm", "Q8_0", (64, 160), 1), gemv_norm.GemvNormTile(4, 1), gemv_norm.gemv_norm, {"BU": 2, "num_warps": 1}),
    "gemv_rope": (Key("gemv_rope", "Q8_0", (32, 160), 1), gemv_rope.GemvRopeTile(8, 4, 1), gemv_rope.gemv_rope, {"BN": 4, "BU": 2, "num_warps": 1}),
    "gemm": (Key("gemm_blocks", "Q4_K", (19, 256), 16), gemm.GemmTile(32, 32, 2, 1, 1, 1), gemm.gemm_blocks, {"BT": 16, "BN": 16, "BU": 4, "num_warps": 1, "num_stages": 1, "programs": 1}),
    "embed": (Key("embed_blocks", "Q8_0", (19, 96), 2), embed.BLOCKS, embed.embed_blocks, {"BU": 16, "num_warps": 1}),
    "norm": (Key("rms_norm_q8", "", (96,), 2), norm.NormTile(2), norm.rms_norm_q8, {"num_warps": 4}),
    "attention": (Key("attend_tile", "f16", (32, 2, 1), 16), attention.PrefillTile(32, 32, 1, 1), attention.attend_tile, {"ROWS": 16, "BN": 64, "num_warps": 1, "num_stages": 1, "peels": 1}),
}  # fmt: skip


@pytest.mark.parametrize("case", SMALL.values(), ids=SMALL)
def test_tiles_that_compute_the_same_pass_and_others_do_not(case, monkeypatch):
    key, default, kernel, other = case
    monkeypatch.setattr(trials, "KEYS", 64)
    range_ = device_range(key, default, kernel)
    assert range_.fault(key, other) is None
    assert range_.time_us(key, other) == 1.0
    next(each for each in range_._expected if each.is_floating_point()).mul_(1.25)
    assert "the order of summing up allows" in range_.fault(key, other)


def test_what_is_left_unwritten_is_found():
    key, default, kernel, other = SMALL["gemv"]
    range_ = device_range(key, default, kernel)
    range_.fault(key, other)
    range_._trial = range_._trial._replace(call=lambda i: None)
    assert "off by nan" in range_.fault(key, other)


def test_what_does_not_launch_is_unfit():
    key, default, kernel, other = SMALL["gemv"]
    with pytest.raises(tuned.Unfit):
        device_range(key, default, kernel).fault(key, {**other, "BN": 3})


def test_only_the_kernel_in_question_is_timed():
    """The product of many tokens, without what expands its operands."""
    programs = []
    key, default = Key("gemm_plain", "F16", (32, 64), 512), gemm.FloatsTile(64, 32, 64, 1, 1)
    range_ = device_range(key, default, gemm.gemm_plain, lambda program: programs.append(program) or 1e-6)
    trial = trials.make(Key("gemm_plain", "F16", (32, 64), 64), torch.device("cpu"), random_blocks)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(trials, "make", lambda *_: trial)
        range_.time_us(key, book.as_dict(default))
    assert [made.kernel.__name__ for made in programs[0].launches] == ["gemm_plain"]


def test_a_whole_search_with_an_invented_timer(tmp_path, monkeypatch):
    """Checked in the interpreter; the time is that of the smallest BN, which wins and is looked up."""
    monkeypatch.setattr(candidates, "MOST", 6)
    key, default, kernel, _ = SMALL["gemv"]
    range_ = device_range(key, default, kernel, lambda program: 1e-6 * program.launches[0].constants["BN"])
    (found,) = search(range_, [Subject(key, "linear")], tmp_path / "a.json")
    smallest = min(tile["BN"] for tile in range_.candidates(key))
    assert found.entry.tile["BN"] == smallest < default.BN and found.entry.time_us == smallest
    known = tuning.book_of([("user", None, tuned.read(tmp_path / "a.json"))])
    with book.use(known), book.watch() as choices, launch.record():
        trials.make(key, "cpu", random_blocks).call(0)
    assert [(c.tile["BN"], c.origin) for c in choices if c.key == key] == [(smallest, "user")]


def test_a_plan_s_tiles_and_their_origin():
    """What explain shows: each op of the built-in model's step, tuned where a database knows better."""
    design = draw(None, "cpu")
    try:
        ask = lambda known: tiles.choices(design.plan, design.memory, design.file, 1, 1, AMD["gfx1100"], known)
        found = ask(book.Book())
        assert [op.kind for op, _ in found] == [op.kind for op in design.plan.ops]
        assert all(choices for op, choices in found if op.kind in ("linear", "rms_norm", "attention", "swiglu"))
        subjects, (choice, *_) = tiles.subjects(found)
        assert sum(s.count for s in subjects) == sum(len(choices) for _, choices in found)
        better = entry(1, choice.key, choice.kernel, book.as_dict(choice.default))
        rows = tiles.rows(ask(tuning.book_of([("user", None, database(better))])))
    finally:
        design.file.close()
    assert {row["origin"] for row in rows} == {"user", "default"}
    assert {(row["kernel"], tuple(row["shape"])) for row in rows if row["origin"] == "user"} == {(choice.key.kernel, choice.key.shape)}


def test_random_blocks_are_numbers():
    for format in (F16, Q4_K, Q8_0):
        assert torch.isfinite(trials._row_norms(random_blocks(format, 3, 256), format, 256, torch.device("cpu"))).all()


WARPS = """
from rocforge.kernels import trials
from rocforge.kernels.launch import record
from rocforge.kernels.target import AMD, use
from rocforge.probe import book
from rocforge.probe.tuned import Key

for kernel, format, shape, tokens in (
    ("rms_norm_q8", "", (4096,), 1), ("rms_norm_f32", "", (4096,), 1), ("swiglu_q8", "", (4096,), 1), ("quantize_rows", "", (4096,), 1),
    ("gemv_blocks", "Q4_K", (4096, 4096), 1), ("gemm_blocks", "Q4_K", (4096, 4096), 64), ("gemm_plain", "F16", (4096, 4096), 512),
    ("attend_split", "f16", (128, 4, 8), 1), ("attend_tile", "f16", (128, 4, 8), 512),
):
    key = Key(kernel, format, shape, tokens)
    with use(AMD["gfx942"]):
        with book.watch() as found, record():
            trials.make(key, "meta").call(0)
        default = book.as_dict(next(choice.default for choice in found if choice.key == key))
        for warps in (1, 2, 4):
            with book.use(book.Tried(key, {**default, "num_warps": warps})), record() as program:
                trials.make(key, "meta").call(0)
            launched = next(made for made in trials.launches_of(key, program) if made.kernel.__name__ == kernel)
            if launched.options["num_warps"] != warps:
                print(kernel, warps, launched.options["num_warps"])
"""


def test_a_tile_s_warps_are_what_is_launched():
    ran = subprocess.run([sys.executable, "-c", WARPS], cwd=ROOT, env=child_environment(), capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr[-2000:]
