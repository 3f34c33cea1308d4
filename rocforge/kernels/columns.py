"""The order of a row's columns where the matrix units multiply: one of several, the same for weights and activations.

A product's sum does not mind the order of its columns, so they lie as matrix instructions want the weights' (PTX ISA, fragments of
A; AMD's matrix instruction calculator): of 16 columns each lane of a row has four, a word's bytes, two and two or all four next to
each other (PAIRED or not): the first and the third, then the second and the fourth, as a mask takes them out of a word. And the words
of one step that a lane has are of as few units as can be (MIX: so many units, 1, 2 or 4, lie interleaved), for each of which it needs
the scales. `mixed` says it in tensors' dimensions.
"""

from typing import NamedTuple

import triton
import triton.language as tl

# Units that are interleaved at the most: a matrix instruction's row is on four lanes.
MOST_MIX = 4


class Order(NamedTuple):
    """How columns lie; the file's head says what it is good for."""

    MIX: int
    PAIRED: bool


@triton.jit
def mixed(x, MIX: tl.constexpr, PAIRED: tl.constexpr):
    """[n, unit % MIX, group // 2, group % 2, word // (4 // MIX), word % (4 // MIX), byte % 2, byte // 2] in the order of
    columns in memory, dimensions as they come."""
    if PAIRED:
        return tl.permute(x, (0, 2, 3, 4, 6, 5, 1, 7))
    else:
        return tl.permute(x, (0, 2, 3, 4, 5, 1, 6, 7))


@triton.jit
def in_order(x, MIX: tl.constexpr, PAIRED: tl.constexpr):
    """Blocks of columns [n, 32], as they are in a model, in the order of columns in memory."""
    n: tl.constexpr = x.shape[0]
    x = tl.permute(tl.reshape(x, (n * 8, 2, 2)), (0, 2, 1))  # byte % 2, byte // 2
    return tl.reshape(mixed(tl.reshape(x, (n // (2 * MIX), MIX, 2, 2, MIX, 4 // MIX, 2, 2)), MIX, PAIRED), (n, 32))
