"""What machine code holds, by the text of its assembly: AMD's as Triton gives it, NVIDIA's disassembled. Compiles nothing."""

import functools
import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import triton

from rocforge.errors import DeviceError


@dataclass(frozen=True)
class Loop:
    """A kernel's instructions, and the bytes that a lane loads from global memory: of a step of its main loop
    (the largest that has no loop within it), and of all the rest, which runs once. Without a loop, all is the rest.

    `passing` are those of the loaded bytes that are not held in the compute unit's own cache on their way; `loads_at` is where
    in the loop's instructions the loads stand, on average: 0 at its beginning, 1 at its end."""

    instructions: int
    loaded_bytes: int
    instructions_once: int
    loaded_bytes_once: int
    passing_bytes: int = 0
    passing_bytes_once: int = 0
    loads_at: float = 0.0


class _Dialect(NamedTuple):
    """How an assembly writes labels, branches, instructions and a program's end, each on a line of its own; bytes that a lane loads
    from global memory by a line, 0 for one that loads nothing from there; and whether it passes the compute unit's own cache."""

    label: re.Pattern
    branch: re.Pattern
    instruction: re.Pattern
    end: re.Pattern
    loaded: Callable[[str], int]
    passes: Callable[[str], bool]


class _Part:
    """What stands in some lines: n instructions, bytes loaded and passing, and behind how many instructions each load is."""

    def __init__(self, lines: list[str], dialect: _Dialect):
        self.n, self.loaded, self.passing, self.places = 0, 0, 0, []
        for line in lines:
            if not dialect.instruction.match(line):
                continue
            if n_bytes := dialect.loaded(line):
                self.loaded += n_bytes
                self.passing += n_bytes if dialect.passes(line) else 0
                self.places.append(self.n)
            self.n += 1


def _main_loop(asm: str, dialect: _Dialect) -> list[str]:
    """The lines of the largest loop that has no loop within it; none without a loop.

    Loops are branches back, which is what a compiler makes of them. Not those from behind the program's end, where NVIDIA's waits
    for boxes stand aside.
    """
    lines, labels, loops = asm.splitlines(), {}, []
    for i, line in enumerate(lines):
        if label := dialect.label.match(line):
            labels[label[1]] = i
        elif dialect.end.match(line):
            labels.clear()
        elif (branch := dialect.branch.match(line)) and branch[1] in labels:
            loops.append((labels[branch[1]], i))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    sized = [(_Part(lines[first : last + 1], dialect).n, first, last) for first, last in innermost]
    # A branch to itself is no loop: NVIDIA's code ends with one, which is never reached.
    n, first, last = max(sized, key=lambda loop: loop[0], default=(0, 0, 0))
    return lines[first : last + 1] if n > 1 else []


def _loop(asm: str, dialect: _Dialect) -> Loop:
    code, main = _Part(asm.splitlines(), dialect), _Part(_main_loop(asm, dialect), dialect)
    return Loop(
        instructions=main.n,
        loaded_bytes=main.loaded,
        instructions_once=code.n - main.n,
        loaded_bytes_once=code.loaded - main.loaded,
        passing_bytes=main.passing,
        passing_bytes_once=code.passing - main.passing,
        loads_at=round(sum(main.places) / len(main.places) / main.n, 3) if main.places else 0.0,
    )


# ---- AMD

_AMD_LOADED = re.compile(r"\s+(?:global|buffer|flat)_load_(\w+)")
_AMD_BYTES = {"x4": 16, "b128": 16, "x3": 12, "b96": 12, "x2": 8, "b64": 8, "dword": 4, "b32": 4}


def _amd_loaded(line: str) -> int:
    found = _AMD_LOADED.match(line)
    return next((n for end, n in _AMD_BYTES.items() if found[1].endswith(end)), 2) if found else 0


_AMDGCN = _Dialect(
    label=re.compile(r"(\.LBB\w+):"),
    branch=re.compile(r"\s+s_c?branch\w*\s+(\.LBB\w+)"),
    instruction=re.compile(r"\s+[vs]_|\s+(?:ds|global|buffer|flat|scratch)_"),
    end=re.compile(r"\s+s_endpgm\b"),
    loaded=_amd_loaded,
    passes=lambda line: False,
)


def loop_of_amdgcn(asm: str) -> Loop:
    return _loop(asm, _AMDGCN)


