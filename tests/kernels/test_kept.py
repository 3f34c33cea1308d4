"""What is known of Triton's cache: whose kernels it holds all."""

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is absent: Triton kernels run on its tensors")
triton = pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.kernels import kept  # noqa: E402
from rocforge.kernels.target import AMD, nvidia, use  # noqa: E402
from rocforge.probe import tuned  # noqa: E402

HASHES = ["ab" * 32, "cd" * 32]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Triton's cache, with these two kernels, and a memory of this test's own; gives the user's directory of tiles."""
    known, tiles = {}, tmp_path / "tuning"
    tiles.mkdir()
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "triton"))
    monkeypatch.setattr(kept.cache, "remember", lambda topic, key, value: known.update({(topic, key): value}))
    monkeypatch.setattr(kept.cache, "recall", lambda topic, key: known.get((topic, key)))
    monkeypatch.setattr(tuned, "user_dir", lambda: tiles)
    with use(nvidia("sm90", 132)):
        kept.keep("a model", HASHES)
        yield tiles


def test_it_is_kept_while_all_are_there(own, tmp_path):
    assert kept.is_kept("a model") and not kept.is_kept("another")
    held = sorted((tmp_path / "triton").iterdir())
    assert len(held) == len(HASHES)
    shutil.rmtree(held[0])
    assert not kept.is_kept("a model")


def test_another_target_tiles_sources_or_cache(own, tmp_path, monkeypatch):
    for other in (nvidia("sm90", 114), AMD["gfx942"]):
        with use(other):
            assert not kept.is_kept("a model")
    path = tuned.user_path("sm90", triton.__version__)
    assert path.parent == own
    path.write_text("{}")
    assert not kept.is_kept("a model")
    path.unlink()
    assert kept.is_kept("a model")
    with monkeypatch.context() as m:
        m.setattr(kept, "_sources", lambda: "others")
        assert not kept.is_kept("a model")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "elsewhere"))
    assert not kept.is_kept("a model")


def test_sources_are_those_of_all_kernels(monkeypatch):
    seen = []
    monkeypatch.setattr(kept.cache, "hash_of", lambda files: seen.extend(files) or "")
    kept._sources.__wrapped__()
    names = {path.name for path in map(Path, seen)}
    assert names >= {"gemm.py", "decode.py", "chain.py", "gfx942.json"}
