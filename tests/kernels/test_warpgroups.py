"""The machine code of products that warpgroups multiply (sm90), compiled here without a GPU: weights are not written over while
they are read.

Such a product (HGMMA) runs on by itself, and reads its left operand's registers while it does. Of a warp's products those are
done that a WARPGROUP.DEPBAR has not let be under way, and until then nothing may be written to their registers, in the loop's
next turn neither: the assembler of Triton 3.6 forgets that there, and numbers came out wrong on an H200. By 3.9's it holds without
the wait that now ends each turn (asm.settle_products), which is looked for too.
"""

import os
import re
import subprocess
import sys

import pytest

from tests.paths import ROOT

pytest.importorskip("torch", reason="torch is absent: launches are made for its tensors")
pytest.importorskip("triton", reason="triton is absent: pip install triton")

from rocforge.kernels import assembly  # noqa: E402

COMPILE = """
import sys
import torch
from rocforge.gguf.formats import BY_NAME, Q8
from rocforge.kernels import assembly, launch, layout
from rocforge.kernels.inspect import compile_for
from rocforge.kernels.matmul import linear
from rocforge.kernels.target import nvidia, use

meta = lambda *shape, dtype=torch.float32: torch.empty(shape, dtype=dtype, device="meta")
format, (T, N, K) = BY_NAME[sys.argv[1]], map(int, sys.argv[2:])
x = meta(T, K) if format.is_float else Q8(meta(T, K, dtype=torch.int8), meta(T, K // 32), meta(T, K // 16, dtype=torch.int16))
with use(nvidia("sm90", 132)) as target, launch.record() as program:
    linear(x, (layout.empty(format, N, K, "meta"),), None, None, meta(T, N))
    made = next(made for made in program.launches if made.kernel.__name__.startswith("gemm"))
    print(assembly.disassembled(compile_for(made, target).asm["cubin"]))
"""

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);")
# What has no register of a lane in its first place, or only reads it.
NO_RESULT = {
    "HGMMA", "WARPGROUP", "STS", "STG", "ST", "STL", "RED", "BAR", "BRA", "BSYNC", "BSSY", "SYNCS", "UTMALDG", "LDGSTS", "LDGDEPBAR", "DEPBAR",
    "R2UR", "MEMBAR", "FENCE", "NOP", "EXIT", "ERRBAR", "CCTL",
}  # fmt: skip


def loop_of(asm):
    """(name, operands) of the main loop's instructions."""
    found = (INSTRUCTION.search(line) for line in assembly.main_loop_of_sass(asm))
    return [(each[1], each[2].strip()) for each in found if each]


def registers(first, n):
    return set(range(first, first + n))


def written(name, operands):
    """The lane's registers that an instruction writes."""
    result = re.match(r"R(\d+)\b", operands)
    if name.split(".")[0] in NO_RESULT or not result:
        return set()
    return registers(int(result[1]), 4 if ".128" in name else 2 if ".64" in name or ".WIDE" in name else 1)


def written_over(loop):
    """The instructions of two turns that write to what a product under way reads."""
    under_way, found, open_group = [], [], set()
    for name, operands in loop * 2:
        if name.startswith("HGMMA"):
            left = re.match(r"R\d+, R(\d+)", operands)
            open_group |= registers(int(left[1]), 4) if left else set()
            if "gsb0" in operands:
                under_way.append(open_group)
                open_group = set()
        elif name.startswith("WARPGROUP.DEPBAR"):
            at_most = int(re.search(r"gsb0, (0x[0-9a-f]+)", operands)[1], 16)
            under_way = under_way[len(under_way) - at_most :] if at_most < len(under_way) else under_way
        elif any(written(name, operands) & group for group in [*under_way, open_group]):
            found.append(f"{name} {operands}")
    return found


# Tokens for which warpgroups multiply, each with a tile of its own; formats with all kinds of planes.
@pytest.mark.parametrize("T", [32, 64, 128, 512])
@pytest.mark.parametrize("format", ["Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16"])
def test_nothing_is_written_over(format, T):
    if format == "BF16" and T < 512:
        pytest.skip("few tokens are multiplied by single warps there")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, format, str(T), "4096", "4096"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    loop = loop_of(ran.stdout)
    assert sum(name.startswith("HGMMA") for name, _ in loop) >= 2
    assert ("WARPGROUP.DEPBAR.LE", "gsb0, 0x0") in loop
    assert not (over := written_over(loop)), (len(over), over[:5])


def test_what_is_written_over_is_seen():
    product = lambda left: ("HGMMA.64x128x16.F32", f"R24, R{left}, gdesc[UR4], R24, gsb0")
    settled = ("WARPGROUP.DEPBAR.LE", "gsb0, 0x0")
    one_left = ("WARPGROUP.DEPBAR.LE", "gsb0, 0x1")
    assert written_over([product(88), ("LOP3.LUT", "R90, R1, 0xf, RZ, 0xc0, !PT")]) == ["LOP3.LUT R90, R1, 0xf, RZ, 0xc0, !PT"] * 2
    assert written_over([("LDS.128", "R88, [R4]"), product(88), settled]) == []
    assert written_over([("LDS.128", "R88, [R4]"), product(88), product(92), one_left, ("MOV", "R88, R1"), ("MOV", "R92, R1")]) == [
        "MOV R92, R1", "MOV R92, R1"
    ]  # fmt: skip
    assert len(written_over([("IMAD.WIDE", "R90, R1, 0x4, R2"), product(88)])) == 1  # in the second turn
