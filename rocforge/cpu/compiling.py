"""Many kernels compiled at once, by processes: Numba compiles in Python, where one process does one thing at a time.

A process (`python -m rocforge.cpu.compiling`) reads names of kernels, a line each, and answers each with a line once its
machine code is in the cache. Whatever becomes of it: the caller takes what is there and makes the rest itself.
"""

import importlib
import queue
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

from rocforge.cpu.threads import KERNELS, Kernel

# Processes at the most, each of some 300 MiB; kernels for each at the least, or starting it takes longer.
MOST, LEAST_EACH = 8, 2


def compile_all(kernels: Iterable[Kernel], n_processes: int, report: Callable[[int, int], None] | None = None) -> None:
    """Compile what is not compiled yet, or load it from the cache; report(done, total)."""
    missing = [kernel for kernel in kernels if not kernel.is_compiled]

    def tell(done: int) -> None:
        if report and missing:
            report(done, len(missing))

    tell(0)
    made = 0
    for made in _made([kernel for kernel in missing if not kernel.is_kept], n_processes):
        tell(made)
    for done, kernel in enumerate(missing):
        tell(max(made, done))
        kernel.compile()
    tell(len(missing))


def _made(kernels: list[Kernel], n: int) -> Iterator[int]:
    """How many are in the cache by now, each time that one more is; nothing where one process would do as well."""
    n = min(n, MOST, len(kernels) // LEAST_EACH)
    if n < 2:
        return
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    processes = [subprocess.Popen([sys.executable, "-m", __name__], **pipes) for _ in range(n)]
    idle: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()
    for process in processes:
        idle.put(process)

    def make(kernel: Kernel) -> None:
        process = idle.get()
        try:
            process.stdin.write(kernel.name + "\n")
            process.stdin.flush()
            process.stdout.readline()
        except (OSError, ValueError):
            pass  # it has ended: whoever needs the kernel makes it
        idle.put(process)

    with ThreadPoolExecutor(n) as pool:
        try:
            for done, _ in enumerate(as_completed([pool.submit(make, kernel) for kernel in kernels])):
                yield done + 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()
                process.communicate()


def _serve() -> None:
    for line in sys.stdin:
        name = line.rstrip("\n")
        importlib.import_module(name.partition(" ")[0])
        KERNELS[name].compile()
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
