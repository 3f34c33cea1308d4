"""How long each launch of a graph took, by torch's profiler. Launches nothing itself.

Kernels of a graph are told by the driver one by one, in the order in which they ran: on one stream, that
in which they were recorded. Time between them belongs to none. This has not been run on a GPU yet:
what is tested is how events become times.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from rocforge.errors import DeviceError
from rocforge.kernels.launch import Launch


def measure(
    run: Callable[[], None], synchronize: Callable[[], None], launches: Sequence[Launch], counts: Sequence[int]
) -> np.ndarray:
    """float64 [len(counts)] seconds: `run` runs `launches`, of which `counts` tells how many belong to each op."""
    _warm_up()
    # The first run loads the code, the second records the graph; from then on it is replayed.
    for _ in range(2):
        run()
    synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        run()
        synchronize()
    return by_op(found.events(), [launch.kernel.__name__ for launch in launches], counts)


@functools.cache
def _warm_up() -> None:
    """A profile that nobody reads: the first of a process may miss what runs while the tracer starts."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]):
        if torch.cuda.is_available():
            torch.zeros(1, device="cuda").add_(1)
            torch.cuda.synchronize()


def by_op(events: Iterable[Any], names: Sequence[str], counts: Sequence[int]) -> np.ndarray:
    """float64 [len(counts)] seconds from the profiler's events; `names` are the kernels' in launch order.

    Events of other names (copies, fills) are left out. Raises DeviceError where the kernels are not those launched.
    """
    known = set(names)
    kernels = sorted((e for e in events if e.name in known), key=lambda e: e.time_range.start)
    if [e.name for e in kernels] != list(names):
        raise DeviceError(
            f"torch's profiler saw {len(kernels)} kernels where {len(names)} were launched, or others; "
            "does this torch trace graphs on this GPU?"
        )
    ends = np.cumsum([0, *(e.time_range.elapsed_us() for e in kernels)]) * 1e-6
    places = np.cumsum([0, *counts])
    assert places[-1] == len(names), (places[-1], len(names))
    return np.diff(ends[places])
