"""What is kept from run to run in the user's cache directory, small verdicts above all. Knows nothing of what they say."""

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


@functools.cache
def user_cache_dir() -> Path | None:
    """A directory of this user's that can be written to; None where there is none.

    XDG_CACHE_HOME or ~/.cache; else below the temporary directory, if what is there is ours.
    """
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    user = os.getuid() if hasattr(os, "getuid") else 0
    temporary = Path(tempfile.gettempdir()) / f"rocforge-{user}"
    for directory in (Path(home) / "rocforge", temporary):
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            if directory is temporary and directory.lstat().st_uid != user:
                raise PermissionError("it belongs to another user, whose verdicts would be believed")
            with tempfile.TemporaryFile(dir=directory):
                return directory
        except OSError as error:
            log.info("no cache in %s: %s", directory, error)
    return None


def recall(topic: str, key: Sequence[str | None]) -> Any:
    """What `remember` was given last for this topic and key; None where nothing is known."""
    path = _path(topic, key)
    try:
        entry = json.loads(path.read_text()) if path else None
    except (OSError, ValueError):
        return None
    return entry["value"] if isinstance(entry, dict) and entry.get("key") == list(key) else None


def remember(topic: str, key: Sequence[str | None], value: Any) -> None:
    """Keep a value that JSON can hold. Where nothing can be written, it is asked anew the next time."""
    path = _path(topic, key)
    if path is None:
        return
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps({"key": list(key), "value": value}, indent=1))
    except OSError as error:
        log.info("%s is not remembered: %s", topic, error)


def write_whole(path: Path, text: str, mode: int = 0o600) -> None:
    """Beside it first and then into its place: a reader finds the old or the new, never a half. Raises OSError."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(text)
    os.chmod(file.name, mode)
    os.replace(file.name, path)


def hash_of(files: Iterable[Path]) -> str:
    """16 hex digits of the files' names and contents, in the order given: what is kept for these sources ends with them."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _path(topic: str, key: Sequence[str | None]) -> Path | None:
    root = user_cache_dir()
    return root / "probe" / f"{topic}-{hashlib.sha256(repr(list(key)).encode()).hexdigest()[:16]}.json" if root else None
