"""Made-up files of drivers, and what a made-up torch says."""

from rocforge.probe.runtime import Runtime, TorchGPU
from tests.probe.test_cpu import make

GIB = 2**30


def node_files(node, version, bus=3, minor=128, simds=192, per_unit=2, lanes=32, vram_gib=24, gtt_gib=31):
    """A node of amdkfd's topology, and DRM's files of the same GPU; version 0 is a CPU."""
    if not version:
        return {f"sys/class/kfd/kfd/topology/nodes/{node}/properties": "cpu_cores_count 16\ngfx_target_version 0\n"}
    properties = {
        "cpu_cores_count": 0, "simd_count": simds, "mem_banks_count": 1, "lds_size_in_kb": 64, "wave_front_size": lanes,
        "simd_per_cu": per_unit, "gfx_target_version": version, "vendor_id": 4098, "location_id": bus << 8, "domain": 0,
        "drm_render_minor": minor,
    }  # fmt: skip
    pci = f"sys/bus/pci/devices/0000:{bus:02x}:00.0"
    return {
        f"sys/class/kfd/kfd/topology/nodes/{node}/properties": "".join(f"{k} {v}\n" for k, v in properties.items()),
        f"{pci}/mem_info_vram_total": f"{vram_gib * GIB}\n",
        f"{pci}/mem_info_gtt_total": f"{gtt_gib * GIB}\n",
        "dev/kfd": "",
        f"dev/dri/renderD{minor}": "",
    }


def amd_tree(root, *nodes):
    """A CPU and one gfx1100 with 24 GiB, or the nodes given."""
    files = node_files(0, 0)
    for node in nodes or (node_files(1, 110000),):
        files |= node
    return make(root, files)


def torch_gpu(index=0, name="AMD Radeon RX 7900 XTX", arch="gfx1100", **facts):
    given = {"lanes": 32, "units": 48, "memory_bytes": 24 * GIB, "is_integrated": False, "pci": None} | facts
    return TorchGPU(index, name, arch, **given)


def rocm(*devices, **facts):
    given = {"torch": "2.9.0+rocm6.4", "hip": "6.4.43484", "triton": "3.5.0"} | facts
    return Runtime(devices=devices, **given)


CUDA = Runtime(torch="2.13.0+cu130", cuda="13.0", triton="3.9.0", fault="Found no NVIDIA driver on your system.")
PLAIN = Runtime(torch="2.13.0+cpu", triton="3.9.0")
