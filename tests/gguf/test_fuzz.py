"""Mutated GGUF files: each is read whole or refused with a ModelError, in little time and memory."""

import re
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rocforge.errors import ModelError
from rocforge.gguf.reader import open_gguf
from tests.gguf.samples import write_sample

# CPU time, so that a busy machine makes no failure. A case takes about a millisecond; what is guarded
# against are loops over counts that the file states, of which the smallest that matter take seconds.
MOST_SECONDS = 1.0
# Python's objects cost more than the bytes that they are read from: a list of two-letter strings 59 bytes
# for 10, an empty array in an array 120 for 12, a key of four letters with its value 220 for 17. The constant
# is for what does not grow with the file.
# A buffer for which only a count in the file speaks is beyond this, as the files here are below 16 KiB.
MOST_BYTES_PER_BYTE, MOST_BYTES = 16, 256 << 10

INTERESTING = [0, 1, 2, 7, 8, 9, 12, 13, 31, 33, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
INTERESTING += [2**40, 2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 8, 2**64 - 1]


def integer_fields(path: Path) -> list[tuple[int, int]]:
    """Offset and width of every integer in the file's structure: counts, lengths, types, dimensions, offsets."""
    reader = gguf.GGUFReader(path)
    start = reader.data.ctypes.data
    fields = [*reader.fields.values(), *(tensor.field for tensor in reader.tensors)]
    parts = [part for field in fields for part in field.parts if part.dtype in (np.uint32, np.uint64) and part.size]
    found = {part.ctypes.data - start + i * part.itemsize: part.itemsize for part in parts for i in range(part.size)}
    return sorted(found.items())


def mutations(size: int, fields: list[tuple[int, int]]):
    """Edits of a file of `size` bytes: lists of (what, arguments)."""
    offset = st.integers(0, size - 1)
    header = st.integers(0, fields[-1][0])  # most of a small file's bytes are data, where nothing can go wrong
    length = st.integers(1, 300)
    value = st.sampled_from(INTERESTING) | st.integers(0, 2 * size) | st.integers(0, 2**64 - 1)
    one = st.one_of(
        st.tuples(st.just("put"), st.sampled_from(fields), value),
        st.tuples(st.just("flip"), header | offset, st.integers(1, 255)),
        st.tuples(st.just("cut"), offset),
        st.tuples(st.just("remove"), header, length),
        st.tuples(st.just("insert"), header, st.binary(min_size=1, max_size=24)),
        st.tuples(st.just("copy"), header, length, header),
        st.tuples(st.just("overwrite"), header, length, header),
    )
    return st.lists(one, min_size=1, max_size=3)


def mutate(content: bytes, edits) -> bytes:
    data = bytearray(content)
    for what, *args in edits:
        match what, args:
            case "put", ((at, width), value):
                data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
            case "flip", (at, bits):
                data[at : at + 1] = bytes(b ^ bits for b in data[at : at + 1])
            case "cut", (at,):
                del data[at:]
            case "remove", (at, length):
                del data[at : at + length]
            case "insert", (at, raw):
                data[at:at] = raw
            case "copy", (at, length, to):
                data[to:to] = data[at : at + length]
            case "overwrite", (at, length, to):
                data[to : to + length] = data[at : at + length]
    return bytes(data)


def read_everything(path: Path, keys: list[str]) -> None:
    with open_gguf(path) as file:
        for key in {*keys, *file.metadata}:
            for kind in (bool, int, float, str, list, np.ndarray):
                try:
                    assert type(file.get(key, kind)) is kind
                except ModelError as error:
                    check_message(error, path)
        end = {}
        for tensor in sorted(file.tensors.values(), key=lambda t: (t.path, t.offset)):
            assert tensor.offset >= end.get(tensor.path, 0)
            end[tensor.path] = tensor.offset + tensor.n_bytes
            view = file.data(tensor)
            assert view.nbytes == tensor.n_bytes > 0 and view.ndim == len(tensor.shape)
            assert tensor.offset % file.alignment == 0
            assert view.reshape(-1)[0] >= 0 and view.reshape(-1)[-1] >= 0  # both ends can be touched


def check_message(error: ModelError, path: Path) -> None:
    text = str(error)
    assert "\n" not in text and text.startswith(str(path.parent))
    assert re.search(r"\.gguf: (offset \d+: |is empty|metadata .* is missing|is missing: part)", text)


def check(path: Path, keys: list[str]) -> bool:
    """Whether the file opens; that reading it, or refusing it, keeps to the bounds."""
    start = time.process_time()
    tracemalloc.start()  # here, and not around it all: it makes Hypothesis twice as slow
    try:
        read_everything(path, keys)
        opens = True
    except ModelError as error:
        check_message(error, path)
        opens = False
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < MOST_SECONDS
    assert peak < MOST_BYTES + MOST_BYTES_PER_BYTE * path.stat().st_size
    return opens


def test_mutated_files(tmp_path):
    (path,) = write_sample(tmp_path / "sample.gguf")
    content, fields = path.read_bytes(), integer_fields(path)
    with open_gguf(path) as file:
        keys = list(file.metadata)
    outcomes = {True: 0, False: 0}

    @settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutations(len(content), fields))
    def fuzz(edits):
        path.write_bytes(mutate(content, edits))
        outcomes[check(path, keys)] += 1

    fuzz()
    # Were all refused, or none, this would have tested little. (About one in fifteen is not.)
    assert min(outcomes.values()) > 60, outcomes


def test_mutated_parts(tmp_path):
    paths = write_sample(tmp_path / "model.gguf", split_max_tensors=2)
    contents = [path.read_bytes() for path in paths]
    fields = [integer_fields(path) for path in paths]
    whole = [mutations(len(c), f) for c, f in zip(contents, fields, strict=True)]
    edit = st.integers(0, 2).flatmap(lambda i: st.tuples(st.just(i), whole[i]))

    @settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
    @given(edit, st.integers(0, 2))
    def fuzz(edit, opened):
        i, edits = edit
        paths[i].write_bytes(mutate(contents[i], edits))
        check(paths[opened], [])
        paths[i].write_bytes(contents[i])

    fuzz()
