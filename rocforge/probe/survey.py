"""All GPUs, best first, each with its facts and, where it is not to be used, with the reason and the remedy."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from rocforge.probe.compiler import ask_triton
from rocforge.probe.gpu import AMD, GPU, NVIDIA, driver_version, find_gpus
from rocforge.probe.runtime import Runtime, TorchGPU, ask_torch

log = logging.getLogger(__name__)

# Of all GPUs; with _0, _1 and so on behind it, of one of amdkfd's nodes.
OVERRIDE = "HSA_OVERRIDE_GFX_VERSION"
# What hides devices from torch, by vendor.
HIDERS = {
    AMD: ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"),
    NVIDIA: ("CUDA_VISIBLE_DEVICES",),
}
REMEDY = {
    AMD: "install torch's ROCm build, see docs/AMD.md",
    NVIDIA: "install torch's CUDA build: pip install torch",
}

# Why a GPU must not be used, found by running kernels on it; None where it may.
Verdict = Callable[[GPU], "str | None"]


@dataclass(frozen=True)
class Survey:
    """`gpus` best first: the first without a `passed_over` is the one to use. `runtime` is None where torch was
    not asked, because no driver shows a GPU. `driver` is the kernel driver of the first GPU. `overrides` are the
    variables, with their values, that make ROCm take AMD GPUs for others."""

    gpus: tuple[GPU, ...]
    runtime: Runtime | None
    driver: str | None
    overrides: Mapping[str, str]

    @property
    def best(self) -> GPU | None:
        return next((gpu for gpu in self.gpus if gpu.passed_over is None), None)

    @property
    def why_no_gpu(self) -> str:
        """What stands against running on a GPU here."""
        if not self.gpus:
            return "no GPU was found: neither amdgpu nor NVIDIA's driver shows one"
        return "; ".join(f"{gpu} is passed over: {gpu.passed_over}" for gpu in self.gpus)


def survey(verdict: Verdict | None = None, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> Survey:
    """Looks at drivers' files, then asks torch and Triton, then `verdict`, each only where the one before shows a GPU.

    `verdict` is asked of the best GPU, and of the next where it rejects that one; None asks nobody.
    """
    found = find_gpus(root)
    overrides = {name: value for name, value in environment.items() if name.startswith(OVERRIDE) and value}
    if any(gpu.vendor == AMD for gpu in found):
        for name, value in overrides.items():
            log.warning("%s is %s: torch takes an AMD GPU for what it says, not for what it is", name, value)
    if not found:
        return Survey((), None, None, overrides)
    runtime = ask_torch()
    gpus = rank(ask_compiler(gpu, runtime) for gpu in join(found, runtime, environment))
    return Survey(_pass_over(gpus, verdict), runtime, driver_version(gpus[0].vendor, root), overrides)


# ---- what drivers say and what torch says, of the same GPU


def join(found: tuple[GPU, ...], runtime: Runtime, environment: Mapping[str, str]) -> list[GPU]:
    """Each GPU once, with torch's facts where torch shows it; else with what keeps it from being used."""
    left = list(runtime.devices)
    joined = []
    for gpu, device in _pairs(found, left, runtime.vendor):
        if device is None:
            reason = gpu.passed_over or _why_torch_lacks(gpu, runtime, environment)
            joined.append(replace(gpu, passed_over=reason))
        else:
            joined.append(_with_torch(gpu, device))
    # A device whose driver's files are hidden from us.
    joined += [_with_torch(GPU(runtime.vendor, device.name), device) for device in left]
    return joined


def _pairs(found: tuple[GPU, ...], left: list[TorchGPU], vendor: str | None) -> list[tuple[GPU, TorchGPU | None]]:
    """Each GPU with its torch device: by PCI address where both tell it, else by target and order. Takes from `left`."""
    by_address = {device.pci: device for device in left if device.pci}
    paired = [by_address.get(gpu.pci) if gpu.pci and gpu.vendor == vendor else None for gpu in found]
    left[:] = [device for device in left if device not in paired]
    for i, gpu in enumerate(found):
        if paired[i] is None and gpu.vendor == vendor and gpu.passed_over is None:
            like = [device for device in left if not (gpu.pci and device.pci) and _may_be(gpu, device, found)]
            if like:
                paired[i] = like[0]
                left.remove(like[0])
    return list(zip(found, paired, strict=True))


def _may_be(gpu: GPU, device: TorchGPU, found: tuple[GPU, ...]) -> bool:
    """Of one target; or of one that no driver tells: NVIDIA's tells none, and the override makes another of AMD's."""
    targets = {other.driver_arch for other in found}
    return device.arch == gpu.driver_arch or device.arch not in targets


