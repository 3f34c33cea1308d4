"""What is tuned on a CPU: a model's settings, looked up by every start, and kernels' blocking, which changes no bit."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rocforge.cpu import attention, rows, tiles, tuning
from rocforge.cpu.backend import Backend
from rocforge.cpu.candidates import candidates
from rocforge.cpu.layout import matrix
from rocforge.cpu.matmul import linear, sums_bfloats
from rocforge.engine import operands, tune_cpu
from rocforge.engine.tiles import choices
from rocforge.engine.tune import search
from rocforge.engine.tune_cpu import CPURange, Kernels, Steps, counts
from rocforge.engine.tuned_settings import Settings, best_settings, step_key
from rocforge.errors import CapacityError
from rocforge.gguf.formats import Q4_K, Q8
from rocforge.llm import draw
from rocforge.probe import book, cpu, tuned
from rocforge.probe.book import Book
from rocforge.probe.tuned import MEASURED, Entry, Key, Unfit

HOST = cpu.describe()
DEFAULT = {"threads": HOST.cores, "huge_pages": 0}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A database of the test's own; what was read of it is forgotten."""
    monkeypatch.setattr(tuned, "user_cache_dir", lambda: tmp_path)
    tuning.own_book.cache_clear()
    yield tmp_path
    tuning.own_book.cache_clear()


def keep(*entries):
    """Write them into the user's database, which is then read anew."""
    path = tuned.user_path(HOST.name, None)
    tuned.write(path, tuned.merged(tuned.empty(HOST.name, None), entries))
    tuning.own_book.cache_clear()
    return path


def entry(key, tile, default, gain=2.0, sources=None):
    return Entry(*key, tile, default, 1.0, gain, MEASURED, sources or tuning.sources(), HOST.name, None, "2026")


# ---- settings: tuned


def test_threads_that_are_tried():
    assert counts(2, 2) == [2, 1] and counts(1, 1) == [1] and counts(4, 8) == [4, 8, 3, 2, 1]
    assert counts(64, 64)[0] == 64 and len(counts(64, 64)) == 8 and counts(64, 64)[-1] == 8


class FakeTeam:
    def __init__(self, n):
        self.n, self.is_closed = n, False

    def close(self):
        self.is_closed = True


class FakeModels:
    """Models whose token takes what `took_us` says of (threads, huge pages)."""

    config = SimpleNamespace(vocab_size=7)

    def __init__(self, monkeypatch, took_us, room=True):
        self.opened, self.runs, self.took_us, self.room = [], [], took_us, room
        monkeypatch.setattr(tune_cpu, "Team", FakeTeam)
        monkeypatch.setattr(tune_cpu, "once", self.once)
        monkeypatch.setattr(tune_cpu.cpu, "describe", lambda: dataclasses.replace(HOST, cores=4, threads=4))

    def open(self, huge_pages):
        if huge_pages and not self.room:
            raise CapacityError("memory does not suffice")
        runner = SimpleNamespace(huge_pages=huge_pages, backend=SimpleNamespace(team=FakeTeam(1)))
        model = FakeTeam(0)
        model.runner, model.config = runner, self.config
        self.opened.append(model)
        return model

    def once(self, runner, vocab_size, test):
        assert vocab_size == 7 and test.text
        key = runner.backend.team.n, int(runner.huge_pages)
        self.runs.append(key)
        return 1e6 / self.took_us[key]


TOOK_US = {(n, h): 100.0 - 10 * h + 5 * abs(n - 3) for n in (1, 2, 3, 4) for h in (0, 1)}


def test_the_best_settings_win_and_two_models_are_open_at_most(monkeypatch, own_cache):
    models = FakeModels(monkeypatch, TOOK_US)
    range_ = CPURange([Steps("a model", models.open, True)])
    (found,) = search(range_, range_.subjects, own_cache / "a.json")
    assert found.entry.tile == {"threads": 3, "huge_pages": 1} and found.entry.default == {"threads": 4, "huge_pages": 0}
    assert found.entry.key == Key("step", "a model", (4,), 1) and found.entry.gain == pytest.approx(105 / 90)
    assert len(models.opened) == 2 and set(models.runs) == set(TOOK_US)
    assert all(model.runner.backend.team.n == 1 for model in models.opened), "each has its own team back"
    range_.close()
    assert all(model.is_closed for model in models.opened)


def test_huge_pages_are_tried_only_where_they_are_given(monkeypatch, own_cache):
    models = FakeModels(monkeypatch, TOOK_US)
    range_ = CPURange([Steps("a model", models.open, False)])
    (found,) = search(range_, range_.subjects, own_cache / "a.json")
    assert found.entry.tile == {"threads": 3, "huge_pages": 0} and len(models.opened) == 1


