"""Which instructions kernels may use on this host. Emits none."""

import functools
import os

from llvmlite import binding

from rocforge.errors import DeviceError

# What kernels may use beyond portable LLVM, and the features of a host that has it; the best comes last.
TIERS = {
    "generic": (),
    "avx2": ("avx2", "fma", "f16c"),
    "avx512vnni": ("avx512f", "avx512bw", "avx512vl", "avx512vnni"),
}


@functools.cache
def tier() -> str:
    """The best of TIERS that this host has, or the lower one that ROCFORGE_CPU_ISA names.

    Integer sums are exact, so all give the same bits. Raises DeviceError for a tier that is not to be had.
    """
    features = binding.get_host_cpu_features()
    found = [name for name, needed in TIERS.items() if all(features.get(f) for f in needed)]
    forced = os.environ.get("ROCFORGE_CPU_ISA") or found[-1]
    if forced not in found:
        raise DeviceError(f"ROCFORGE_CPU_ISA is {forced!r}; this machine has {', '.join(found)}")
    return forced
