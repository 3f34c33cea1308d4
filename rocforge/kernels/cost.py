"""What a launch should take on an AMD card, by its machine code alone. Compiles nothing, measures nothing.

With W waves over `slots` = CUs x SIMDs x (waves that fit on a SIMD by registers and by shared memory), in
P programs, for a kernel whose loop makes `steps` steps:

    memory  = bytes / (bandwidth * min(1, in flight / (bandwidth * LATENCY_S)))        Little's law, where
              in flight = min(W, slots) * lanes * bytes that a lane loads a step * stages of the loop
    cache   = W * lanes * (bytes that a lane loads a step * steps + those once) / (CACHE_BYTES * CUs * clock)
    issue   = W * (instructions a step * steps + those once) * cycles / (CUs * SIMDs * clock)
    matrix  = FLOPs of whole tiles / matrix peak, where there are matrix instructions
    fill    = ceil(P / CUs) / (P / CUs): the CU that has the most to do, over the mean
    seconds = largest of (memory, cache * fill, issue * fill, matrix * fill) + OVERLAP * (the sum of the others)

A wave's instruction takes cycles = 4 on CDNA and GCN (64 lanes on a SIMD of 16), 1 on RDNA (32 on 32).
A step is the code's largest loop that has no loop within it; the rest of the code runs once. Registers
in memory (spills), or more shared memory than there is, is infinite.

The model ranks tiles of one kernel; it is no forecast of times. LATENCY_S and OVERLAP are assumptions.
Sources: waves, registers and LDS by LLVM's AMDGPU guide (llvm.org/docs/AMDGPUUsage.html); cards by cards.py; cycles
of an instruction and 64 bytes a clock from the vector cache by AMD's CDNA and RDNA white papers.
"""

import math
from dataclasses import dataclass

from rocforge.gguf.formats import BY_NAME
from rocforge.kernels import layout
from rocforge.kernels.cards import CARDS
from rocforge.kernels.inspect import Loop, Row
from rocforge.kernels.launch import Launch
from rocforge.kernels.target import Target
from rocforge.probe.tuned import Key


LATENCY_S = 600e-9
OVERLAP = 0.1
CACHE_BYTES = 64  # a clock, from the vector cache to its CU
# Keys that attention is taken to see, here and where it is timed: a long conversation's.
KEYS = 4096


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
        if key.kernel == "gemm_blocks":  # programs share a row's columns, and what they write is read once more
            parts = launch.grid[1]
            steps = math.ceil(steps / parts)
        moved = weights + 2 * T * K + 4 * T * N * (2 * parts if parts > 1 else 1)
        return Work(moved, 2 * rows * tokens * K, steps)
    if key.kernel.startswith("attend"):
        (D, group, kv_heads), T = key.shape, key.tokens
        splits = launch.grid[2] if len(launch.grid) > 2 else 1
        element = {"f16": 2, "f32": 4, "q8_0": 1.0625}[key.format]
        moved = 2 * KEYS * D * kv_heads * element + 8 * T * D * group * kv_heads
        rows = _whole(group, sizes.get("ROWS", group)) * T if key.kernel == "attend_split" else T * group
        return Work(moved, 4 * rows * kv_heads * D * KEYS, math.ceil(KEYS / splits / sizes["BN"]))
    # Of what works on rows, the last size is the columns.
    (*_, columns), T = key.shape, key.tokens
    # Read and written once, in float32 at the most: a few bytes a value, the same for all tiles.
    return Work(12 * T * columns, 0, 1)


def _whole(n: int, tile: int) -> int:
    return -(-n // tile) * tile


def seconds(key: Key, launch: Launch, row: Row, loop: Loop, target: Target) -> float:
    """The formula at the top of the file; infinite for what spills or does not fit."""
    if row.spills or row.lds_bytes > target.lds_bytes or not row.waves_per_simd:
        return math.inf
    card, warps, need = CARDS[target.arch], launch.options["num_warps"], work(key, launch)
    waves = math.prod(launch.grid) * warps
    fit = row.waves_per_simd
    if row.lds_bytes:
        fit = min(fit, target.lds_bytes // row.lds_bytes * warps / card.simds)
    slots = card.compute_units * card.simds * fit
    clock, bandwidth = card.ghz * 1e9, card.gb_per_s * 1e9
    # Stages load ahead; what has no loop has none.
    ahead = loop.loaded_bytes * launch.options.get("num_stages", 1) or loop.loaded_bytes_once
    in_flight = min(waves, slots) * target.lanes * max(1, ahead)
    loaded = target.lanes * (loop.loaded_bytes * need.steps + loop.loaded_bytes_once)
    issued = loop.instructions * need.steps + loop.instructions_once
    a_unit = math.prod(launch.grid) / card.compute_units
    fill = math.ceil(a_unit) / a_unit
    cycles = 4 if target.lanes == 64 else 1
    parts = [
        need.bytes / (bandwidth * min(1, in_flight / (bandwidth * LATENCY_S))),
        fill * waves * loaded / (CACHE_BYTES * card.compute_units * clock),
        fill * waves * issued * cycles / (card.compute_units * card.simds * clock),
        fill * need.flops / (card.matrix_tflops * 1e12) if row.matrix else 0,
    ]
    longest = max(parts)
    return longest + OVERLAP * (sum(parts) - longest)
