"""Kernels compiled for a target that need not be here, and what their machine code holds. Runs nothing on a GPU.

    python -m rocforge.kernels.inspect --target gfx1100 [--op linear] [--widest] [--json]
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch
import triton
from triton.compiler import ASTSource

from rocforge.errors import DeviceError
from rocforge.kernels.cases import Case, cases
from rocforge.kernels.launch import Launch
from rocforge.kernels.target import AMD, Target

_POINTER = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64",
    torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8", torch.uint8: "*u8",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One kernel's machine code. Counts are of instructions in the code, not of executions.

    `spills` are registers saved to memory and bytes of scratch; `waves_per_simd` is what registers and
    shared memory leave room for, by LLVM's reckoning; `load_128` and so on are loads from global memory by bits a lane.
    """

    op: str
    kernel: str
    format: str
    tile: str
    vgprs: int
    sgprs: int
    lds_bytes: int
    spills: int
    waves_per_simd: int
    matrix: int
    dot: int
    load_128: int
    load_64: int
    load_32: int
    load_16: int
    code_bytes: int


@dataclass(frozen=True)
class Loop:
    """A kernel's instructions, and the bytes that a lane loads from global memory: of a step of its main loop
    (the largest that has no loop within it), and of all the rest, which runs once. Without a loop, all is the rest."""

    instructions: int
    loaded_bytes: int
    instructions_once: int
    loaded_bytes_once: int


_LABEL = re.compile(r"(\.LBB\w+):")
_BRANCH = re.compile(r"\s+s_c?branch\w*\s+(\.LBB\w+)")
_INSTRUCTION = re.compile(r"\s+[vs]_|\s+(?:ds|global|buffer|flat|scratch)_")
_LOADED = re.compile(r"\s+(?:global|buffer|flat)_load_(\w+)")
_BYTES = {"x4": 16, "b128": 16, "x3": 12, "b96": 12, "x2": 8, "b64": 8, "dword": 4, "b32": 4}


def loop_of(asm: str) -> Loop:
    """The loops of AMD assembly are its branches back; which is what a compiler makes of a loop."""
    lines, labels, loops = asm.splitlines(), {}, []
    for i, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label[1]] = i
        elif (branch := _BRANCH.match(line)) and branch[1] in labels:
            loops.append((labels[branch[1]], i))
    innermost = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    sizes = {part: _instructions(lines[part[0] : part[1] + 1]) for part in innermost}
    all_, all_bytes = _instructions(lines), _loaded(lines)
    if not sizes:
        return Loop(0, 0, all_, all_bytes)
    first, last = max(sizes, key=sizes.get)
    n, n_bytes = sizes[first, last], _loaded(lines[first : last + 1])
    return Loop(n, n_bytes, all_ - n, all_bytes - n_bytes)


def _instructions(lines: list[str]) -> int:
    return sum(1 for line in lines if _INSTRUCTION.match(line))


def _loaded(lines: list[str]) -> int:
    kinds = (found[1] for line in lines if (found := _LOADED.match(line)))
    return sum(next((n for end, n in _BYTES.items() if kind.endswith(end)), 2) for kind in kinds)


def source(launch: Launch, target: Target) -> ASTSource:
    """What Triton compiles for a launch: its types, and the promises about its arguments that a launch makes.

    Pointers are aligned to 16 bytes, as all of ours are, and reach 2 GiB on AMD, so that buffer
    instructions are used; ints that divide by 16 are known to, except those that change from step to step.
    """
    kernel, signature, constants, promises = launch.kernel, {}, dict(launch.constants), {}
    changing = {kernel.arg_names[n] if isinstance(n, int) else n for n in kernel.do_not_specialize or ()}
    for i, name in enumerate(kernel.arg_names):
        value = constants.get(name) if name in constants else launch.args[i]
        if name in constants or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = _POINTER[value.dtype]
            promises[(i,)] = [["tt.divisibility", 16]] + ([["tt.pointer_range", 32]] if target.backend == "hip" else [])
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0 and name not in changing:
                promises[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=promises)


def compile_for(launch: Launch, target: Target) -> Any:
    """Triton's compiled kernel for a launch. Raises DeviceError, with Triton's words, where it refuses the target."""
    try:
        return triton.compile(source(launch, target), target=target.triton, options=launch.options)
    except Exception as error:
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise DeviceError(f"Triton {triton.__version__} does not compile {launch.kernel.__name__} for {target.arch}: {last[0]}") from error


def read(case: Case, target: Target) -> Row:
    """Compile a case and read its assembly."""
    compiled = compile_for(case.launch, target)
    asm = compiled.asm["amdgcn"]

    def field(pattern: str) -> int:
        found = re.search(pattern, asm)
        return int(found.group(1)) if found else 0

    def count(pattern: str) -> int:
        return len(re.findall(pattern, asm))

    load = r"\b(?:global|buffer|flat)_load_"
    return Row(
        op=case.op,
        kernel=case.kernel,
        format=case.format,
        tile=case.tile,
        vgprs=field(r"\.vgpr_count:\s*(\d+)"),
        sgprs=field(r"\.sgpr_count:\s*(\d+)"),
        lds_bytes=compiled.metadata.shared,
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
    )  # fmt: skip


def table(target: Target, op: str | None = None, every: bool = True) -> Iterator[Row]:
    """The cases of a target (of one op), compiled and read."""
    for case in cases(target, every):
        if op in (None, case.op):
            yield read(case, target)


@click.command()
@click.option("--target", "arch", required=True, metavar="GFX", help="The AMD target, as gfx1100.")
@click.option("--op", help="This op only.")
@click.option("--widest", is_flag=True, help="Of kernels that differ in a size only, the widest.")
@click.option("--json", "as_json", is_flag=True, help="Print a list of rows.")
def main(arch: str, op: str | None, widest: bool, as_json: bool) -> None:
    """Compile every kernel for a target and print what its machine code holds."""
    if arch not in AMD:
        raise click.UsageError(f"--target {arch} is unknown; known are {' '.join(AMD)}")
    if triton.knobs.runtime.interpret:
        raise click.UsageError("TRITON_INTERPRET is set: the interpreter compiles nothing; unset it")
    rows = []
    for row in table(AMD[arch], op, not widest):
        rows.append(asdict(row))
        if sys.stderr.isatty():
            click.echo(f"\r{len(rows)} kernels", err=True, nl=False)
    if as_json:
        click.echo(json.dumps(rows))
        return
    names = [name for name in Row.__dataclass_fields__ if name != "op"]
    cells = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


if __name__ == "__main__":
    try:
        main(standalone_mode=True)
    except DeviceError as error:
        raise SystemExit(f"rocforge: error: {error}") from None
