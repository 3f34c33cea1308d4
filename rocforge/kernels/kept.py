"""Whose kernels Triton's cache keeps all: those need not be looked up before a model answers. Compiles nothing.

To find one takes Triton some 8 ms. A model has a hundred, for prompts of all lengths, and its first answer needs a few.
"""

import functools
import hashlib
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.cache import get_cache_manager

from rocforge.kernels import target
from rocforge.probe import cache, tuned

log = logging.getLogger(__name__)

_TOPIC = "kernels"


def is_kept(what: Any) -> bool:
    """Whether all that `keep` was given of it is still there, of these sources and tiles and for this device."""
    directories = cache.recall(_TOPIC, _key(what))
    if not isinstance(directories, list) or not all(os.path.isdir(directory) for directory in directories):
        return False
    log.info("Triton's cache holds the %d kernels", len(directories))
    return True


def keep(what: Any, hashes: Iterable[str]) -> None:
    """`what`, known by its repr, launches no kernels but those that Triton knows by these hashes, and has in its cache."""
    cache.remember(_TOPIC, _key(what), sorted({get_cache_manager(each).cache_dir for each in hashes}))


def _key(what: Any) -> tuple[str, ...]:
    name = hashlib.sha256(repr(what).encode()).hexdigest()
    at = target.current()
    own = [tuned.user_path(at.arch, triton.__version__)] if tuned.user_dir() else []
    tiles = cache.hash_of(path for path in own if path.exists())
    return name, repr(at), torch.__version__, triton.__version__, str(triton.knobs.cache.dir), _sources(), tiles


@functools.cache
def _sources() -> str:
    """Of the kernels, of how they are put together, and of the tiles that are shipped."""
    return cache.hash_of(path for path in sorted(Path(__file__).parent.rglob("*")) if path.suffix in (".py", ".json"))
