"""What a launch should take on a card, by its machine code alone. Compiles nothing, measures nothing.

With W waves in P programs, of which R are on a CU at once (by registers and by shared memory), for a kernel whose loop
makes `steps` steps and loads ahead = stages - 1 of them early, and with n = n1 * steps + n0 instructions in a wave, n1 of a
step and n0 once:

    memory  = bytes / (bandwidth * min(1, in flight / (bandwidth * LATENCY_S)))        Little's law, where
              in flight = min(W, waves of R * CUs programs) * lanes * bytes that a lane loads a step * max(1, ahead)
    cache   = W * lanes * (bytes that a lane loads through the CU's cache / CACHE_BYTES, and past it / PASSING_BYTES)
              / (CUs * clock)
    issue   = W * n * cycles / (CUs * SIMDs * clock)
    matrix  = FLOPs of whole tiles / matrix peak, where there are matrix instructions
    most    = ceil(P / CUs): the programs of the CU that has the most to do
    fill    = most / (P / CUs): its work over the mean
    step    = n1 * DEPENDENT * (SPILLING if registers are spilled) / clock
              + a program's FLOPs of a step / the peak of the SIMDs that its waves are on
    loaded  = max(step, (LATENCY_S + step * loads at / n1) / ahead), or step + LATENCY_S where nothing is loaded ahead
    chain   = ceil(most / R) * (LATENCY_S + n0 * DEPENDENT / clock + loaded * steps)
    begin   = most * BEGIN_S
    seconds = largest of (memory, cache * fill, issue * fill, matrix * fill, chain, begin) + OVERLAP * (the sum of the others)

A wave's instruction takes cycles = 4 on CDNA and GCN (64 lanes on a SIMD of 16), 1 on RDNA and NVIDIA (32 on 32). In a
wave most instructions wait for the one before, its next step for its matrix products and for its loads (which stand at the end
of a step on NVIDIA, at the beginning on AMD); so however empty the CU, a program takes its `chain`, and those that there is no
room for begin when others end. A step is the code's largest loop that has no loop within it; the rest of the code runs once.
More shared memory than there is, is infinite, and so are spilled registers on AMD.

The model ranks tiles of one kernel; it is no forecast of times. LATENCY_S, DEPENDENT and OVERLAP are assumptions.
Sources: waves, registers and LDS by LLVM's AMDGPU guide (llvm.org/docs/AMDGPUUsage.html); cards by cards.py; cycles
of an instruction and 64 bytes a clock from the vector cache by AMD's CDNA and RDNA white papers.
"""

import math
from dataclasses import dataclass

from rocforge.gguf.formats import BY_NAME
from rocforge.kernels import layout
from rocforge.kernels.assembly import Loop
from rocforge.kernels.cards import Card
from rocforge.kernels.inspect import Row
from rocforge.kernels.launch import Launch, box_bytes
from rocforge.kernels.target import Target
from rocforge.probe.tuned import Key


LATENCY_S = 600e-9
OVERLAP = 0.1
# Clocks from an instruction to one that needs its result: 4 on CDNA and NVIDIA, 5 on RDNA, more where memory is asked.
DEPENDENT = 5
# A clock: from the vector cache to its CU; and from the L2 to each CU when all ask (what an H100 gives gemm_blocks, whose
# loads to shared memory pass the CU's own cache). AMD's code has none that do.
CACHE_BYTES, PASSING_BYTES = 64, 25
# By Triton's backend: from one program's beginning on a CU to the next's (what launches of many short programs add on an
# H100 and an H200); and how much longer a loop takes whose registers did not suffice (products of 64 tokens there: the compiler
# then has matrix instructions wait for each other). Of AMD's cards the first is not known, and the second is never launched.
BEGIN_S, SPILLING = {"cuda": 93e-9, "hip": 0.0}, {"cuda": 1.5, "hip": math.inf}
# A further launch, that joins what the programs of one have: an H100's for a norm of one row, within a graph.
JOIN_S = 2e-6
# Keys that attention is taken to see, here and where it is timed: a long conversation's.
KEYS = 4096
# Tokens that are taken to be of a sequence each there, where a kernel serves few and many.
FEW = 16


@dataclass(frozen=True)
class Work:
    """What a launch has to do whatever its tile: bytes from memory, FLOPs. Its `steps` depend on the tile."""

    bytes: float
    flops: float
    steps: float


