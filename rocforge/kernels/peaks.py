"""How fast this GPU reads and multiplies: what rooflines are made of. Mirrors cpu/peaks.py; knows no op.

Each figure is the best of several runs of torch's own kernels, replayed as one graph so that no launch is
waited for. The logic runs in tests; it has not been run on a GPU yet.
"""

from collections.abc import Callable

import torch

from rocforge.kernels.launch import graph_of

RUNS = 9
# Bytes that one measurement of the bandwidth reads at least, and those of the smallest buffer that it is asked
# for: it would be the launches that count in a smaller one.
READ_BYTES, LEAST_BYTES = 1 << 30, 16 << 20
# Rows, columns and depth of the products; many enough to fill a large GPU.
SIZE = 8192
VECTOR_SIZE = 4096


def _device(backend) -> torch.device:
    return backend.empty(1).device


def _best_s(device: torch.device, run: Callable[[], None]) -> float:
    """The shortest time of `run`, recorded as a graph, by the device's own clock."""
    if device.type != "cuda":
        return _best_on_host_s(run)
    with torch.cuda.device(device):
        graph = graph_of(run)
        times_ms = []
        for _ in range(1 + RUNS):
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            stop.record()
            stop.synchronize()
            times_ms.append(start.elapsed_time(stop))
    return min(times_ms[1:]) * 1e-3


def _best_on_host_s(run: Callable[[], None]) -> float:
    """Where torch has no GPU, and the kernels run in the interpreter: tests."""
    import time

    times_s = []
    for _ in range(2):
        start_s = time.perf_counter()
        run()
        times_s.append(time.perf_counter() - start_s)
    return min(times_s)


def bandwidth(backend, n_bytes: int) -> float:
    """Bytes a second that a reduction reads of a buffer of `n_bytes`, again and again."""
    n = max(1, n_bytes // 4)
    with torch.inference_mode():
        data = torch.ones(n, dtype=torch.float32, device=_device(backend))
        out = torch.empty((), dtype=torch.float32, device=data.device)
        passes = max(1, -(-READ_BYTES // (4 * n))) if data.is_cuda else 1

        def run() -> None:
            for _ in range(passes):
                torch.sum(data, dim=0, out=out)

        return 4 * n * passes / _best_s(data.device, run)


def _products(backend, size: int, dtype: torch.dtype) -> float:
    with torch.inference_mode():
        device = _device(backend)
        size = size if device.type == "cuda" else 256
        # Not zeros: a card that multiplies these draws less power and runs faster.
        x, y = (torch.randn((size, size), dtype=torch.float32, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(x)
        return 2 * size**3 / _best_s(device, lambda: torch.mm(x, y, out=out))


def matrix_peak(backend) -> tuple[float, str]:
    """Operations a second (a product and a sum are two) of a large product in float16, and what makes them."""
    return _products(backend, SIZE, torch.float16), "float16 torch.mm"


def vector_peak(backend) -> tuple[float, str]:
    """The same in float32, its operands not cut to fewer bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return _products(backend, VECTOR_SIZE, torch.float32), "float32 torch.mm"
    finally:
        torch.set_float32_matmul_precision(before)
