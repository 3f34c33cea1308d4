"""What torch says of the GPUs here, and the versions of all that lies between them and us. Runs no kernel.

The only place that imports torch in the probe, and only when it is asked.
"""

import functools
from dataclasses import dataclass

from rocforge.probe.gpu import AMD, NVIDIA


@dataclass(frozen=True)
class TorchGPU:
    """A device of torch.cuda. `units` are multiprocessors as its runtime counts them; None is what this torch lacks."""

    index: int
    name: str
    arch: str
    lanes: int | None
    units: int | None
    memory_bytes: int
    is_integrated: bool | None
    pci: str | None


@dataclass(frozen=True)
class Runtime:
    """`torch`, `hip`, `cuda`, `triton`: versions, None for what is absent. `arches` are those that torch's
    own kernels are made for. `fault` is why torch shows no device, `triton_fault` why Triton is absent."""

    torch: str | None = None
    hip: str | None = None
    cuda: str | None = None
    triton: str | None = None
    arches: tuple[str, ...] = ()
    devices: tuple[TorchGPU, ...] = ()
    fault: str | None = None
    triton_fault: str | None = None

    @property
    def vendor(self) -> str | None:
        """Whose GPUs this torch is built for."""
        return AMD if self.hip else NVIDIA if self.cuda else None


@functools.cache
def ask_torch() -> Runtime:
    """Asked once in a process; what is free changes and is asked by `free_bytes`."""
    try:
        import torch
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "torch"
        return Runtime(fault="torch is not installed" if absent else f"torch cannot be imported: {first_line(error)}")
    except OSError as error:
        return Runtime(fault=f"torch cannot be imported: {first_line(error)}")
    devices, arches, fault = (), (), None
    if torch.version.hip or torch.version.cuda:
        try:
            torch.cuda.init()
            devices = tuple(_describe(torch.cuda.get_device_properties(i), i) for i in range(torch.cuda.device_count()))
            arches = tuple(torch.cuda.get_arch_list())
        except (RuntimeError, AssertionError) as error:
            fault = first_line(error)
    triton, triton_fault = _ask_triton_version()
    return Runtime(
        torch.__version__, torch.version.hip, torch.version.cuda, triton, arches, devices, fault, triton_fault
    )


def _describe(facts, index: int) -> TorchGPU:
    """Of torch's device properties, which grow from release to release."""
    gfx = getattr(facts, "gcnArchName", "").split(":")[0]
    bus, integrated = getattr(facts, "pci_bus_id", None), getattr(facts, "is_integrated", None)
    return TorchGPU(
        index,
        facts.name,
        gfx if gfx.startswith("gfx") else f"sm{facts.major}{facts.minor}",
        getattr(facts, "warp_size", None),
        facts.multi_processor_count,
        facts.total_memory,
        None if integrated is None else bool(integrated),
        None if bus is None else f"{facts.pci_domain_id:04x}:{bus:02x}:{facts.pci_device_id:02x}.0",
    )


def _ask_triton_version() -> tuple[str | None, str | None]:
    try:
        import triton
    except ModuleNotFoundError as error:
        if error.name == "triton":
            return None, "Triton is not installed: it comes with torch's build for the GPU"
        return None, f"Triton cannot be imported: {first_line(error)}"
    except (ImportError, OSError, RuntimeError) as error:
        return None, f"Triton cannot be imported: {first_line(error)}"
    return triton.__version__, None


def free_bytes(index: int) -> int:
    """Memory of that device that can still be taken. Opens the device."""
    import torch

    return torch.cuda.mem_get_info(index)[0]


def first_line(error: BaseException | str) -> str:
    """Of an error's text; its kind where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