def _with_torch(gpu: GPU, device: TorchGPU) -> GPU:
    """The driver's facts and torch's; of what both tell, the driver's, except what kernels are compiled for."""
    # HIP counts pairs of compute units on RDNA; NVIDIA's multiprocessors are what they are.
    units = device.units if gpu.vendor == NVIDIA or device.arch.startswith("gfx9") else None
    return replace(
        gpu,
        name=device.name or gpu.name,
        arch=device.arch,
        index=device.index,
        lanes=device.lanes or gpu.lanes,
        compute_units=gpu.compute_units or units,
        vram_bytes=gpu.vram_bytes or device.memory_bytes,
        is_integrated=device.is_integrated,
        pci=gpu.pci or device.pci,
        # It answers torch: whatever the files made us fear does not stand against it.
        passed_over=None,
    )


def _why_torch_lacks(gpu: GPU, runtime: Runtime, environment: Mapping[str, str]) -> str:
    remedy = REMEDY[gpu.vendor]
    if runtime.torch is None:
        return f"{runtime.fault}: {remedy}"
    if runtime.vendor != gpu.vendor:
        kind = {AMD: "ROCm", NVIDIA: "CUDA"}[gpu.vendor]
        return f"torch {runtime.torch} is built without {kind}: {remedy}"
    hidden = [f"{name} is {environment[name]!r}" for name in HIDERS[gpu.vendor] if name in environment]
    hint = f" ({', '.join(hidden)})" if hidden else ""
    if runtime.fault:
        return f"torch {runtime.torch} cannot use it: {runtime.fault}{hint}"
    return f"torch {runtime.torch} does not show it{hint}"


# ---- what the compiler says


def ask_compiler(gpu: GPU, runtime: Runtime) -> GPU:
    """With Triton's instructions for it, or its refusal; also of one that is passed over, where its target is known."""
    arch, lanes = gpu.arch or gpu.driver_arch, gpu.lanes
    if arch is None or lanes is None or runtime.triton is None:
        reason = runtime.triton_fault or "torch does not tell its target and its wave size: install a newer torch"
        return replace(gpu, passed_over=gpu.passed_over or reason)
    compiled = ask_triton(runtime.triton, "cuda" if gpu.vendor == NVIDIA else "hip", arch, lanes)
    if compiled.refusal is not None:
        refusal = f"Triton {runtime.triton} does not compile for {arch} ({compiled.refusal})"
        return replace(gpu, passed_over=gpu.passed_over or f"{refusal}: see docs/AMD.md for one that does")
    reason = gpu.passed_over or _why_torch_is_not_made_for(gpu, runtime)
    return replace(gpu, matrix=compiled.matrix, dot=compiled.dot, passed_over=reason)


def _why_torch_is_not_made_for(gpu: GPU, runtime: Runtime) -> str | None:
    """torch's own kernels (copies, fills) are machine code by target; AMD's has no form that fits all."""
    if gpu.vendor != AMD or not runtime.arches or any("generic" in arch for arch in runtime.arches):
        return None
    arches = [arch.split(":")[0] for arch in runtime.arches]
    if gpu.arch in arches:
        return None
    return f"torch {runtime.torch} has no code for {gpu.arch}, only for {' '.join(arches)}: see docs/AMD.md for one that has"


# ---- which one


def rank(gpus) -> list[GPU]:
    """Those that can be used first; of them discrete ones before integrated ones, then by memory, then in torch's order."""
    def order(gpu: GPU):
        return gpu.passed_over is not None, gpu.is_integrated is True, -(gpu.vram_bytes or 0), gpu.index or 0

    return sorted(gpus, key=order)


def _pass_over(gpus: list[GPU], verdict: Verdict | None) -> tuple[GPU, ...]:
    """With a reason for all but the first that the verdict lets pass."""
    best, judged = None, []
    for gpu in gpus:
        if gpu.passed_over is None:
            if best is not None:
                gpu = replace(gpu, passed_over=_why_behind(gpu, best))
            elif verdict is not None and (fault := verdict(gpu)):
                gpu = replace(gpu, passed_over=fault)
            else:
                best = gpu
        judged.append(gpu)
    return tuple(judged)


def _why_behind(gpu: GPU, best: GPU) -> str:
    if gpu.is_integrated and not best.is_integrated:
        return f"it is integrated, and {best} is not"
    if (gpu.vram_bytes or 0) < (best.vram_bytes or 0):
        return f"it has less memory than {best}"
    return f"it comes after {best}, which has no less; one GPU is used at a time"
