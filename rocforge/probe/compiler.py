"""Whether the installed Triton compiles for a GPU, and with which instructions: by compiling for it. Runs nothing.

Two kernels of a few lines are compiled in a process of their own: for a target that it does not
know, LLVM may end the process rather than raise, and Triton's interpreter, where it is on, would
stand in the way.
"""

import functools
import json
import logging
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from rocforge.probe import cache

log = logging.getLogger(__name__)

TIMEOUT_S = 180
MATRIX = {"hip": r"\bv_(?:mfma|wmma|swmmac)", "cuda": r"\b(?:wgmma|mma)\b"}
# Four products of bytes and their sum: what an instruction is called, and how it is written. The first that assembles.
DOT = {
    "hip": (
        ("v_dot4_i32_iu8", "v_dot4_i32_iu8 $0, $1, $2, $3 neg_lo:[1,1,0]", "=v,v,v,v"),
        ("v_dot4_i32_i8", "v_dot4_i32_i8 $0, $1, $2, $3", "=v,v,v,v"),
    ),
    "cuda": (("dp4a", "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r"),),
}


@dataclass(frozen=True)
class Compiled:
    """`refusal` in Triton's words, None where it compiles; `matrix`, `dot`: the instructions' names, "" for none."""

    refusal: str | None
    matrix: str = ""
    dot: str = ""


@functools.cache
def ask_triton(version: str, backend: str, arch: str, lanes: int) -> Compiled:
    """What Triton `version`, the one installed, makes of a target: backend "hip" with gfx1100, "cuda" with sm90.

    Remembered by the user's cache, as long as neither Triton nor this file changes.
    """
    key = (version, backend, arch, str(lanes), sha256(Path(__file__).read_bytes()).hexdigest()[:16])
    known = cache.recall("triton", key)
    if known is not None:
        return Compiled(**known)
    answer, is_final = _ask_child(backend, arch, lanes)
    if is_final:
        cache.remember("triton", key, asdict(answer))
    return answer


def _ask_child(backend: str, arch: str, lanes: int) -> tuple[Compiled, bool]:
    """The answer, and whether it is one: a compiler that was not reached may be the next time."""
    log.info("asking Triton whether it compiles for %s", arch)
    command = [sys.executable, "-m", __name__, backend, arch, str(lanes)]
    try:
        ran = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Compiled(f"Triton could not be asked: {error}"), False
    try:
        return Compiled(**json.loads(ran.stdout.splitlines()[-1])), True
    except (IndexError, ValueError, TypeError):
        refusal = _words(ran.stderr)
        last = ran.stderr.strip().splitlines()[-1:] or [f"its compiler ended with code {ran.returncode}"]
        return Compiled(refusal or last[0].strip()), bool(refusal)


def child_environment() -> dict[str, str]:
    """For a process that imports what this one does, with Triton's compiler and not its interpreter."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    here = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([here, *(path for path in sys.path if path)])
    environment["PYTHONSAFEPATH"] = "1"  # what lies in the working directory is not meant
    return environment


def _words(stderr: str) -> str:
    """The first error that the compiler wrote, without the place in our file."""
    for line in stderr.splitlines():
        found = re.search(r"\berror: (.*)|(LLVM ERROR: .*)", line, re.IGNORECASE)
        if found:
            return (found.group(1) or found.group(2)).strip()[:200]
    return ""


# ---- in the child


def compile_trials(backend: str, arch: str, lanes: int) -> Compiled:
    """Compiles a product of float16 matrices, which has to succeed, and each dot instruction, which may not."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    @triton.jit
    def multiply(a, b, out):
        at = 32 * tl.arange(0, 32)[:, None] + tl.arange(0, 32)[None, :]
        tl.store(out + at, tl.dot(tl.load(a + at), tl.load(b + at)))

    @triton.jit
    def dot4(a, out, ASM: tl.constexpr, REGISTERS: tl.constexpr):
        i = tl.arange(0, 128)
        x = tl.load(a + i)
        x = tl.inline_asm_elementwise(ASM, REGISTERS, [x, x, x], dtype=tl.int32, is_pure=True, pack=1)
        tl.store(out + i, x)

    target = GPUTarget(backend, int(arch[2:]) if backend == "cuda" else arch, lanes)

    def assembly(kernel, signature, constants) -> str:
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        # Said, because the default is about to change and newer Tritons warn of it.
        made = triton.compile(source, target=target, options={"enable_fp_fusion": True})
        return made.asm["amdgcn" if backend == "hip" else "ptx"]

    found = re.search(MATRIX[backend], assembly(multiply, {"a": "*fp16", "b": "*fp16", "out": "*fp32"}, {}))
    for name, text, registers in DOT[backend]:
        try:
            if name in assembly(dot4, {"a": "*i32", "out": "*i32"}, {"ASM": text, "REGISTERS": registers}):
                return Compiled(None, found.group() if found else "", name)
        except Exception as error:  # Triton's backends raise what they like
            log.info("%s has no %s: %s", arch, name, error)
    return Compiled(None, found.group() if found else "")


def _main(backend: str, arch: str, lanes: str) -> None:
    """Prints a Compiled; leaves by an error, its words on stderr, where Triton refuses the target."""
    sys.stdout.write(f"\n{json.dumps(asdict(compile_trials(backend, arch, int(lanes))))}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
