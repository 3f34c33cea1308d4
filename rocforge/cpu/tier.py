"""Which instructions kernels may use on this host. Emits none."""

import ctypes
import functools
import os
import platform
import sys

from llvmlite import binding

from rocforge.errors import DeviceError

# What kernels may use beyond portable LLVM, and the features of a host that has it; the best comes last.
TIERS = {
    "generic": (),
    "avx2": ("avx2", "fma", "f16c"),
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
    "amx": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "amx-tile", "amx-bf16"),
}

# Linux's arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), by the number of the system call.
_ARCH_PRCTL, _ASK, _TILE_DATA = 158, 0x1023, 18


@functools.cache
def tier() -> str:
    """The best of TIERS that this host has, or the lower one that ROCFORGE_CPU_ISA names.

    Integer sums are exact, so all give the same bits, but for many tokens by AMX (matmul.py). Raises DeviceError for a tier that is not to be had.
    """
    features = binding.get_host_cpu_features()
    found = [name for name, needed in TIERS.items() if all(features.get(f) for f in needed)]
    if "amx" in found and not _tiles_permitted():
        found.remove("amx")
    forced = os.environ.get("ROCFORGE_CPU_ISA") or found[-1]
    if forced not in found:
        raise DeviceError(f"ROCFORGE_CPU_ISA is {forced!r}; this machine has {', '.join(found)}")
    return forced


def at_least(name: str) -> bool:
    """Whether kernels may use what the tier of that name has."""
    order = list(TIERS)
    return order.index(tier()) >= order.index(name)


def converts_halves() -> bool:
    """Whether the host has instructions between float16 and float32: of x86, what has F16C; of others, all."""
    return platform.machine() not in ("x86_64", "AMD64", "i386", "i686") or bool(binding.get_host_cpu_features().get("f16c"))


def _tiles_permitted() -> bool:
    """Asks the system to let this process, its threads included, use AMX's tiles: else they end it."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ASK, _TILE_DATA) == 0
