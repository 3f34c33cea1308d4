"""embed: every format's rows are, to the last bit, what gguf's dequantisation gives."""

import numpy as np
import pytest

from rocforge.cpu import threads
from rocforge.gguf.formats import SUPPORTED
from tests.ops.blocks import BLOCK_FORMATS, extreme_blocks, random_blocks, weights


def check(room, data, format, columns, tokens, n_threads=1):
    table = room.matrix(data, format, len(data), columns)
    wide = np.full((len(tokens), columns + 3), 7.0, np.float32)
    team = threads.Team(n_threads)
    try:
        with threads.use(team):
            room.embed(np.array(tokens, np.int32), table, wide[:, :columns])
    finally:
        team.close()
    np.testing.assert_array_equal(wide[:, :columns], weights(data, format).astype(np.float32)[tokens])
    assert (wide[:, columns:] == 7).all()


@pytest.mark.parametrize("format", SUPPORTED, ids=str)
def test_random_rows(room, format):
    rng = np.random.default_rng(0)
    columns = {1: 45, 32: 96, 256: 768}[format.block]
    data = random_blocks(format, 9, columns, rng)
    check(room, data, format, columns, [8, 0, 3, 3, 7, 1])
    check(room, data, format, columns, [5], n_threads=3)
    check(room, data, format, columns, [], n_threads=2)


@pytest.mark.parametrize("format", BLOCK_FORMATS, ids=str)
def test_extreme_rows(room, format):
    data = extreme_blocks(format, 256)
    check(room, data, format, 256, list(range(len(data))), n_threads=2)
