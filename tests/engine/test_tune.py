"""The search: it picks what is fastest and right, keeps each result at once, and goes on where it stopped."""

import numpy as np
import pytest

from rocforge.engine.tune import COMPILING, ROUNDS, TIMING, Subject, search
from rocforge.errors import RequestError
from rocforge.probe import tuned
from rocforge.probe.tuned import MEASURED, PREDICTED, Key, Unfit

KEYS = [Key("gemv_blocks", "Q4_K", (n, 4096), 1) for n in (1024, 2048, 4096)]
SUBJECTS = [Subject(key, "linear", 32) for key in KEYS]


class FakeRange:
    """Tiles BN 1 to 8, the default 4, that take the times that they are given. Counts what it is asked."""

    target, triton, device, driver, status = "gfx1100", "3.9.0", "a card", "a driver", MEASURED

    def __init__(self, times, status=MEASURED, predicted=None, faulty=(), unfit=()):
        self.times, self.status, self.predicted, self.faulty, self.unfit = times, status, predicted, faulty, unfit
        self.timed, self.version, self.interrupt_at = [], "v1", None

    def sources(self, key):
        return self.version

    def candidates(self, key):
        return [{"BN": n} for n in (4, 1, 2, 8)]

    def predict_us(self, key, tile):
        return self.predicted and self.predicted[tile["BN"]]

    def fault(self, key, tile):
        return "off by 1" if tile["BN"] in self.faulty else None

    def time_us(self, key, tile):
        if tile["BN"] in self.unfit:
            raise Unfit("out of resources")
        if len(self.timed) == self.interrupt_at:
            raise KeyboardInterrupt
        self.timed.append((key, tile["BN"]))
        took = self.times[tile["BN"]]
        return took(len(self.timed)) if callable(took) else took


TIMES = {4: 10.0, 1: 20.0, 2: 8.0, 8: 9.0}


def tile_of(found):
    return [each.entry.tile["BN"] for each in found]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gfx1100.json"


def test_the_fastest_wins_and_is_written(path):
    (found,) = search(FakeRange(TIMES), SUBJECTS[:1], path)
    assert found.entry.tile == {"BN": 2} and found.entry.default == {"BN": 4} and not found.is_known
    assert (found.entry.time_us, found.entry.default_us, found.entry.gain) == (8.0, 10.0, 1.25)
    assert tuned.read(path).entries == {KEYS[0]: found.entry}


def test_what_computes_something_else_never_wins(path, caplog):
    range_ = FakeRange(TIMES, faulty=(2,))
    assert tile_of(search(range_, SUBJECTS[:1], path)) == [8]
    assert "BN2 computes something else: off by 1" in caplog.text
    assert (KEYS[0], 2) not in range_.timed, "nor is it timed"


def test_what_cannot_be_launched_is_passed_over(path):
    assert tile_of(search(FakeRange(TIMES, unfit=(2,)), SUBJECTS[:1], path)) == [8]
    assert list(search(FakeRange(TIMES, unfit=(4,)), SUBJECTS[:1], path, again=True)) == [], "without a default no gain"


def test_the_median_counts_and_all_take_turns(path):
    """One lucky time of a slow tile does not make it the best."""
    lucky = {**TIMES, 8: lambda n: 1.0 if n == 4 else 30.0}
    range_ = FakeRange(lucky)
    assert tile_of(search(range_, SUBJECTS[:1], path)) == [2]
    assert [bn for _, bn in range_.timed] == [4, 1, 2, 8] * ROUNDS


def test_noise_displaces_no_default(path):
    assert tile_of(search(FakeRange({**TIMES, 2: 9.95, 8: 9.96}), SUBJECTS[:1], path)) == [4]


def test_a_prediction_needs_ten_percent(path):
    range_ = FakeRange({**TIMES, 2: 9.2, 8: 9.3}, status=PREDICTED)
    (found,) = search(range_, SUBJECTS[:1], path)
    assert found.entry.tile == {"BN": 4} and not found.entry.is_better and len(range_.timed) == 4, "once is enough"
    (found,) = search(FakeRange({**TIMES, 2: 9.0}, status=PREDICTED), SUBJECTS[:1], path, again=True)
    assert found.entry.tile == {"BN": 2} and found.entry.status == PREDICTED and found.entry.is_better


