"""How fast rotary position embedding turns each pair: frequencies and their scaling. Rotates nothing."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding: how fast each pair of a head's values turns.

    `layout` names the pairs: "interleaved" (2i, 2i+1) or "half" (i, i + dim/2).
    `scaling` is none, linear or yarn; the Llama-3 scheme comes as factors in a tensor.
    """

    dim: int
    theta: float
    layout: str
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_scale: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    @property
    def attention_factor(self) -> float:
        """What cos and sin are multiplied with. YaRN (arXiv 2309.00071, section 3.4): 0.1 ln s + 1."""
        yarn = 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" and self.factor > 1 else 1.0
        return self.attention_scale * yarn

    def inv_freq(self, factors: np.ndarray | None = None) -> np.ndarray:
        """float64 [dim/2]: radians per position of each pair.

        `factors` [dim/2] divide them (tensor rope_freqs.weight). Linear scaling divides all by
        `factor`; YaRN (arXiv 2309.00071, section 3.2) only those of long wavelength, with a ramp
        between the pairs that turn beta_fast and beta_slow times within the original context.
        """
        inv = self.theta ** (-np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if factors is not None:
            inv = inv / factors.astype(np.float64)
        if self.scaling == "linear":
            return inv / self.factor
        if self.scaling != "yarn":
            return inv

        def pair_that_turns(times: float) -> float:
            wavelength = self.original_context / (times * 2 * math.pi)
            return self.dim * math.log(wavelength) / (2 * math.log(self.theta))

        low = max(math.floor(pair_that_turns(self.beta_fast)), 0)
        high = min(math.ceil(pair_that_turns(self.beta_slow)), self.dim - 1)
        ramp = np.clip((np.arange(self.dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
        return inv / self.factor * ramp + inv * (1.0 - ramp)
