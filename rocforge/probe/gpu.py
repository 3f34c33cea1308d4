"""Which GPUs the drivers show. Asks the system's files, not torch; runs nothing on a device."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GPU:
    """A GPU that a driver shows to this process."""

    vendor: str
    name: str  # the gfx target of an AMD GPU, the model of an NVIDIA GPU


def find_gpus(root: Path = Path("/")) -> tuple[GPU, ...]:
    """AMD GPUs with a compute driver (amdkfd), then NVIDIA GPUs, in the drivers' order."""
    return (*_amd(root / "sys/class/kfd/kfd/topology/nodes"), *_nvidia(root / "proc/driver/nvidia/gpus"))


def _amd(nodes: Path) -> list[GPU]:
    targets = (_value(node / "properties", "gfx_target_version") for node in _entries(nodes))
    # The driver lists CPUs as nodes too, with target 0.
    return [GPU("AMD", gfx_name(int(t))) for t in targets if t.isdigit() and int(t)]


def gfx_name(version: int) -> str:
    """The target's name: 110000 is gfx1100, 90010 gfx90a (major * 10000 + minor * 100 + stepping, the last in hex)."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _nvidia(gpus: Path) -> list[GPU]:
    models = (_value(gpu / "information", "Model:") for gpu in _entries(gpus))
    return [GPU("NVIDIA", m.removeprefix("NVIDIA ")) for m in models if m]


def _entries(folder: Path) -> list[Path]:
    """In the order of their numbers: 2 before 10."""
    try:
        return sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name))
    except OSError:
        return []


def _value(path: Path, key: str) -> str:
    """What follows `key` on its line; "" where there is none, or no such file."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.removeprefix(key).strip() for line in lines if line.startswith(key)), "")
