"""What is kept from run to run: found again by its whole key, never by a part, and never half written."""

import tempfile

import pytest

from rocforge.probe import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache.user_cache_dir.cache_clear()
    yield
    cache.user_cache_dir.cache_clear()


def test_what_is_remembered_is_recalled_by_topic_and_key():
    cache.remember("topic", ("a", None), {"fault": "x"})
    cache.remember("topic", ("a", "b"), [1])
    assert cache.recall("topic", ("a", None)) == {"fault": "x"} and cache.recall("topic", ("a", "b")) == [1]
    assert cache.recall("other", ("a", None)) is None and cache.recall("topic", ("a", "None")) is None


def test_the_last_word_counts():
    for value in (1, 2):
        cache.remember("topic", ("a",), value)
    assert cache.recall("topic", ("a",)) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": ["b"], "value": 1}'])
def test_a_broken_file_says_nothing(text, tmp_path):
    cache.remember("topic", ("a",), 1)
    (file,) = (tmp_path / "cache/rocforge/probe").iterdir()
    file.write_text(text)
    assert cache.recall("topic", ("a",)) is None


def test_another_place_where_home_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    cache.remember("topic", ("a",), 1)
    assert cache.recall("topic", ("a",)) == 1 and str(tmp_path / "tmp") in str(cache.user_cache_dir())


def test_no_place_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "file"))
    cache.remember("topic", ("a",), 1)
    assert cache.user_cache_dir() is None and cache.recall("topic", ("a",)) is None
