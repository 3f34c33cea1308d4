"""Tiles worth trying: for each tunable kernel a few sizes around its default, within what registers can hold.

A tile is tried with each of its fields halved, kept and doubled (or what FACTORS says), all fields
together; FITS leaves out what a kernel cannot be, and the MOST nearest to the default remain.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

from rocforge.gguf.formats import Q8_BLOCK
from rocforge.kernels import gemm
from rocforge.kernels.layout import UNIT
from rocforge.kernels.sizes import next_power_of_2
from rocforge.kernels.target import Target, use
from rocforge.probe.tuned import Key

# Candidates of a key, the default among them: half a second of compiling each, on an AMD target.
MOST = 12
# Registers of 32 bits that a lane's sums may take; half of what a lane of any target has at the most.
SUMS = 128

_AROUND = (0.5, 1, 2)
FACTORS: dict[str, dict[str, tuple[float, ...]]] = {
    "gemv_blocks": {"BN": _AROUND, "BU": (0.5, 1), "num_warps": _AROUND, "programs": (0.5, 0.75, 1, 1.25, 1.5)},
    "gemv_floats": {"BN": _AROUND, "BK": (0.5, 1, 2, 4), "num_warps": (1, 2, 4)},
    "gemv_norm": {"BU": (0.25, 0.5, 1, 2), "num_warps": _AROUND},
    "gemv_rope": {"BN": (0.5, 1), "BU": _AROUND, "num_warps": _AROUND},
    "gemm_blocks": {
        "BT": (0.5, 1), "BN": _AROUND, "BU": _AROUND, "num_warps": (0.5, 1), "num_stages": (0.5, 2 / 3, 1, 4 / 3, 1.5), "programs": _AROUND,
    },
    "gemm_floats": {"BT": (0.5, 1), "BN": _AROUND, "num_warps": (0.5, 1), "num_stages": (1, 2)},
    "gemm_plain": {"BT": _AROUND, "BN": _AROUND, "BK": _AROUND, "num_warps": (0.5, 1), "num_stages": (0.5, 1, 2)},
    "attend_tile": {"ROWS": _AROUND, "BN": _AROUND, "num_warps": _AROUND, "num_stages": (1, 2)},
    "attend_split": {"BN": _AROUND, "num_warps": _AROUND, "num_stages": (0.5, 1, 2)},
    "attend_lanes": {"elements": _AROUND, "heads": (0.5, 1, 2), "num_warps": _AROUND},
    "embed_blocks": {"BU": (0.25, 0.5, 1, 2), "num_warps": (1, 2, 4)},
    "embed_floats": {"BLOCK": (0.25, 0.5, 1, 2), "num_warps": (1, 2, 4)},
    "rms_norm_q8": {"num_warps": (0.5, 1, 2, 4)},
    "rms_norm_f32": {"num_warps": (0.5, 1, 2, 4)},
    "quantize_rows": {"B": (0.25, 0.5, 1, 2), "num_warps": (0.25, 0.5, 1)},
    "swiglu_q8": {"BB": (0.5, 1, 2, 4), "num_warps": _AROUND},
    "swiglu_f32": {"BF": (0.5, 1, 2, 4), "num_warps": _AROUND},
}
MAX_WARPS = 16


def _lanes(target: Target, tile: Any) -> int:
    return target.lanes * tile.num_warps


def _gemv_blocks(tile: Any, key: Key, target: Target) -> bool:
    """Each lane has a unit at the least, and sums of 16 rows and tokens at the most; of several tokens a step has no
    whole row (gemv.tile)."""
    U, BT = next_power_of_2(-(-key.shape[1] // UNIT)), next_power_of_2(key.tokens)
    units = tile.BN * tile.BU / _lanes(target, tile)
    return tile.BU <= (U if BT == 1 else max(1, U // 2)) and 1 <= units and units * BT <= 16


def _gemv_norm(tile: Any, key: Key, target: Target) -> bool:
    """Each lane has a unit of a step at the least and 16 at the most; a step is no wider than a row."""
    units = Q8_BLOCK * tile.BU / _lanes(target, tile)
    return tile.BU <= next_power_of_2(-(-key.shape[1] // UNIT)) and 1 <= units <= 16


def _gemv_rope(tile: Any, key: Key, target: Target) -> bool:
    """The same; rows are of pairs. They are no more than the default's: a head divides by those, which no key tells."""
    units = tile.BN * tile.BU / _lanes(target, tile)
    return tile.BU <= next_power_of_2(-(-key.shape[1] // UNIT)) and tile.BN % 2 == 0 and 1 <= units <= 16


def _gemv_floats(tile: Any, key: Key, target: Target) -> bool:
    sums = tile.BN * tile.BK * next_power_of_2(key.tokens) / _lanes(target, tile)
    return 1 <= sums <= SUMS / 2


def _gemm(tile: Any, key: Key, target: Target) -> bool:
    """A matrix instruction's tokens by 16 rows for each warp at the least; no more tokens than there are."""
    tokens = 16 if target.backend == "hip" else 8
    is_used = tokens <= tile.BT <= max(tokens, next_power_of_2(key.tokens))
    sums = tile.BT * tile.BN / _lanes(target, tile)
    return is_used and tile.BN >= 16 and sums <= SUMS and tile.BT * tile.BN >= 16 * tokens * tile.num_warps


def _gemm_blocks(tile: Any, key: Key, target: Target) -> bool:
    """Activations of each stage in shared memory at once; a step is no wider than a row, and has the units that are
    interleaved."""
    held = 2 * tile.BT * tile.BU * UNIT * max(1, tile.num_stages - (target.backend == "hip"))
    is_row = tile.BU <= next_power_of_2(-(-key.shape[1] // UNIT))
    with use(target):
        is_mixed = tile.BU % gemm.order(key.tokens).MIX == 0
    return _gemm(tile, key, target) and is_row and is_mixed and held <= target.lds_bytes


def _plain(tile: Any, key: Key, target: Target) -> bool:
    """Both operands of each stage in shared memory at once."""
    held = 2 * (tile.BT + tile.BN) * tile.BK * max(1, tile.num_stages - (target.backend == "hip"))
    return _gemm(tile, key, target) and tile.BK >= 32 and held <= target.lds_bytes


def _attend_tile(tile: Any, key: Key, target: Target) -> bool:
    D, group, _ = key.shape
    rows = max(tile.ROWS, next_power_of_2(group))
    return tile.ROWS == rows and min(rows, tile.BN) >= 16 and rows * D / _lanes(target, tile) <= SUMS


def _attend_split(tile: Any, key: Key, target: Target) -> bool:
    return tile.BN >= 16


def _attend_lanes(tile: Any, key: Key, target: Target) -> bool:
    _, group, _ = key.shape
    heads = min(tile.heads, group)
    return tile.heads <= max(1, next_power_of_2(group)) and tile.elements * heads <= SUMS / 2


def _lanes_have_work(name: str, columns: int, loads: int) -> Callable[[Any, Key, Target], bool]:
    """For a size of as many `columns`, that as many lanes as `loads` share: no more lanes than that, which would load
    the same once more, and no more columns than there are, of which lanes would load nothing."""

    def fits(tile: Any, key: Key, target: Target) -> bool:
        size = getattr(tile, name)
        return size * loads >= _lanes(target, tile) and size <= next_power_of_2(-(-key.shape[-1] // columns))

    return fits


def _anything(tile: Any, key: Key, target: Target) -> bool:
    return True


FITS: dict[str, Callable[[Any, Key, Target], bool]] = {
    "gemv_blocks": _gemv_blocks,
    "gemv_floats": _gemv_floats,
    "gemv_norm": _gemv_norm,
    "gemv_rope": _gemv_rope,
    "gemm_blocks": _gemm_blocks,
    "gemm_floats": _gemm,
    "gemm_plain": _plain,
    "attend_tile": _attend_tile,
    "attend_split": _attend_split,
    "attend_lanes": _attend_lanes,
    "embed_blocks": _lanes_have_work("BU", UNIT, 1),
    "embed_floats": _lanes_have_work("BLOCK", 1, 1),
    "quantize_rows": _lanes_have_work("B", 32, 32),
    "swiglu_q8": _lanes_have_work("BB", 32, 32),
    "swiglu_f32": _lanes_have_work("BF", 1, 1),
}


def candidates(key: Key, default: Any, target: Target) -> list[Any]:
    """The default, then what differs from it, the nearest first; all of the default's NamedTuple."""
    factors = FACTORS[key.kernel]
    fits, found = FITS.get(key.kernel, _anything), []
    for chosen in itertools.product(*factors.values()):
        sizes = {name: getattr(default, name) * factor for name, factor in zip(factors, chosen, strict=True)}
        if any(n < 1 or n != int(n) for n in sizes.values()) or sizes.get("num_warps", 1) > MAX_WARPS:
            continue
        tile = default._replace(**{name: int(n) for name, n in sizes.items()})
        if tile != default and tile not in found and fits(tile, key, target):
            found.append(tile)
    return [default, *sorted(found, key=lambda tile: _distance(tile, default))[: MOST - 1]]


def _distance(tile: Any, default: Any) -> tuple[float, int]:
    """Doublings between two tiles; of two that are equally far, that which changes fewer fields first."""
    steps = [abs(math.log2(a / b)) for a, b in zip(tile, default, strict=True) if a and b]
    return sum(steps), sum(s > 0 for s in steps)
