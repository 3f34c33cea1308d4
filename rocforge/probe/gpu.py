"""GPUs as their drivers' files show them. Asks neither torch nor a device."""

import os
from dataclasses import dataclass
from pathlib import Path

NODES = "sys/class/kfd/kfd/topology/nodes"
PCI = "sys/bus/pci/devices"
AMD, NVIDIA = "AMD", "NVIDIA"
_AMD_ID = "0x1002"
# PCI classes of what may compute: displays, 3D controllers, other displays (Instinct), accelerators (Instinct).
_GPU_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")
# amdkfd's kinds of memory banks (kfd_crat.h) that are the GPU's own: seen by the CPU, and not.
_OWN_MEMORY = ("1", "2")


@dataclass(frozen=True)
class GPU:
    """One GPU: what drivers, torch and Triton say of it. None is what could not be had.

    `arch` is what kernels are compiled for, as torch names it: gfx1100, sm90. `driver_arch` is what the
    kernel's driver says that an AMD GPU is: another one where HSA_OVERRIDE_GFX_VERSION lies to torch.
    `lanes` run in lockstep (AMD's wave, NVIDIA's warp). `compute_units` are AMD's CUs (torch counts
    pairs of them on RDNA), NVIDIA's SMs. `gtt_bytes` is the system's memory that an AMD GPU may map,
    an APU's larger part. `index` is torch's number of it. `matrix` and `dot` name the instructions
    that Triton's compiler makes use of, "" for none. `passed_over` says why it is not used.
    """

    vendor: str
    name: str  # what torch calls it; else the gfx target, the model, or the device's file
    arch: str | None = None
    driver_arch: str | None = None
    pci: str | None = None  # domain:bus:device.function
    lanes: int | None = None
    compute_units: int | None = None
    lds_bytes: int | None = None
    vram_bytes: int | None = None
    gtt_bytes: int | None = None
    is_integrated: bool | None = None
    index: int | None = None
    matrix: str | None = None
    dot: str | None = None
    passed_over: str | None = None

    def __str__(self) -> str:
        arch = self.arch or self.driver_arch
        name = self.name if self.name.startswith(self.vendor) else f"{self.vendor} {self.name}"
        return name if arch is None or arch in name else f"{name} ({arch})"


def find_gpus(root: Path = Path("/")) -> tuple[GPU, ...]:
    """AMD GPUs, those with a compute driver first, then NVIDIA GPUs, in the drivers' order.

    What stands against the use of one that shows here already is in its `passed_over`.
    """
    driven = [gpu for node in _entries(root / NODES) if (gpu := _amd(node, root))]
    addresses = {gpu.pci for gpu in driven}
    bare = [gpu for device in _entries(root / PCI) if device.name not in addresses and (gpu := _amd_without_driver(device))]
    # Where the driver does not say which PCI device a node is, the counts have to do.
    if None in addresses:
        bare = bare[len(driven) :]
    return (*driven, *bare, *_nvidia(root))


def _amd(node: Path, root: Path) -> GPU | None:
    """The GPU of a node of amdkfd's topology; None for a CPU, and for a node that is hidden from us."""
    facts = _pairs(node / "properties")
    version = _number(facts, "gfx_target_version")
    if not version:
        return None
    simds, per_unit = _number(facts, "simd_count"), _number(facts, "simd_per_cu")
    lds_kib = _number(facts, "lds_size_in_kb")
    pci, arch = _pci_address(facts), gfx_name(version)
    device = root / PCI / pci if pci else None
    return GPU(
        AMD,
        arch,
        driver_arch=arch,
        pci=pci,
        lanes=_number(facts, "wave_front_size") or None,
        compute_units=simds // per_unit if simds and per_unit else None,
        lds_bytes=lds_kib * 1024 if lds_kib else None,
        vram_bytes=_drm_bytes(device, "mem_info_vram_total") or _own_memory_bytes(node) or None,
        gtt_bytes=_drm_bytes(device, "mem_info_gtt_total"),
        passed_over=_why_closed(root, _number(facts, "drm_render_minor")),
    )


