"""Launches that begin while the one before them ends, on NVIDIA GPUs from Hopper on. Computes nothing.

Such a launch (CUDA's programmatic dependent launch) is put onto the device once all programs of the one before have
let it: that hides the time in which an ordinary launch is got ready, and what it does before `wait` is hidden too. From
`wait` on all is as in an ordinary launch: whatever was launched before is done, and its results are seen. So each
kernel of a step waits before it reads what the one before has written and before it writes anything. Until then it may
read weights, which no step writes, or have them fetched into the second cache (`fetch`), and read what launches before the one before have
written (`settled`): they are done, since that one has waited for them, or it had not let this one begin.

In steps of many tokens kernels take so long that it is no gain (EARLY_TOKENS).

EARLY is the constexpr that says so to a kernel (`launch` sets it). Where it is False, as on all of AMD's targets, nothing
of this is left in the machine code. The instructions: PTX ISA, griddepcontrol.
"""

import triton
import triton.language as tl

# Of steps with more tokens no launch begins early: 128 sequences of Llama 3 8B then take 1.2 % less time on an H200, 1.0 on an H100.
EARLY_TOKENS = 64


@triton.jit
def wait(EARLY: tl.constexpr):
    """All that was launched before is done; the next launch may begin.

    Not earlier: its programs would take places beside those of the launch before, and be spread unevenly over the
    device (a step of Llama 3 8B took 11 % longer on an H200).
    """
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def settled(at, mask, EARLY: tl.constexpr):
    """What lies at `at`, which the launch before does not write; other lanes than the mask's have 0.

    Where nothing has been waited for it is read past the first cache, which may still hold what was there before.
    """
    CACHE: tl.constexpr = ".cg" if EARLY else ""
    if mask is None:
        return tl.load(at, cache_modifier=CACHE)
    else:
        return tl.load(at, mask=mask, other=0, cache_modifier=CACHE)


@triton.jit
def fetch(at, EARLY: tl.constexpr):
    """Has the second cache fetch the lines in which these addresses lie, of 128 bytes each, and waits for nothing."""
    if EARLY:
        tl.inline_asm_elementwise("prefetch.global.L2 [$1];\nmov.b32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1)