def test_memory_that_is_gone_by_then_leaves_the_mapping(monkeypatch, own_cache):
    models = FakeModels(monkeypatch, TOOK_US, room=False)
    range_ = CPURange([Steps("a model", models.open, True)])
    with pytest.raises(Unfit, match="does not suffice"):
        range_.time_us(step_key("a model"), {"threads": 4, "huge_pages": 1})
    (found,) = search(range_, range_.subjects, own_cache / "a.json")
    assert found.entry.tile == {"threads": 3, "huge_pages": 0}


# ---- settings: looked up


def test_the_best_settings_are_looked_up(caplog):
    key, better = step_key("a model"), {"threads": HOST.threads + 1, "huge_pages": 1}
    assert best_settings("a model") is None
    keep(entry(key, better, DEFAULT))
    assert best_settings("a model") == Settings(HOST.threads + 1, 1) and best_settings("another") is None
    keep(entry(key, DEFAULT, DEFAULT))
    assert best_settings("a model") is None, "the default"
    keep(entry(key, better, DEFAULT, gain=1.0))
    assert best_settings("a model") is None, "no better than the default"
    keep(entry(key._replace(shape=(HOST.cores + 1,)), better, DEFAULT))
    assert best_settings("a model") is None, "tuned when more could run"
    assert not caplog.records
    path = keep(entry(key, better, DEFAULT, sources="of long ago"))
    assert best_settings("a model") is None and f"{path} was made for another version" in caplog.text


def test_what_was_kept_before_there_were_pages_is_not_asked(caplog):
    """Kernel `threads`: it stays in the file and harms nobody."""
    keep(entry(Key("threads", "a model", (), 1), {"threads": 3}, {"threads": HOST.cores}))
    assert best_settings("a model") is None and not caplog.records


def design(**settings):
    """The built-in model's device, and its memory."""
    drawn = draw(None, "cpu", context=64, **settings)
    drawn.file.close()
    return drawn.device, drawn.memory


@pytest.fixture
def tuned_model(monkeypatch):
    """The built-in model decodes best with another number of threads, in huge pages, which there are."""
    monkeypatch.setattr(cpu, "gives_huge_pages", lambda: True)
    monkeypatch.setattr("rocforge.llm.gives_huge_pages", lambda: True)
    name = draw(None, "cpu").config.name
    keep(entry(step_key(name), {"threads": HOST.cores + 1, "huge_pages": 1}, DEFAULT))


def test_a_model_takes_what_was_tuned_and_says_so(tuned_model):
    device, _ = design()
    assert device.threads == HOST.cores + 1 and device.huge_pages
    assert f"{HOST.cores + 1} threads by `rocforge tune`; huge pages by `rocforge tune`" in str(device)
    assert f"{HOST.cores + 1} threads, weights in huge pages (" in str(device)


def test_what_is_given_outweighs_what_was_tuned(tuned_model):
    device, _ = design(threads=1, huge_pages=False)
    assert device.threads == 1 and not device.huge_pages and "rocforge tune" not in str(device)
    device, _ = design(threads=1)
    assert device.threads == 1 and device.huge_pages


def test_without_memory_for_a_copy_the_mapping_is_taken_aloud(tuned_model, monkeypatch):
    _, memory = design()
    monkeypatch.setattr(cpu, "available_bytes", lambda: memory.total_bytes - 1)
    device, _ = design()
    assert not device.huge_pages and "no huge pages, which `rocforge tune` found best: memory does not suffice" in device.reason
    with pytest.raises(CapacityError, match="--no-huge-pages"):
        design(huge_pages=True)


def test_a_system_that_gives_none_any_more_is_told_of(tuned_model, monkeypatch):
    monkeypatch.setattr("rocforge.llm.gives_huge_pages", lambda: False)
    device, _ = design()
    assert not device.huge_pages and "found best: the system gives none" in device.reason


# ---- blocking


def built_in(tokens):
    """(plan, what the launchers of a step are answered) of the built-in model."""
    drawn = draw(None, "cpu", context=64, chunk_tokens=64)
    try:
        return drawn.plan, choices(drawn.plan, drawn.memory, drawn.file, tokens, 1, book=Book(), kind="cpu")
    finally:
        drawn.file.close()