def _amd_without_driver(device: Path) -> GPU | None:
    """An AMD GPU on the PCI bus that the compute driver does not know."""
    if _text(device / "vendor") != _AMD_ID or not _text(device / "class").startswith(_GPU_CLASSES):
        return None
    return GPU(
        AMD,
        f"device {_text(device / 'device') or '?'}",
        pci=device.name,
        vram_bytes=_drm_bytes(device, "mem_info_vram_total"),
        gtt_bytes=_drm_bytes(device, "mem_info_gtt_total"),
        passed_over="the compute driver does not show it: load amdgpu with its compute part (/dev/kfd), or in a "
        "container pass --device /dev/kfd --device /dev/dri; see docs/AMD.md",
    )


def _why_closed(root: Path, minor: int | None) -> str | None:
    """What keeps this process from the device files of an AMD GPU."""
    files = [root / "dev/kfd"]
    if minor:
        files.append(root / f"dev/dri/renderD{minor}")
    for file in files:
        name = f"/{file.relative_to(root)}"
        if not file.exists():
            return f"there is no {name}: in a container pass --device /dev/kfd --device /dev/dri; see docs/AMD.md"
        if not os.access(file, os.R_OK | os.W_OK):
            return f"no permission on {name}: add the user to the groups render and video, then log in again"
    return None


def gfx_name(version: int) -> str:
    """The target's name: 110000 is gfx1100, 90010 gfx90a (major * 10000 + minor * 100 + stepping, the last in hex)."""
    return f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"


def _pci_address(facts: dict[str, str]) -> str | None:
    """amdkfd's location_id is bus << 8 | device << 3 | function."""
    location, domain = _number(facts, "location_id"), _number(facts, "domain")
    if location is None:
        return None
    return f"{domain or 0:04x}:{location >> 8 & 255:02x}:{location >> 3 & 31:02x}.{location & 7:x}"


def _own_memory_bytes(node: Path) -> int:
    banks = [_pairs(bank / "properties") for bank in _entries(node / "mem_banks")]
    return sum(_number(bank, "size_in_bytes") or 0 for bank in banks if bank.get("heap_type") in _OWN_MEMORY)


def _drm_bytes(device: Path | None, name: str) -> int | None:
    text = _text(device / name) if device else ""
    return int(text) if text.isdigit() else None


def _nvidia(root: Path) -> list[GPU]:
    found = []
    for gpu in _entries(root / "proc/driver/nvidia/gpus"):
        model = _value(gpu / "information", "Model:")
        if model:
            found.append(GPU(NVIDIA, model.removeprefix("NVIDIA "), pci=gpu.name))
    # Some containers have the devices and not the driver's pages.
    devices = [d for d in _entries(root / "dev") if d.name.startswith("nvidia") and d.name[6:].isdigit()]
    return found or [GPU(NVIDIA, f"/dev/{d.name}") for d in devices]


def driver_version(vendor: str, root: Path = Path("/")) -> str | None:
    """Of the vendor's kernel driver; amdgpu as it comes with the kernel has the kernel's."""
    if vendor == NVIDIA:
        version = _text(root / "sys/module/nvidia/version")
        return f"nvidia {version}" if version else None
    version = _text(root / "sys/module/amdgpu/version")
    kernel = _text(root / "proc/sys/kernel/osrelease")
    return f"amdgpu {version}" if version else f"amdgpu of Linux {kernel}" if kernel else None


def _entries(folder: Path) -> list[Path]:
    """In the order of their numbers: 2 before 10."""
    try:
        return sorted(folder.iterdir(), key=lambda p: (len(p.name), p.name))
    except OSError:
        return []


def _text(path: Path) -> str:
    """"" where there is no such file, or it is closed to us."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _value(path: Path, key: str) -> str:
    """What follows `key` on its line; "" where there is none, or no such file."""
    lines = _text(path).splitlines()
    return next((line.removeprefix(key).strip() for line in lines if line.startswith(key)), "")


def _pairs(path: Path) -> dict[str, str]:
    """Lines of a name and a number."""
    return {words[0]: words[1] for words in map(str.split, _text(path).splitlines()) if len(words) == 2}


def _number(facts: dict[str, str], key: str) -> int | None:
    text = facts.get(key, "")
    return int(text) if text.isdigit() else None
