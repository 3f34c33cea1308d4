"""The table of formats agrees with gguf's; float tensors decode as gguf decodes them."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from rocforge.gguf import formats
from rocforge.gguf.formats import BF16, BY_ID, BY_NAME, F16, F32, KNOWN, Q4_K, Q8_0, SUPPORTED, float_values

# gguf counts two float32 in a block of Q8_1; the struct in ggml-common.h holds two half-precision numbers.
# The format is one of activations, and of no file.
DIFFERS = {"Q8_1": ((32, 40), (32, 36))}
THEIRS = {kind.name: (kind.value, size) for kind, size in gguf.GGML_QUANT_SIZES.items()}


def test_the_table_agrees_with_ggufs():
    both = [f for f in KNOWN if f.name in THEIRS]
    assert set(SUPPORTED) <= set(both)
    for f in both:
        type_id, size = THEIRS[f.name]
        assert (f.type_id, (f.block, f.block_bytes)) == (type_id, DIFFERS.get(f.name, (size, size))[1]), f
    for name, (theirs, _) in DIFFERS.items():
        assert THEIRS[name][1] == theirs  # or there is no difference left to excuse


def test_every_type_of_this_gguf_is_known():
    # A type that is missing here would be refused by its number, and not by its name.
    assert {name for name in THEIRS if name not in BY_NAME} == set()


def test_names_and_ids_are_unique():
    assert len(BY_ID) == len(BY_NAME) == len(KNOWN)


def test_is_float():
    assert [f.name for f in KNOWN if f.is_float] == ["F32", "F16", "BF16", "F64"]


@pytest.mark.parametrize("f", KNOWN, ids=str)
def test_row_bytes(f):
    assert f.row_bytes(3 * f.block) == 3 * f.block_bytes


def test_row_bytes_wants_whole_blocks():
    assert Q8_0.row_bytes(4096) == 4352 and Q4_K.row_bytes(256) == 144
    with pytest.raises(AssertionError):
        Q4_K.row_bytes(300)


@pytest.mark.parametrize("f", [F32, F16, BF16], ids=str)
def test_float_values(f):
    # Every bit pattern of 16 bits, infinities and NaNs among them; for 32 bits, those patterns in the upper half.
    patterns = np.arange(1 << 16, dtype=np.uint16)
    data = (patterns.astype(np.uint32) << 16 if f is F32 else patterns).view(np.uint8).reshape(16, -1)
    values = float_values(data, f)
    expected = quants.dequantize(data, GGMLQuantizationType(f.type_id)).reshape(-1)
    assert values.dtype == np.float32 and values.shape == (1 << 16,)
    assert np.array_equal(values, expected, equal_nan=True)


def test_values_of_blocks_are_refused():
    with pytest.raises(AssertionError):
        float_values(np.zeros(34, np.uint8), formats.Q8_0)
