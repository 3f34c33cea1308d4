"""Memory in huge pages, handed out piece by piece, and pages of a mapped file given back. Fills nothing.

A processor finds 2 MiB of memory by one entry of its page tables where pages are huge, and 4 KiB where a file is
mapped: reading all weights for each token, it walks the tables less. Linux only (probe.cpu.gives_huge_pages).
"""

import mmap
from collections.abc import Iterable

import numpy as np

from rocforge.errors import CapacityError
from rocforge.probe.cpu import huge_mappings

HUGE_BYTES = 2 << 20
# Addresses that are reserved at a time, at the least: pages that nobody touches take no memory.
REGION_BYTES = 256 << 20
_LINE = 64


class Pages:
    """Regions of huge pages. One is given back when the last array in it goes, and the Pages or its next region."""

    def __init__(self):
        self._region, self._used = np.empty(0, np.uint8), 0

    def take(self, n_bytes: int) -> np.ndarray:
        """uint8 [n_bytes] of zeros, beginning on a cache line. Raises CapacityError where there are no addresses left."""
        start = -(-self._used // _LINE) * _LINE
        if start + n_bytes > len(self._region):
            self._region, start = _reserve(max(n_bytes, REGION_BYTES)), 0
        self._used = start + n_bytes
        return self._region[start : self._used]


def _reserve(n_bytes: int) -> np.ndarray:
    """uint8 of n_bytes at the least, whole huge pages."""
    n_bytes = -(-n_bytes // HUGE_BYTES) * HUGE_BYTES
    try:
        mapped = mmap.mmap(-1, n_bytes + HUGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise CapacityError(
            f"weights in huge pages: the system has no {n_bytes >> 20:,} MiB ({error.strerror}); "
            "leave them where the file is mapped (--no-huge-pages)"
        ) from None
    mapped.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(mapped, np.uint8)
    start = -_address(raw) % HUGE_BYTES
    return raw[start : start + n_bytes]


def huge_bytes(arrays: Iterable[np.ndarray]) -> int:
    """Bytes that are in huge pages now, of all mappings that these arrays are in."""
    spans = [(_address(a), _address(a) + a.nbytes) for a in arrays]
    return sum(n for first, last, n in huge_mappings() if any(first < stop and start < last for start, stop in spans))


def drop(array: np.ndarray) -> None:
    """Take the pages of a mapped file that are wholly inside of the array out of this process's memory.

    Who reads them again finds them in the file. Of memory that is no file's, or may have been written, nothing is dropped.
    """
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    owner = owner.obj if isinstance(owner, memoryview) else owner
    if not isinstance(owner, mmap.mmap) or array.flags.writeable:
        return
    offset = _address(array) - _address(np.frombuffer(owner, np.uint8))
    start, stop = -(-offset // mmap.PAGESIZE), (offset + array.nbytes) // mmap.PAGESIZE
    if start < stop:
        owner.madvise(mmap.MADV_DONTNEED, mmap.PAGESIZE * start, mmap.PAGESIZE * (stop - start))


def _address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
