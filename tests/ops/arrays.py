"""Arrays that several op tests need."""

import numpy as np

from rocforge.gguf.formats import Q8


def q8(T: int, K: int) -> Q8:
    """An empty Q8 [T, K]."""
    return Q8(np.empty((T, K), np.int8), np.empty((T, K // 32), np.float32), np.empty((T, K // 16), np.int16))
