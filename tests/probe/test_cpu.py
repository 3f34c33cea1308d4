"""Cores and memory under affinity masks and control groups of both versions, on made-up system trees."""

import os
import subprocess
import sys

import numpy as np
import pytest

from rocforge.probe import cpu

GIB = 2**30


def make(root, files):
    """Writes {path: text} below root."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def meminfo(available_bytes):
    return {"proc/meminfo": f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: {available_bytes // 1024} kB\n"}


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(16)), raising=False)


V2 = {"proc/self/cgroup": "0::/pod/box\n"}
V1 = {"proc/self/cgroup": "7:cpu,cpuacct:/pod/box\n4:memory:/pod/box\n0::/\n"}


@pytest.mark.parametrize(
    "files, threads",
    [
        ({}, 16),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000\n"}, 16),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "400000 100000\n"}, 4),
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "250000 100000\n"}, 2),  # rounded down
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "50000 100000\n"}, 1),  # but never to none
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "6400000 100000\n"}, 16),  # more than the mask has
        ({**V2, "sys/fs/cgroup/pod/box/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3),
        ({**V2, "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),  # a container sees its own group as the root
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_quota_us": "500000\n",
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_period_us": "100000\n",
            },
            5,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/pod/box/cpu.cfs_period_us": "100000\n",
            },
            16,
        ),
    ],
)
def test_usable_threads(tmp_path, files, threads):
    assert cpu.usable_threads(make(tmp_path, files)) == threads


def test_affinity_binds(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 5}, raising=False)
    files = {**V2, "sys/fs/cgroup/pod/box/cpu.max": "400000 100000"}
    assert cpu.usable_threads(make(tmp_path, files)) == 2


def siblings(*groups):
    """The topology of CPUs of which each group shares a core."""
    path = "sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    return {path.format(cpu): ",".join(map(str, group)) + "\n" for group in groups for cpu in group}


def test_of_siblings_one_counts(tmp_path, monkeypatch):
    pairs = siblings(*((i, i + 8) for i in range(8)))
    assert cpu.usable_cores(make(tmp_path / "smt", pairs)) == 8
    assert cpu.usable_cores(make(tmp_path / "unknown", {})) == 16
    quota = {**V2, "sys/fs/cgroup/pod/box/cpu.max": "300000 100000\n"}
    assert cpu.usable_cores(make(tmp_path / "quota", {**pairs, **quota})) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {1, 2, 9}, raising=False)
    assert cpu.usable_cores(make(tmp_path / "mask", pairs)) == 2


def v2_memory(limit, used, inactive):
    group = "sys/fs/cgroup/pod/box"
    return {
        f"{group}/memory.max": f"{limit}\n",
        f"{group}/memory.current": f"{used}\n",
        f"{group}/memory.stat": f"anon 5\nfile {2 * inactive}\ninactive_file {inactive}\nactive_file {inactive}\n",
    }


def v1_memory(limit, used, inactive):
    group = "sys/fs/cgroup/memory/pod/box"
    return {
        f"{group}/memory.limit_in_bytes": f"{limit}\n",
        f"{group}/memory.usage_in_bytes": f"{used}\n",
        f"{group}/memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, 8 * GIB),
        ({**V2, **v2_memory("max", 3 * GIB, GIB)}, 8 * GIB),
        ({**V2, **v2_memory(4 * GIB, 3 * GIB, 0)}, GIB),
        ({**V2, **v2_memory(4 * GIB, 3 * GIB, 2 * GIB)}, 3 * GIB),  # cached files give way
        ({**V2, **v2_memory(4 * GIB, 5 * GIB, 0)}, 0),  # over the limit already
        ({**V2, **v2_memory(64 * GIB, 0, 0)}, 8 * GIB),  # more than the machine has to spare
        ({**V1, **v1_memory(2**63 - 4096, 3 * GIB, 0)}, 8 * GIB),  # how version 1 says "no limit"
        ({**V1, **v1_memory(4 * GIB, 3 * GIB, GIB)}, 2 * GIB),
    ],
)
def test_available_bytes(tmp_path, files, expected):
    assert cpu.available_bytes(make(tmp_path, {**meminfo(8 * GIB), **files})) == expected


def test_available_bytes_where_the_system_does_not_tell(tmp_path):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert cpu.available_bytes(tmp_path) == total


@pytest.mark.parametrize(
    ("said", "gives"), [("[always] madvise never\n", True), ("always [madvise] never\n", True), ("always madvise [never]\n", False)]
)
def test_huge_pages_are_the_administrators_to_give(tmp_path, said, gives):
    assert cpu.gives_huge_pages(make(tmp_path, {"sys/kernel/mm/transparent_hugepage/enabled": said})) == gives
    assert not cpu.gives_huge_pages(tmp_path / "elsewhere")


def test_mappings_in_huge_pages(tmp_path):
    smaps = (
        "7f0000000000-7f0000600000 rw-p 00000000 00:00 0 \nSize:  6144 kB\nAnonHugePages:      4096 kB\nVmFlags: rd wr hg\n"
        "7f0000800000-7f0000900000 r--p 00000000 fe:00 12   /a b.gguf\nSize:  1024 kB\nAnonHugePages:         0 kB\n"
    )
    assert list(cpu.huge_mappings(make(tmp_path, {"proc/self/smaps": smaps}))) == [(0x7F0000000000, 0x7F0000600000, 4 << 20)]


def test_this_host():
    """What is said of this machine holds together; `describe` asks once."""
    host = cpu.describe()
    assert host is cpu.describe()
    assert host.name and host.target and 1 <= host.threads
    assert set(host.isa) <= set(cpu.EXTENSIONS)
    if "avx512vnni" in host.isa:
        assert {"avx2", "avx512f"} <= set(host.isa)
    assert 0 < cpu.available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_peak_memory_is_this_programs_and_not_its_parents():
    """Linux hands a process's peak on to the program that it becomes, and a test runner's is large."""
    large = np.ones(64 << 20)  # float64, touched
    code = "from rocforge.probe.cpu import peak_resident_bytes as peak; print(peak())"
    found = int(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)
    assert 1 << 20 < found < large.nbytes < cpu.peak_resident_bytes()
