"""Tuning databases as files: what is written is read, what is broken is named, nothing is lost."""

import json
import os

import pytest

from rocforge.errors import RequestError
from rocforge.probe import tuned
from rocforge.probe.tuned import MEASURED, PREDICTED, Database, Entry, Key

ENTRY = Entry(
    "gemv_blocks", "Q4_K", (4096, 4096), 1, tile={"BN": 8, "num_warps": 1}, default={"BN": 4, "num_warps": 1}, time_us=8.0,
    default_us=10.0, status=MEASURED, sources="abc", device="a card", driver="amdgpu 6.8", date="2026-01-01T00:00:00+00:00",
)  # fmt: skip


def changed(**fields):
    return Entry(**{**tuned.asdict(ENTRY), "shape": ENTRY.shape, **fields})


def test_what_is_written_is_read(tmp_path):
    tile = {"BN": 32, "num_warps": 4, "num_stages": 3}
    other = changed(kernel="attend_split", format="f16", shape=(64, 4, 8), tile=tile, default=tile, driver=None, status=PREDICTED)
    database = tuned.merged(tuned.empty("gfx1100", "3.9.0"), [ENTRY, other])
    tuned.write(tmp_path / "below" / "a.json", database)
    assert tuned.read(tmp_path / "below" / "a.json") == database
    assert len((tmp_path / "below" / "a.json").read_text().splitlines()) == 4, "an entry a line"
    assert [p.name for p in (tmp_path / "below").iterdir()] == ["a.json"], "nothing is left beside it"


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    database = tuned.merged(tuned.empty("gfx1100", "3.9.0"), [changed(tile={"BN": 3})])
    with pytest.raises(ValueError, match="BN 3 is no size of a tile"):
        tuned.write(tmp_path / "a.json", database)
    assert not list(tmp_path.iterdir())


def test_sizes_of_a_cpu_need_be_no_powers_of_two(tmp_path):
    tile, default = {"PANELS": 6, "SHARES": 3}, {"PANELS": 12, "SHARES": 8}
    step = changed(kernel="step", format="a model", shape=(12,), tile={"threads": 9, "huge_pages": 0}, default={"threads": 12, "huge_pages": 0})
    database = tuned.merged(tuned.empty("EPYC", None), [changed(kernel="tiles", tile=tile, default=default), step])
    tuned.write(tmp_path / "a.json", database)
    assert tuned.read(tmp_path / "a.json") == database


def test_a_version_of_triton_holds_for_its_patches_only():
    database = tuned.empty("gfx1100", "3.9.0")
    assert database.triton == ("3.9", "3.10")
    assert [database.holds_for(v) for v in ("3.9.1", "3.9.0+rocm", "3.10.0", "3.8.9", None)] == [True, True, False, False, False]
    assert tuned.empty("EPYC", None).holds_for(None)


def test_a_prediction_has_to_promise_more_than_a_measurement_shows():
    assert ENTRY.gain == 1.25 and ENTRY.is_better
    assert changed(default_us=8.5).is_better and not changed(default_us=8.5, status=PREDICTED).is_better
    assert changed(default_us=8.81, status=PREDICTED).is_better and not changed(default_us=8.05).is_better
    assert not changed(tile=ENTRY.default).is_better


BROKEN = {
    "half": '{"target": "gfx1100", "trit',
    "list": "[1, 2]",
    "foreign": '{"machine": {}, "results": []}',
    "field": json.dumps({"target": "x", "triton": None, "entries": [{**tuned.asdict(ENTRY), "other": 1}]}),
    "size": json.dumps({"target": "x", "triton": ["3.9", "3.10"], "entries": [{**tuned.asdict(ENTRY), "tile": {"BN": 3}}]}),
    "no size": json.dumps({"target": "x", "triton": None, "entries": [{**tuned.asdict(ENTRY), "tile": {"PANELS": 0}}]}),
    "time": json.dumps({"target": "x", "triton": None, "entries": [{**tuned.asdict(ENTRY), "time_us": 0}]}),
    "tile": json.dumps({"target": "x", "triton": None, "entries": [{**tuned.asdict(ENTRY), "tile": "BN"}]}),
    "version": '{"target": "x", "triton": ["new", "newer"], "entries": []}',
    "binary": "\udcff\udcfe",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_and_set_aside(tmp_path, caplog, text):
    path = tmp_path / "gfx1100.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match="gfx1100.json: this is no tuning database"):
        tuned.read(path)
    assert tuned.read_or_none(path) is None and path.exists(), "a look-up leaves it alone"
    assert len(caplog.records) == 1 and "default tiles" in caplog.text
    assert tuned.read_to_change(path, "gfx1100", "3.9") == tuned.empty("gfx1100", "3.9")
    assert not path.exists() and path.with_suffix(".json.broken").exists() and "set aside" in caplog.text


def test_a_database_of_another_target_is_not_overwritten(tmp_path):
    tuned.write(tmp_path / "a.json", Database("gfx942", ("3.9", "3.10"), {}))
    with pytest.raises(RequestError, match="is for gfx942, not for gfx1100"):
        tuned.read_to_change(tmp_path / "a.json", "gfx1100", "3.9")


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        tuned.write(tmp_path / "file" / "a.json", tuned.empty("gfx1100", "3.9"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_directory_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RequestError, match="Permission denied"):
        tuned.write(tmp_path / "a.json", tuned.empty("gfx1100", "3.9"))


def test_names_of_files():
    assert tuned.user_path("gfx1100", "3.9.1").name == "gfx1100-triton3.9.json"
    assert tuned.user_path("AMD EPYC 9654 (96 cores)", None).name == "AMD-EPYC-9654-96-cores.json"
    assert str(Key("gemv_blocks", "Q4_K", (4096, 1024), 8)) == "gemv_blocks Q4_K 4096x1024 T8"