def test_the_cost_model_prunes_but_never_the_default(path):
    range_ = FakeRange(TIMES, predicted={4: 100.0, 1: 11.0, 2: 50.0, 8: 10.0})
    assert tile_of(search(range_, SUBJECTS[:1], path)) == [8]
    assert {bn for _, bn in range_.timed} == {4, 1, 8}


def test_a_second_run_times_nothing_again(path):
    first = list(search(FakeRange(TIMES), SUBJECTS, path))
    range_ = FakeRange(TIMES)
    second = list(search(range_, SUBJECTS, path))
    assert not range_.timed and all(each.is_known for each in second)
    assert [each.entry for each in first] == [each.entry for each in second]
    assert len(list(search(range_, SUBJECTS, path, again=True))) == 3 and range_.timed


def test_other_sources_are_tuned_anew(path):
    list(search(FakeRange(TIMES), SUBJECTS, path))
    range_ = FakeRange(TIMES)
    range_.version = "v2"
    assert not any(each.is_known for each in search(range_, SUBJECTS, path))
    assert {e.sources for e in tuned.read(path).entries.values()} == {"v2"}


def test_stopped_anywhere_nothing_is_lost(path):
    """At every one of the 60 measurements: what was done before stays, and is not done again."""
    for at in range(0, 60, 7):
        path.unlink(missing_ok=True)
        range_ = FakeRange(TIMES)
        range_.interrupt_at = at
        with pytest.raises(KeyboardInterrupt):
            list(search(range_, SUBJECTS, path))
        kept = tuned.read(path).entries
        assert list(kept) == KEYS[: at // (4 * ROUNDS)]
        rest = FakeRange(TIMES)
        assert tile_of(search(rest, SUBJECTS, path)) == [2, 2, 2]
        assert {key for key, _ in rest.timed} == set(KEYS) - set(kept)


def test_the_budget_ends_it(path):
    seconds = iter(np.arange(0.0, 1e4, 1.0))
    found = list(search(FakeRange(TIMES), SUBJECTS, path, budget_s=40, clock=lambda: next(seconds)))
    assert len(found) == 1 and list(tuned.read(path).entries) == KEYS[:1]


def test_progress_says_how_far_and_how_good(path):
    told, seconds = [], iter(np.arange(0.0, 1e4, 1.0))
    list(search(FakeRange(TIMES), SUBJECTS, path, budget_s=1e3, report=told.append, clock=lambda: next(seconds)))
    assert [(at.done, at.total, at.tried, at.candidates) for at in told[:4]] == [(0, 3, n, 4) for n in (1, 2, 3, 4)]
    assert (told[3].best_us, told[3].default_us) == (8.0, 10.0)
    assert {at.doing for at in told} == {TIMING}
    assert told[-1].done == 2 and 0 < told[-1].left_s < 100, "one is left, which takes as long as each of the others"


def test_progress_tells_of_compiling(path):
    """Which is most of the wait where nothing is timed."""
    range_, told = FakeRange(TIMES, status=PREDICTED, predicted=TIMES), []
    list(search(range_, SUBJECTS[:1], path, report=told.append))
    assert [(at.tried, at.best_us) for at in told if at.doing == COMPILING] == [(2, 10.0), (3, 10.0), (4, 8.0)]


def test_entries_of_another_process_stay(path):
    """Written while this search was at work."""
    other = Key("gemv_blocks", "Q8_0", (9, 32), 1)
    searching = search(FakeRange(TIMES), SUBJECTS[:2], path)
    next(searching)
    list(search(FakeRange(TIMES), [Subject(other, "linear")], path))
    list(searching)
    assert set(tuned.read(path).entries) == {other, *KEYS[:2]}


def test_an_unwritable_database_is_found_out_first(tmp_path):
    (tmp_path / "file").write_text("")
    range_ = FakeRange(TIMES)
    with pytest.raises(RequestError, match="cannot be written"):
        list(search(range_, SUBJECTS, tmp_path / "file" / "a.json"))
    assert not range_.timed
