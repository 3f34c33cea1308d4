"""Kernels compiled for a target that need not be here, and what their machine code holds. Runs nothing on a GPU.

    python -m rocforge.kernels.inspect --target gfx1100 [--op linear] [--widest] [--json]
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click
import torch
import triton
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from rocforge.errors import DeviceError
from rocforge.kernels import assembly
from rocforge.kernels.assembly import Loop
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

    `spills` are registers saved to memory and bytes of scratch; `waves_per_simd` is what registers (by LLVM's reckoning for
    AMD shared memory too) leave room for; `load_128` and so on are loads from global memory by bits a lane. `keeps_small_halves`:
    operands and results below float16's normal range are not taken for 0.
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
    keeps_small_halves: bool


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
        elif isinstance(value, TensorDescriptor):
            signature[name] = f"tensordesc<{_POINTER[value.base.dtype][1:]}{list(value.block_shape)}>"
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0 and name not in changing:
                promises[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=promises)


def compile_for(launch: Launch, target: Target) -> Any:
    """Triton's compiled kernel for a launch. Raises DeviceError, with Triton's words, where it refuses the target."""
    make = lambda: triton.compile(source(launch, target), target=target.triton, options=launch.options)
    return _compiled(launch, make, target.arch)


def compile_here(launch: Launch) -> Any:
    """The same for the device that is current: what running the launch compiles too, once for both."""
    return _compiled(launch, launch.compiled, "this GPU")


def _compiled(launch: Launch, make: Callable[[], Any], where: str) -> Any:
    try:
        return make()
    except Exception as error:  # what Triton raises has no common base
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        name = launch.kernel.__name__
        raise DeviceError(f"Triton {triton.__version__} does not compile {name} for {where}: {last[0]}") from error


def read(case: Case, compiled: Any) -> tuple[Row, Loop]:
    """What a case's compiled kernel holds."""
    if "amdgcn" in compiled.asm:
        asm = compiled.asm["amdgcn"]
        counts, loop = assembly.amdgcn(asm), assembly.loop_of_amdgcn(asm)
    else:
        asm = assembly.disassembled(compiled.asm["cubin"])
        counts, loop = assembly.sass(asm), assembly.loop_of_sass(asm)
    return Row(case.op, case.kernel, case.format, case.tile, lds_bytes=compiled.metadata.shared, **counts), loop


def table(target: Target, op: str | None = None, every: bool = True) -> Iterator[Row]:
    """The cases of a target (of one op), compiled and read."""
    for case in cases(target, every):
        if op in (None, case.op):
            yield read(case, compile_for(case.launch, target))[0]


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
