"""Blocking worth trying: for each kernel a few sizes around its default, of which no two come to the same on this CPU."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from rocforge.cpu.attention import tokens_at_once
from rocforge.cpu.lanes import ROWS
from rocforge.cpu.layout import TOKENS
from rocforge.cpu.rows import AT_ONCE, GROUP
from rocforge.cpu.tiles import piece_of, splits_of
from rocforge.probe.tuned import Key

# Candidates of a key, the default among them.
MOST = 10

_AROUND, _FAR_AROUND = (0.5, 1, 2), (0.25, 0.5, 1, 2, 4)
FACTORS: dict[str, dict[str, tuple[float, ...]]] = {
    "rows": {"AHEAD": _FAR_AROUND},
    "tiles": {"PANELS": _FAR_AROUND, "SHARES": (0.25, 0.5, 1, 2)},
    "bfloats": {"PANELS": (0.5, 1, 2, 4), "SHARES": (0.25, 0.5, 1, 2)},
    "attend": {"ROWS": _FAR_AROUND, "SHARES": _AROUND},
}


def _groups(tile: Any, key: Key, threads: int) -> Any:
    """Groups ahead; beyond a thread's share of the rows there is nothing that it will need."""
    N, K = key.shape
    return min(tile.AHEAD, -(-N // (AT_ONCE * threads)) * -(-K // GROUP))


def _panels(tile: Any, key: Key, threads: int, step: int) -> Any:
    """Panels that a thread takes at once, and what the tokens are split into."""
    N = key.shape[0]
    panels, blocks = -(-N // ROWS) if N >= ROWS else N, -(-key.tokens // TOKENS)
    splits = splits_of.py_func(tile.SHARES, threads, panels, blocks)
    return piece_of.py_func(panels * splits, tile.PANELS, tile.SHARES, threads, step), splits


def _query_rows(tile: Any, key: Key, threads: int) -> Any:
    _, group, kv_heads = key.shape
    return min(key.tokens, tokens_at_once.py_func(*tile, group, key.tokens, kv_heads, threads))


# By kernel: what a tile comes to.
_COMES_TO: dict[str, Callable[[Any, Key, int], Any]] = {
    "rows": _groups,
    "tiles": partial(_panels, step=1),
    "bfloats": partial(_panels, step=2),
    "attend": _query_rows,
}


def candidates(key: Key, default: Any, threads: int) -> list[Any]:
    """The default, then what comes to something else, the nearest first; all of the default's NamedTuple."""
    factors, comes_to = FACTORS[key.kernel], _COMES_TO[key.kernel]
    sizes = [[getattr(default, name) * f for f in around] for name, around in factors.items()]
    tiles = [default._replace(**dict(zip(factors, map(int, some), strict=True))) for some in itertools.product(*sizes) if _whole(some)]
    found = {comes_to(default, key, threads): default}
    for tile in sorted(tiles, key=lambda tile: _distance(tile, default)):
        found.setdefault(comes_to(tile, key, threads), tile)
    return list(found.values())[:MOST]


def _whole(sizes: tuple[float, ...]) -> bool:
    return all(n >= 1 and n == int(n) for n in sizes)


def _distance(tile: Any, default: Any) -> float:
    """Doublings between two tiles."""
    return sum(abs(math.log2(a / b)) for a, b in zip(tile, default, strict=True))
