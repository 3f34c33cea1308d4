"""Small verdicts kept from run to run, in the user's cache directory. Knows nothing of what they say."""

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
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
        # Written beside it and moved into its place: a reader finds the old or the new, never a half.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            json.dump({"key": list(key), "value": value}, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        log.info("%s is not remembered: %s", topic, error)


def _path(topic: str, key: Sequence[str | None]) -> Path | None:
    root = user_cache_dir()
    return root / "probe" / f"{topic}-{hashlib.sha256(repr(list(key)).encode()).hexdigest()[:16]}.json" if root else None