def work(key: Key, launch: Launch) -> Work:
    """Of the launch of a key's kernel."""
    sizes = launch.constants
    if key.kernel.startswith(("gemv", "gemm")):
        (N, K), T = key.shape, key.tokens
        weights = 2 * N * K if key.kernel == "gemm_plain" else layout.n_bytes(BY_NAME[key.format], N, K)
        columns = sizes["BK"] if "BK" in sizes else sizes["BU"] * layout.UNIT
        # Of the last tile, what is beyond the matrix is computed along.
        rows, tokens = _whole(N, sizes.get("BN", 1)), _whole(T, sizes.get("BT", 1))
        steps, parts = math.ceil(K / columns), 1
        if key.kernel == "gemv_blocks":  # programs go through several blocks of rows
            steps *= math.ceil(rows / sizes["BN"] / launch.grid[0])
        # Of gemv_norm and gemv_rope a program has one block of rows, and what they write beside or instead of out is as much.
        if key.kernel == "gemm_blocks":  # programs share a row's columns, and what they write is read once more
            parts = launch.grid[1]
            steps = math.ceil(steps / parts)
        moved = weights + 2 * T * K + 4 * T * N * (2 * parts if parts > 1 else 1)
        return Work(moved, 2 * rows * tokens * K, steps)
    if key.kernel.startswith("attend"):
        (D, group, kv_heads), T = key.shape, key.tokens
        splits = launch.grid[2] if len(launch.grid) > 2 else 1
        element = {"f16": 2, "f32": 4, "q8_0": 1.0625}[key.format]
        sequences = 1 if is_prefill(key) else T
        moved = 2 * KEYS * D * kv_heads * element * sequences + 8 * T * D * group * kv_heads
        rows = _whole(group, sizes.get("ROWS", group)) * T if key.kernel == "attend_split" else T * group
        return Work(moved, 4 * rows * kv_heads * D * KEYS, math.ceil(KEYS / splits / sizes["BN"]))
    # Of what works on rows, the last size is the columns.
    (*_, columns), T = key.shape, key.tokens
    # Read and written once, in float32 at the most: a few bytes a value, the same for all tiles.
    return Work(12 * T * columns, 0, 1)


def is_prefill(key: Key) -> bool:
    """Whether attention's tokens are the last of one sequence; else they are of a sequence each."""
    return key.kernel == "attend_tile" or (key.kernel == "attend_lanes" and key.tokens > FEW)


def _whole(n: int, tile: int) -> int:
    return -(-n // tile) * tile


def boxed_bytes(key: Key, launch: Launch, target: Target) -> float:
    """Bytes a lane and step that come to shared memory in boxes (launch.descriptor), which no lane's instruction loads."""
    if key.kernel != "gemm_blocks":
        return 0
    planes, arguments = layout.PLANES[BY_NAME[key.format]], dict(zip(launch.kernel.arg_names, launch.args))
    boxes = {"x": 1, "quants": planes.quants.n_parts, "high": planes.high.n_parts if planes.high else 0}
    lanes = launch.options["num_warps"] * target.lanes
    return sum(n * box_bytes(arguments[name]) for name, n in boxes.items()) / lanes


def seconds(key: Key, launch: Launch, row: Row, loop: Loop, target: Target, card: Card) -> float:
    """The formula at the top of the file; infinite for what spills or does not fit."""
    spilling = SPILLING[target.backend] if row.spills else 1.0
    if math.isinf(spilling) or row.lds_bytes > target.lds_bytes or not row.waves_per_simd:
        return math.inf
    warps, need = launch.options["num_warps"], work(key, launch)
    programs, clock, bandwidth = math.prod(launch.grid), card.ghz * 1e9, card.gb_per_s * 1e9
    # One always fits: on RDNA, if need be, on two CUs.
    at_once = max(1, row.waves_per_simd * card.simds // warps)
    if row.lds_bytes:
        at_once = min(at_once, target.lds_bytes // row.lds_bytes)
    most = math.ceil(programs / card.compute_units)
    ahead = launch.options.get("num_stages", 1) - 1
    in_flight = min(programs, at_once * card.compute_units) * warps * target.lanes
    boxed = boxed_bytes(key, launch, target)
    loaded = loop.loaded_bytes + boxed
    in_flight *= max(1, loaded * max(1, ahead) or loop.loaded_bytes_once)
    passing = loop.passing_bytes * need.steps + loop.passing_bytes_once
    cached = loop.loaded_bytes * need.steps + loop.loaded_bytes_once - passing
    passing += boxed * need.steps
    issued = loop.instructions * need.steps + loop.instructions_once
    cycles = 4 if target.lanes == 64 else 1
    flops = need.flops / programs if row.matrix else 0  # of a program
    peak = card.matrix_tflops * 1e12 / card.compute_units  # of a CU
    step = spilling * loop.instructions * DEPENDENT / clock + flops / need.steps / (peak * min(1, warps / card.simds))
    if loaded:
        step = max(step, (LATENCY_S + loop.loads_at * step) / ahead) if ahead else step + LATENCY_S
    parts = [
        need.bytes / (bandwidth * min(1, in_flight / (bandwidth * LATENCY_S))),
        most * warps * target.lanes * (cached / CACHE_BYTES + passing / PASSING_BYTES) / clock,
        most * warps * issued * cycles / (card.simds * clock),
        most * flops / peak,
        math.ceil(most / at_once) * (LATENCY_S + loop.instructions_once * DEPENDENT / clock + step * need.steps),
        most * BEGIN_S[target.backend],
    ]
    longest = max(parts)
    return longest + OVERLAP * (sum(parts) - longest)
