"""What the CPU does when it is tried: each vector extension by one instruction, memory by reading it.

An instruction that the CPU, the hypervisor or the system does not let pass ends the process that runs
it: so each runs in a fork of a child of its own. LLVM assembles them.
"""

import ctypes
import faulthandler
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from rocforge.probe.compiler import child_environment
from rocforge.probe.cpu import available_bytes

log = logging.getLogger(__name__)

TIMEOUT_S = 60

# extension: (LLVM's features, instructions). AMX first loads a tile configuration from the address $0.
X86 = {
    "avx2": ("+avx2", "vpaddb %ymm0, %ymm0, %ymm0"),
    "fma": ("+fma", "vfmadd231ps %ymm0, %ymm0, %ymm0"),
    "f16c": ("+f16c", "vcvtph2ps %xmm0, %ymm0"),
    "avxvnni": ("+avxvnni", "{vex} vpdpbusd %ymm0, %ymm0, %ymm0"),
    "avx512f": ("+avx512f", "vpaddd %zmm0, %zmm0, %zmm0"),
    "avx512bw": ("+avx512bw", "vpaddb %zmm0, %zmm0, %zmm0"),
    "avx512vl": ("+avx512vl", "vpaddd %ymm16, %ymm16, %ymm16"),
    "avx512vbmi": ("+avx512vbmi", "vpermb %zmm0, %zmm0, %zmm0"),
    "avx512vnni": ("+avx512vnni", "vpdpbusd %zmm0, %zmm0, %zmm0"),
    "avx512bf16": ("+avx512bf16", "vdpbf16ps %zmm0, %zmm0, %zmm0"),
    "amx-int8": ("+amx-tile,+amx-int8", "ldtilecfg ($0)\ntdpbssd %tmm2, %tmm1, %tmm0\ntilerelease"),
    "amx-bf16": ("+amx-tile,+amx-bf16", "ldtilecfg ($0)\ntdpbf16ps %tmm2, %tmm1, %tmm0\ntilerelease"),
}
ARM = {
    "neon": ("+neon", "fmla v0.4s, v0.4s, v0.4s"),
    "dotprod": ("+dotprod", "sdot v0.4s, v0.16b, v0.16b"),
    "i8mm": ("+i8mm", "smmla v0.4s, v0.16b, v0.16b"),
    "sve": ("+sve", "fmla z0.s, p0/m, z0.s, z0.s"),
    "sve2": ("+sve2", "sqdmulh z0.s, z0.s, z0.s"),
}
TRIALS = {"x86_64": X86, "AMD64": X86, "aarch64": ARM, "arm64": ARM}

# Linux lends AMX's registers on request, once for a process and those forked from it.
_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA = 158, 0x1023, 18

# Read several times, the fastest counts. Far more than caches hold, and little enough to be made quickly.
_BYTES, _READ_S = 256 << 20, 0.25


def try_isa() -> tuple[str, ...] | None:
    """The extensions whose instructions ran; None where nothing could be tried here."""
    if not (trials := TRIALS.get(platform.machine())) or not hasattr(os, "fork"):
        return None
    command = [sys.executable, "-m", __name__]
    try:
        ran = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
        passed = json.loads(ran.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired, ValueError, IndexError) as error:
        log.warning("the CPU's instructions could not be tried: %s", error)
        return None
    return tuple(name for name in trials if name in passed)


def read_bytes_per_s(threads: int) -> float:
    """How fast that many threads together read memory. Takes about half a second, and up to 256 MiB for it."""
    import numpy as np

    words = np.empty(max(1 << 20, min(_BYTES, available_bytes() // 4) // 4), np.int32)
    parts = np.array_split(words, threads)
    best_s, end_s = float("inf"), None
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: part.fill(1), parts))  # takes the pages; each thread its own
        while end_s is None or time.perf_counter() < end_s:
            start_s = time.perf_counter()
            end_s = end_s or start_s + _READ_S
            list(pool.map(np.max, parts))  # of numpy's reductions the one that waits for nothing but memory
            best_s = min(best_s, time.perf_counter() - start_s)
    return words.nbytes / best_s


# ---- in the child


def _main() -> None:
    """Prints the names of those that ran."""
    trials = TRIALS[platform.machine()]
    if "amx-int8" in trials:
        ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA)
    # Palette 1; 8 tiles of 16 rows of 64 bytes.
    tiles = (ctypes.c_uint8 * 64)(1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8)
    sys.stdout.write(json.dumps([name for name, trial in trials.items() if _runs(*trial, ctypes.addressof(tiles))]))


def _runs(features: str, instructions: str, argument: int) -> bool:
    """Whether a forked process survives them."""
    machine, module = assemble(features, instructions)
    from llvmlite import binding

    engine = binding.create_mcjit_compiler(module, machine)
    run = ctypes.CFUNCTYPE(None, ctypes.c_size_t)(engine.get_function_address("trial"))
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # such an end is an answer: neither a traceback nor a core file is wanted
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        run(argument)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def assemble(features: str, instructions: str, triple: str | None = None):
    """LLVM's machine with these features, and a module of one function, `trial(address)`, that runs the instructions."""
    from llvmlite import binding, ir

    if triple:
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    binding.initialize_native_asmparser()
    word = ir.IntType(64)
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [word]), "trial")
    builder = ir.IRBuilder(function.append_basic_block())
    builder.asm(ir.FunctionType(ir.VoidType(), [word]), instructions, "r,~{memory}", [function.args[0]], True)
    builder.ret_void()
    target = binding.Target.from_triple(triple) if triple else binding.Target.from_default_triple()
    return target.create_target_machine(cpu="", features=features), binding.parse_assembly(str(module))


if __name__ == "__main__":
    _main()
