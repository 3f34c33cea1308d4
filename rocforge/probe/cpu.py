"""The CPU as this process may use it: cores, memory, instruction sets. Reads what the system says; tries nothing."""

import functools
import math
import os
import platform
import resource
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# LLVM's names of the vector extensions that matter to our kernels, x86 and then Arm, weakest first.
EXTENSIONS = (
    *("avx2", "fma", "f16c", "avxvnni"),
    *("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni", "avx512bf16", "amx-int8", "amx-bf16"),
    *("neon", "dotprod", "i8mm", "sve", "sve2"),
)

# Limit, use, and the key in memory.stat of what the kernel drops when it needs room: versions 2 and 1.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class CPU:
    """What does not change while the process runs."""

    name: str  # as its maker calls it
    target: str  # as LLVM calls it
    isa: tuple[str, ...]  # those of EXTENSIONS that LLVM sees on this host
    threads: int  # that may run at once in this process
    cores: int  # that these run on: SMT siblings share one


@functools.cache
def describe() -> CPU:
    """This host's CPU."""
    from llvmlite import binding  # what Numba compiles for is what LLVM sees

    features = binding.get_host_cpu_features()
    return CPU(
        name=_name(Path("/")),
        target=binding.get_host_cpu_name(),
        isa=tuple(e for e in EXTENSIONS if features.get(e)),
        threads=usable_threads(),
        cores=usable_cores(),
    )


def usable_threads(root: Path = Path("/")) -> int:
    """Threads that may run at once: the affinity mask's CPUs, no more than the control groups' quota.

    A quota is rounded down: where more threads run than it allows, all of them are stopped for the
    rest of the period, and those that wait at a barrier burn what is left of it.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((_quota(group) for group in _cgroups("cpu", root)), default=math.inf)
    return max(1, int(min(mask, quota)))


def available_bytes(root: Path = Path("/")) -> int:
    """Memory that this process can still take: the system's, no more than any control group leaves."""
    system = _fields(root / "proc/meminfo").get("MemAvailable:")
    if system is None:  # not Linux: all that there is, for want of better
        free_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        free_bytes = int(system) * 1024
    return int(max(0, min([free_bytes, *(_room(group) for group in _cgroups("memory", root))])))


def gives_huge_pages(root: Path = Path("/")) -> bool:
    """Whether the system gives huge pages to memory that asks for them: Linux, where an administrator has not said never."""
    return not {"[always]", "[madvise]"}.isdisjoint(_words(root / "sys/kernel/mm/transparent_hugepage/enabled"))


def huge_mappings(root: Path = Path("/")) -> Iterator[tuple[int, int, int]]:
    """(first address, address behind the last, bytes in huge pages) of each mapping of this process that has some."""
    span = (0, 0)
    for words in map(str.split, _lines(root / "proc/self/smaps")):
        if words[0] == "AnonHugePages:":
            if words[1] != "0":
                yield *span, int(words[1]) * 1024
        elif not words[0].endswith(":"):  # a mapping's first line: its addresses, its rights, its file
            first, last = words[0].split("-")
            span = int(first, 16), int(last, 16)


def resident_bytes() -> int:
    """Memory of this process that is resident now, mapped files included."""
    words = _words(Path("/proc/self/statm"))
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if words else peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most memory that this program has had resident at once, mapped files included."""
    kib = _fields(Path("/proc/self/status")).get("VmHWM:")
    if kib:
        return int(kib) * 1024
    # Where there is no /proc. Of Linux this would not do: there the peak includes the process that became this one.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # man getrusage: bytes on macOS, KiB on Linux


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that the usable threads can have to themselves: of SMT siblings in the affinity mask one counts.

    Kernels keep a core's vector units or its way to memory busy; a second thread there mostly waits for the first.
    Where the system does not tell siblings, each CPU is a core.
    """
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    cores = {" ".join(_words(root / topology.format(cpu))) or cpu for cpu in cpus}
    return min(len(cores), usable_threads(root))


def _name(root: Path) -> str:
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return " ".join(value.split())
    return platform.processor() or platform.machine()


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """The directories of the control groups that bind this process, innermost first.

    /proc/self/cgroup holds a line `id:controllers:path` for each version 1 hierarchy and `0::path`
    for version 2 (man 7 cgroups). In a container the path may be the host's, of which only the
    outermost directory is there: hence all of them are given, and those that are absent bind nothing.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        group = mount / path.lstrip("/")
        while group != mount:
            yield group
            group = group.parent
        yield mount


def _quota(group: Path) -> float:
    """CPUs that a control group may keep busy; infinite where it sets no limit."""
    words = _words(group / "cpu.max") or [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
    if len(words) != 2 or words[0] in ("max", "-1"):
        return math.inf
    return int(words[0]) / int(words[1])


def _room(group: Path) -> float:
    """Bytes left under a control group's memory limit; infinite where it sets none."""
    for limit, used, reclaimable in _MEMORY_FILES:
        words = [*_words(group / limit), *_words(group / used)]
        if len(words) == 2 and words[0] != "max":
            return int(words[0]) - int(words[1]) + int(_fields(group / "memory.stat").get(reclaimable, 0))
    return math.inf


def _lines(path: Path) -> list[str]:
    """The lines of a file of the system; none where it is absent or closed to us."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _fields(path: Path) -> dict[str, str]:
    """The first two words of each line, as key and value."""
    return {words[0]: words[1] for words in map(str.split, _lines(path)) if len(words) > 1}
