"""What kernels are compiled for: the GPU's architecture, and what of it a kernel has to know. Runs nothing.

Facts by architecture stand here and nowhere else. Whether the installed Triton compiles for one of
them is Triton's to say (`probe`, `kernels.inspect` ask it).
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import triton
from triton.backends.compiler import GPUTarget

from rocforge.kernels.cards import CARDS


@dataclass(frozen=True)
class Target:
    """An architecture. `lanes` run in lockstep: AMD's wave, NVIDIA's warp; nothing else may assume their number.

    `isa` names what `kernels.asm` writes for it; `matrix` is the prefix of its matrix instructions in
    the assembly, "" where it has none; `lds_bytes` is the shared memory of one program at the most.
    """

    backend: str  # "hip", "cuda", or "interpreter": Triton's, in numpy
    arch: str
    lanes: int
    isa: str
    matrix: str
    lds_bytes: int
    units: int = 1  # compute units: of the device, or of the target's largest card

    @property
    def triton(self) -> GPUTarget:
        """As Triton calls it."""
        return GPUTarget(self.backend, int(self.arch[2:]) if self.backend == "cuda" else self.arch, self.lanes)

    @property
    def family(self) -> str:
        """What tiles are shared by: "cdna", "rdna", "nvidia" or "interpreter"."""
        return {"cuda": "nvidia", "interpreter": "interpreter"}.get(self.backend, "cdna" if self.lanes == 64 else "rdna")

    @property
    def begins_early(self) -> bool:
        """Whether a launch can begin while the one before it ends: see early.py."""
        return self._is_hopper_or_later

    @property
    def has_tma(self) -> bool:
        """Whether one instruction copies a box of an array to shared memory (PTX's cp.async.bulk.tensor)."""
        return self._is_hopper_or_later

    @property
    def _is_hopper_or_later(self) -> bool:
        return self.backend == "cuda" and int(self.arch[2:]) >= 90

    @property
    def has_warpgroups(self) -> bool:
        """Whether four warps multiply matrices together (PTX's wgmma, which this architecture alone has)."""
        return self.arch == "sm90"


KIB = 1024
UNKNOWN_UNITS = 32
# LLVM's AMDGPU guide: wave64 on GCN and CDNA, wave32 on RDNA; gfx906 multiplies matrices lane by lane.
AMD: dict[str, Target] = {
    arch: Target("hip", arch, lanes, isa, matrix, lds, CARDS[arch].compute_units if arch in CARDS else UNKNOWN_UNITS)
    for arches, lanes, isa, matrix, lds in (
        (("gfx906",), 64, "gcn", "", 64 * KIB),
        (("gfx908", "gfx90a", "gfx942"), 64, "gcn", "v_mfma", 64 * KIB),
        (("gfx950",), 64, "gcn", "v_mfma", 160 * KIB),
        (("gfx1030", "gfx1031", "gfx1032", "gfx1033", "gfx1034", "gfx1035", "gfx1036"), 32, "gcn", "", 64 * KIB),
        (("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"), 32, "rdna", "v_wmma", 64 * KIB),
        (("gfx1200", "gfx1201"), 32, "rdna", "v_wmma", 64 * KIB),
    )
    for arch in arches
}

_INTERPRETER = Target("interpreter", "numpy", 1, "portable", "", 1 << 30)

_override: contextvars.ContextVar[Target | None] = contextvars.ContextVar("target", default=None)


def current() -> Target:
    """The target of the launches made now: that of the device, unless `use` says otherwise."""
    if override := _override.get():
        return override
    return _INTERPRETER if triton.knobs.runtime.interpret else _active(torch.cuda.current_device())


@functools.cache
def _active(device: int) -> Target:
    active, units = triton.runtime.driver.active.get_current_target(), torch.cuda.get_device_properties(device).multi_processor_count
    if active.backend == "hip":
        found = amd(active.arch)
        # On RDNA HIP is taken to count work-group processors, of two compute units each (never seen on a card). If it
        # counts compute units, launches have up to twice the programs that run at once, and compute the same.
        return replace(found, units=units * (2 if found.family == "rdna" else 1))
    return nvidia(f"sm{active.arch}", units)


def nvidia(arch: str, units: int | None = None) -> Target:
    """The NVIDIA target of that name, as sm90. `units` are the device's; those of the target's largest card where none is here."""
    units = units or (CARDS[arch].compute_units if arch in CARDS else UNKNOWN_UNITS)
    return Target("cuda", arch, 32, "ptx", "", 227 * KIB if int(arch[2:]) >= 90 else 99 * KIB, units)


def amd(arch: str) -> Target:
    """The AMD target of that name, with or without features after a colon; unknown ones get no special instruction."""
    arch = arch.split(":")[0]
    return AMD.get(arch) or Target("hip", arch, 64 if arch.startswith("gfx9") else 32, "portable", "", 64 * KIB, UNKNOWN_UNITS)


@contextlib.contextmanager
def use(target: Target) -> Iterator[Target]:
    """Within it, launches are made for `target`: to be recorded and compiled, not run."""
    token = _override.set(target)
    try:
        yield target
    finally:
        _override.reset(token)