def amdgcn(asm: str) -> dict[str, Any]:
    """Fields of inspect.Row. LLVM says at the end which registers the code needs, and how many waves they leave room for."""

    def field(pattern: str) -> int:
        found = re.search(pattern, asm)
        return int(found.group(1)) if found else 0

    def count(pattern: str) -> int:
        return len(re.findall(pattern, asm))

    load = r"\b(?:global|buffer|flat)_load_"
    return dict(
        vgprs=field(r"\.vgpr_count:\s*(\d+)"),
        sgprs=field(r"\.sgpr_count:\s*(\d+)"),
        spills=field(r"\.vgpr_spill_count:\s*(\d+)") + field(r"\.sgpr_spill_count:\s*(\d+)")
        + field(r"\.private_segment_fixed_size:\s*(\d+)"),
        waves_per_simd=field(r"; Occupancy: (\d+)"),
        matrix=count(r"\bv_(?:s?mfmac?|s?wmmac?)_"),
        dot=count(r"\bv_dot4"),
        load_128=count(load + r"(?:dwordx4|b128)\b"),
        load_64=count(load + r"(?:dwordx[23]|b64|b96)\b"),
        load_32=count(load + r"(?:dword|b32)\b"),
        load_16=count(load + r"(?:[us]short|short_d16|[us]byte|[ui]16|[ui]8|d16)"),
        code_bytes=field(r"; codeLenInByte = (\d+)"),
        keeps_small_halves=field(r"\.amdhsa_float_denorm_mode_16_64 (\d)") == 3,
    )  # fmt: skip


# ---- NVIDIA

# What stands before an instruction, its address and perhaps a predicate: /*0d40*/ @!P0 LDG.E.128.CONSTANT R4, ... ;
_BEFORE = r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?"
_SASS_LOAD = re.compile(_BEFORE + r"(LDG|LDGSTS|LD)((?:\.\w+)*)\s")
_SASS_BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
# Of each scheduler (CUDA's programming guide, compute capability 9.0): registers of 32 bits that a lane of all its warps has
# together, given out by eights; warps at the most.
_REGISTERS, _REGISTERS_AT_ONCE, _WARPS = 512, 8, 16
_INSTRUCTION_BYTES = 16


def _sass_loaded(line: str) -> int:
    found = _SASS_LOAD.match(line)
    return next((n for kind, n in _SASS_BYTES.items() if kind in found[2].split(".")), 4) if found else 0


_SASS = _Dialect(
    label=re.compile(r"\s*(\.L_x_\d+):"),
    branch=re.compile(_BEFORE + r"BRA\b[^;]*`\((\.L_x_\d+)\)"),
    instruction=re.compile(_BEFORE + r"(?!NOP)[A-Z]"),
    end=re.compile(r"\s+/\*[0-9a-f]+\*/\s+EXIT\b"),
    loaded=_sass_loaded,
    passes=lambda line: ".BYPASS" in line,
)


@functools.cache
def is_readable(backend: str) -> bool:
    """Whether a backend's machine code can be had as text here."""
    if backend != "cuda":
        return True
    try:
        return bool(triton.knobs.nvidia.nvdisasm.path)
    except RuntimeError:  # Triton finds none
        return False


def disassembled(cubin: bytes) -> str:
    """NVIDIA's machine code as text, by the nvdisasm that Triton brings along. Raises DeviceError where there is none."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        try:
            command = [triton.knobs.nvidia.nvdisasm.path, file.name]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:  # RuntimeError: Triton finds no nvdisasm
            raise DeviceError(f"NVIDIA's machine code cannot be read: {error}") from error


def loop_of_sass(asm: str) -> Loop:
    return _loop(asm, _SASS)


def main_loop_of_sass(asm: str) -> list[str]:
    """The lines of the loop that loop_of_sass counts."""
    return _main_loop(asm, _SASS)


def sass(asm: str) -> dict[str, Any]:
    """Fields of inspect.Row. Spills are loads from and stores to a lane's own memory; scalar registers are not counted."""
    instructions = [line for line in asm.splitlines() if _SASS.instruction.match(line)]
    widths = [n for line in instructions if (n := _sass_loaded(line))]
    # The number stands behind the symbol that it is of.
    registers = int(re.search(r"EIATTR_REGCOUNT.*?\.word\s+(0x[0-9a-f]+)", asm, re.DOTALL)[1], 16)

    def count(pattern: str) -> int:
        named = re.compile(_BEFORE + pattern)
        return sum(1 for line in instructions if named.match(line))

    return dict(
        vgprs=registers,
        sgprs=0,
        spills=count(r"(?:LDL|STL)\b"),
        waves_per_simd=min(_WARPS, _REGISTERS // (-(-registers // _REGISTERS_AT_ONCE) * _REGISTERS_AT_ONCE)),
        matrix=count(r"(?:HMMA|HGMMA|IMMA|IGMMA|DMMA|QGMMA)\b"),
        dot=count(r"IDP\b"),
        load_128=widths.count(16),
        load_64=widths.count(8),
        load_32=widths.count(4),
        load_16=widths.count(2) + widths.count(1),
        code_bytes=_INSTRUCTION_BYTES * len(instructions),
        keeps_small_halves=count(r"H(?:ADD|MUL|FMA)2\S*\.FTZ") == 0,
    )
