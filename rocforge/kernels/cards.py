"""The largest card of each target, in figures: what a target that is not here is taken to be. Facts only.

Sources: compute units by AMD's table of GPU specifications (rocm.docs.amd.com, reference/gpu-specs); bandwidth, clock
and peaks by AMD's product pages. NVIDIA's by its data sheets and its white paper on Hopper.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """A card. Bandwidth in GB/s, clock (the boost clock) in GHz, `matrix_tflops` of float16, dense; where there are no
    matrix units, of packed float16 on the lanes. NVIDIA calls a compute unit an SM, and its SIMDs schedulers."""

    name: str
    compute_units: int
    simds: int  # of a CU
    gb_per_s: float
    ghz: float
    matrix_tflops: float


# An APU's bandwidth is that of the memory it is sold with most.
CARDS: dict[str, Card] = {
    "gfx906": Card("Instinct MI60", 64, 4, 1024, 1.80, 29.5),
    "gfx908": Card("Instinct MI100", 120, 4, 1229, 1.50, 184.6),
    "gfx90a": Card("Instinct MI210", 104, 4, 1638, 1.70, 181.0),
    "gfx942": Card("Instinct MI300X", 304, 4, 5300, 2.10, 1307.4),
    "gfx950": Card("Instinct MI355X", 256, 4, 8000, 2.40, 2516.6),
    "gfx1030": Card("Radeon RX 6900 XT", 80, 2, 512, 2.25, 46.1),
    "gfx1031": Card("Radeon RX 6700 XT", 40, 2, 384, 2.58, 26.4),
    "gfx1032": Card("Radeon RX 6600 XT", 32, 2, 256, 2.59, 21.2),
    "gfx1033": Card("Steam Deck", 8, 2, 88, 1.60, 3.3),
    "gfx1034": Card("Radeon RX 6500 XT", 16, 2, 144, 2.82, 11.5),
    "gfx1035": Card("Radeon 680M", 12, 2, 76.8, 2.40, 7.4),
    "gfx1036": Card("Radeon 610M", 2, 2, 83.2, 2.20, 1.1),
    "gfx1100": Card("Radeon RX 7900 XTX", 96, 2, 960, 2.50, 122.8),
    "gfx1101": Card("Radeon RX 7800 XT", 60, 2, 624, 2.43, 74.7),
    "gfx1102": Card("Radeon RX 7600", 32, 2, 288, 2.66, 43.5),
    "gfx1103": Card("Radeon 780M", 12, 2, 89.6, 2.70, 16.6),
    "gfx1150": Card("Radeon 890M", 16, 2, 120, 2.90, 23.8),
    "gfx1151": Card("Radeon 8060S", 40, 2, 256, 2.90, 59.4),
    "gfx1152": Card("Radeon 860M", 8, 2, 128, 3.00, 12.3),
    "gfx1200": Card("Radeon RX 9060 XT", 32, 2, 320, 3.13, 103.0),
    "gfx1201": Card("Radeon RX 9070 XT", 64, 2, 640, 2.97, 195.0),
    "sm90": Card("H200", 132, 4, 4800, 1.98, 989.4),
}
# Others of these targets, told by their names.
OTHERS: dict[str, tuple[Card, ...]] = {
    "sm90": (Card("H100", 132, 4, 3350, 1.98, 989.4),),
}


def card(arch: str, device: str = "") -> Card | None:
    """Of a target; of several, the one that the device's name has in it, or else the largest. None where none is known."""
    return next((other for other in OTHERS.get(arch, ()) if other.name in device), CARDS.get(arch))
