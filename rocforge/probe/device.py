"""Device: what a model runs on, and why that one. Choosing is done here, once, and never in silence."""

from dataclasses import dataclass

from rocforge.errors import DeviceError, RequestError
from rocforge.probe import cpu
from rocforge.probe.gpu import find_gpus

CHOICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Device:
    """A device that was chosen.

    `kind` is "cpu" or "gpu"; `reason` says why this one; `threads` are to run at once; `isa` are the
    vector extensions that the system reports; `memory_bytes` could still be taken when it was chosen.
    """

    name: str
    kind: str
    reason: str
    threads: int
    isa: tuple[str, ...]
    memory_bytes: int

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        return f"{self.kind}: {self.name}, {self.threads} thread{plural} ({self.reason})"


def choose(wanted: str = "auto", threads: int | None = None) -> Device:
    """The device for `wanted`, one of CHOICES; "auto" is the best that can run a model.

    `threads` None takes all that may run at once. Raises DeviceError when a GPU is wanted and none
    can be used, RequestError for an unknown choice or fewer threads than one.
    """
    if wanted not in CHOICES:
        raise RequestError(f"device is {wanted!r}; it must be one of {', '.join(CHOICES)}")
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be at least 1")
    if wanted == "gpu":
        raise DeviceError(f"device gpu: {why_no_gpu()}; use device cpu, or auto to leave the choice to RocForge")
    host = cpu.describe()
    return Device(
        name=host.name,
        kind="cpu",
        reason="as asked for" if wanted == "cpu" else why_no_gpu(),
        threads=threads or host.threads,
        isa=host.isa,
        memory_bytes=cpu.available_bytes(),
    )


def why_no_gpu() -> str:
    """What stands against running on a GPU here."""
    found = find_gpus()
    if not found:
        return "no GPU was found, and this version has no GPU kernels yet"
    names = ", ".join(f"{gpu.vendor} {gpu.name}" for gpu in found)
    return f"found {names}, but this version has no GPU kernels yet"
