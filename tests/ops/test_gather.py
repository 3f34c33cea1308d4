"""Rows picked out."""

import numpy as np

from tests import reference


def test_rows_in_any_order_and_twice(room):
    x = np.random.default_rng(0).standard_normal((7, 33)).astype(np.float32)
    rows = np.array([6, 0, 3, 3], np.int32)
    out = np.empty((4, 33), np.float32)
    room.gather(x, rows, out)
    np.testing.assert_array_equal(out, reference.gather(x, rows))