@pytest.fixture
def kernels(monkeypatch):
    """-> Kernels of a step of so many tokens of the built-in model, over few copies."""
    monkeypatch.setattr(operands, "ROTATED_BYTES", 1 << 20)
    made = []

    def make(tokens):
        made.append(Kernels(*built_in(tokens)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_candidates_are_few_and_no_two_come_to_the_same():
    for threads in (1, 2, 16, 64):
        for key, default in (
            (Key("rows", "Q4_K", (512, 2048), 1), rows.DEFAULT),
            (Key("tiles", "Q4_K", (512, 2048), 512), tiles.blocking(2048)),
            (Key("attend", "f16", (64, 4, 8), 512), attention.DEFAULT),
        ):
            found = candidates(key, default, threads)
            assert found[0] == default and 2 <= len(found) <= 10 and len(set(found)) == len(found)
            assert all(n >= 1 for tile in found for n in tile)
    found_for = lambda threads: candidates(Key("tiles", "Q4_K", (512, 2048), 512), tiles.blocking(2048), threads)
    shares = lambda threads: {tile.SHARES for tile in found_for(threads)}
    assert len(shares(2)) > 1 and len(shares(64)) > 1, "shares say how long the pieces are that threads take"
    assert candidates(Key("attend", "f16", (64, 4, 8), 1), attention.DEFAULT, 2) == [attention.DEFAULT]
    ahead = [tile.AHEAD for tile in candidates(Key("rows", "Q4_K", (64, 256), 1), rows.DEFAULT, 2)]
    assert sorted(ahead) == [2, 4, 8], "behind a thread's share there is nothing to fetch"


@pytest.mark.parametrize("tokens", [1, 20])
def test_every_candidate_has_the_default_s_bits_and_a_time(kernels, tokens):
    part = kernels(tokens)
    assert {s.key.kernel for s in part.subjects} >= {"rows"} if tokens == 1 else {"bfloats" if sums_bfloats(20) else "tiles"}
    for subject in part.subjects:
        for tile in part.candidates(subject.key):
            assert part.fault(subject.key, tile) is None
            assert part.time_us(subject.key, tile) > 0


def test_a_result_that_differs_is_a_fault(kernels):
    part = kernels(1)
    key = part.subjects[0].key
    tile = part.candidates(key)[1]
    assert part.fault(key, tile) is None
    part._expected[0, 0] = np.nextafter(part._expected[0, 0], np.float32(np.inf))
    assert part.fault(key, tile).startswith("1 of ")


def test_a_search_ends_in_what_launches_get(kernels, own_cache, monkeypatch, caplog):
    """By an invented clock, the smallest AHEAD wins; a step that is recorded then gets it, until the sources change."""
    part = kernels(1)
    monkeypatch.setattr(part, "time_us", lambda key, tile: float(tile.get("AHEAD", 1)))
    range_ = CPURange([part])
    found = list(search(range_, range_.subjects, tuned.user_path(HOST.name, None)))
    assert found and all(each.entry.tile["AHEAD"] < rows.DEFAULT.AHEAD for each in found if each.entry.kernel == "rows")
    drawn = draw(None, "cpu", context=64)
    ask = lambda: {c.key: (c.tile, c.origin) for _, cs in choices(drawn.plan, drawn.memory, drawn.file, 1, 1, kind="cpu") for c in cs}
    tuning.own_book.cache_clear()
    got = ask()
    assert all(got[each.entry.key] == (each.entry.tile, "user") for each in found if each.entry.is_better)
    monkeypatch.setattr(tuning, "sources", lambda: "of another version")
    assert {origin for _, origin in ask().values()} == {"default"} and "another version of the kernels" in caplog.text
    drawn.file.close()


def test_a_step_is_recorded_by_the_user_s_database_unless_the_caller_has_a_book():
    keep(entry(Key("rows", "Q4_K", (8, 256), 1), {"AHEAD": 5}, {"AHEAD": rows.DEFAULT.AHEAD}))
    x = Q8(np.zeros((1, 256), np.int8), np.zeros((1, 8), np.float32), np.zeros((1, 16), np.int16))
    w, out = matrix(np.zeros((8, 144), np.uint8), Q4_K, 8, 256), np.empty((1, 8), np.float32)
    backend = Backend(1)
    for given, expected in ((None, 5), (Book(), rows.DEFAULT.AHEAD)):
        with book.use(given), backend.record(), book.watch() as found:
            linear(x, (w,), None, None, out)
        assert [choice.tile["AHEAD"] for choice in found] == [expected]
    with book.watch() as found:  # at once, with nobody's book
        linear(x, (w,), None, None, out)
    assert [choice.origin for choice in found] == ["default"]
    backend.close()
