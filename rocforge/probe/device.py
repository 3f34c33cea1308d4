"""Device: what a model runs on, and why that one. Choosing is done here, once, and never in silence."""

from dataclasses import dataclass

from rocforge.errors import DeviceError, RequestError
from rocforge.probe import cpu
from rocforge.probe.gpu import GPU
from rocforge.probe.runtime import free_bytes
from rocforge.probe.survey import Survey, Verdict, survey

CHOICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Device:
    """A device that was chosen.

    `kind` is "cpu" or "gpu"; `reason` says why this one; `threads` are the host's to run at once; `isa`
    are the vector extensions that the system reports, of a GPU its target and the matrix and dot
    instructions that kernels use; `memory_bytes` could still be taken when it was chosen; `index` is
    torch's number of a GPU; `huge_pages` says that a CPU's weights are copied into such, not read where the file is mapped.
    """

    name: str
    kind: str
    reason: str
    threads: int
    isa: tuple[str, ...]
    memory_bytes: int
    index: int | None = None
    huge_pages: bool = False

    def __str__(self) -> str:
        plural = "" if self.threads == 1 else "s"
        how = f"{self.threads} thread{plural}{', weights in huge pages' * self.huge_pages}" if self.kind == "cpu" else self.isa[0]
        return f"{self.kind}: {self.name}, {how} ({self.reason})"


def choose(
    wanted: str = "auto", threads: int | None = None, verdict: Verdict | None = None, huge_pages: bool | None = None
) -> Device:
    """The device for `wanted`, one of CHOICES; "auto" is the best that can run a model.

    `threads` None takes one a core that may be used. `verdict` says of a GPU why it must not be used
    (`engine.selftest.verdict`); it is asked before one is chosen. `huge_pages` are for a CPU's weights; None takes
    none. Raises DeviceError when a GPU or huge pages are wanted and there are none to be used, RequestError for an
    unknown choice or fewer threads than one.
    """
    if wanted not in CHOICES:
        raise RequestError(f"device is {wanted!r}; it must be one of {', '.join(CHOICES)}")
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be at least 1")
    return pick(None if wanted == "cpu" else survey(verdict), wanted, threads, bool(huge_pages))


def pick(found: Survey | None, wanted: str, threads: int | None = None, huge_pages: bool = False) -> Device:
    """The choice among what was found; None where only the CPU is wanted."""
    host = cpu.describe()
    if found and found.best:
        return _gpu(found, found.best, wanted, threads or host.cores)
    if wanted == "gpu":
        raise DeviceError(f"device gpu: {found.why_no_gpu}; use device cpu, or auto to leave the choice to RocForge")
    if huge_pages and not cpu.gives_huge_pages():
        raise DeviceError("huge pages: this system gives none (Linux's transparent huge pages are off); leave out --huge-pages")
    return Device(
        name=host.name,
        kind="cpu",
        reason="as asked for" if wanted == "cpu" else found.why_no_gpu,
        threads=threads or host.cores,
        isa=host.isa,
        memory_bytes=cpu.available_bytes(),
        huge_pages=huge_pages,
    )


def _gpu(found: Survey, gpu: GPU, wanted: str, threads: int) -> Device:
    others = [other for other in found.gpus if other is not gpu]
    reason = "as asked for" if wanted == "gpu" else "the only GPU" if not others else f"the best of {len(found.gpus)} GPUs"
    for other in others:
        reason += f"; {other} is passed over: {other.passed_over}"
    if gpu.driver_arch and gpu.driver_arch != gpu.arch:
        reason += f"; it is {gpu.driver_arch} and poses as {gpu.arch}"
    return Device(
        name=str(gpu).removesuffix(f" ({gpu.arch})"),
        kind="gpu",
        reason=reason,
        threads=threads,
        isa=tuple(filter(None, (gpu.arch, gpu.matrix, gpu.dot))),
        memory_bytes=free_bytes(gpu.index),
        index=gpu.index,
    )
