"""The GGUF reader: what gguf's writer wrote comes back; every malformation is told with its offset."""

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf import GGUFValueType as Type

from rocforge.errors import ModelError
from rocforge.gguf import formats, metadata
from rocforge.gguf.reader import open_gguf
from tests.gguf.samples import (
    ARRAYS,
    MERGES,
    TEXTS,
    VOCABULARY,
    array,
    entry,
    header,
    pair,
    string,
    tensors,
    u32,
    u64,
    with_data,
    write_sample,
)
from tests.paths import SHARED, needs_shared

VOCABULARIES = SHARED / "data" / "vocab"


@pytest.fixture
def write(tmp_path):
    """Bytes -> the path of a file with them."""

    def write(content: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    (path,) = write_sample(tmp_path_factory.mktemp("sample") / "sample.gguf")
    return path


def refusal(path: Path) -> str:
    """The message with which the file is refused, by the time that all of it has been looked at; without the path."""
    with pytest.raises(ModelError) as error:
        with open_gguf(path) as file:
            dict(file.metadata)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- what is there comes back


def check_sample(file):
    for kind, values in ARRAYS.items():
        one, many = file.metadata[f"one.{kind.name}"], file.metadata[f"many.{kind.name}"]
        assert one == values[-1] and type(one) is type(values[-1])
        assert many.tolist() == values and not many.flags.writeable
    assert file.metadata["one.STRING"] == "naïve"
    assert file.metadata["many.STRING"] == TEXTS
    assert file.metadata["tokenizer.ggml.tokens"] == VOCABULARY
    assert file.metadata["tokenizer.ggml.merges"] == MERGES
    ((a, b), (c,)) = file.metadata["nested"]
    assert (a.tolist(), b.tolist(), c) == ([1, 2], [3], ["a", "é"])
    assert list(file.tensors) == list(tensors())
    for name, (data, _) in tensors().items():
        view = file.data(name)
        rows = data.view(np.uint8)
        assert view.shape == rows.shape and np.array_equal(view, rows)
        assert file.tensors[name].n_bytes == view.nbytes
        assert np.array_equal(file.data(file.tensors[name]), view)
        assert not view.flags.writeable and not view.flags.owndata


def test_every_type_comes_back(sample):
    with open_gguf(str(sample)) as file:
        check_sample(file)
        assert (file.path, file.paths, file.version, file.alignment) == (sample, [sample], 3, 32)
        assert file.n_bytes == sample.stat().st_size
        experts = file.tensors["blk.0.ffn_gate_exps.weight"]
        assert experts.shape == (3, 2, 256) and experts.format is formats.Q4_K
        assert file.tensors["blk.0.ffn_up.weight"].format.name == "IQ2_XXS"


def test_offsets_are_those_of_ggufs_own_reader(sample):
    with open_gguf(sample) as file:
        expected = {t.name: int(t.data_offset) for t in GGUFReader(sample).tensors}
        assert {t.name: t.offset for t in file.tensors.values()} == expected


def test_alignment_of_64(tmp_path):
    (path,) = write_sample(tmp_path / "aligned.gguf", alignment=64)
    with open_gguf(path) as file:
        assert file.alignment == 64
        assert all(t.offset % 64 == 0 for t in file.tensors.values())
        check_sample(file)


def test_version_2(write):
    path = write(with_data(header([pair("a", Type.INT8, b"\xff")], [entry("t", (3, 2))], version=2), 24))
    with open_gguf(path) as file:
        assert (file.version, dict(file.metadata)) == (2, {"a": -1})
        assert file.tensors["t"].shape == (2, 3)
        assert file.data("t").ravel().tolist() == list(range(24))


def test_empty_arrays(write):
    path = write(
        header([
            pair("strings", Type.ARRAY, array(Type.STRING, 0, b"")),
            pair("numbers", Type.ARRAY, array(Type.FLOAT32, 0, b"")),
            pair("arrays", Type.ARRAY, array(Type.ARRAY, 0, b"")),
        ])
    )  # fmt: skip
    with open_gguf(path) as file:
        assert (file.metadata["strings"], file.metadata["arrays"]) == ([], ())
        assert file.metadata["numbers"].shape == (0,) and file.metadata["numbers"].dtype == np.float32


def test_arrays_are_parsed_once_and_not_before_they_are_asked_for(write):
    # The bad byte shows when the array is read: opening does not decode strings.
    path = write(header([pair("bad", Type.ARRAY, array(Type.STRING, 1, string(b"\xff"))), pair("ok", Type.BOOL, b"\1")]))
    with open_gguf(path) as file:
        assert file.metadata["ok"] is True and "bad" in file.metadata and len(file.metadata) == 2
        with pytest.raises(ModelError, match="not valid UTF-8"):
            file.metadata["bad"]


def test_an_array_is_kept(sample):
    with open_gguf(sample) as file:
        assert file.metadata["many.STRING"] is file.metadata["many.STRING"]


@needs_shared
def test_a_real_model_is_read_as_by_ggufs_own_reader():
    path = SHARED / "data" / "golden" / "tiny-mixtral-Q4_K_M.gguf"
    theirs = GGUFReader(path)
    with open_gguf(path) as file:
        assert list(file.tensors) == [t.name for t in theirs.tensors]
        for tensor in theirs.tensors:
            assert np.array_equal(file.data(tensor.name), np.asarray(tensor.data).view(np.uint8)), tensor.name
        for key, field in theirs.fields.items():
            if not key.startswith("GGUF."):
                assert np.array_equal(file.metadata[key], field.contents()), key


@needs_shared
def test_a_large_vocabulary_opens_in_under_half_a_second():
    def once() -> float:
        # CPU time: what a busy machine takes away is not the reader's. Nothing here waits for anything.
        start = time.process_time()
        with open_gguf(VOCABULARIES / "ggml-vocab-llama-bpe.gguf") as file:
            tokens, merges = file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.merges"]
        elapsed = time.process_time() - start
        assert (len(tokens), len(merges)) == (128_256, 280_147)
        assert (tokens[0], tokens[-1], merges[0]) == ("!", "<|reserved_special_token_250|>", "Ġ Ġ")
        return elapsed

    assert min(once() for _ in range(3)) < 0.5


# ---- the typed getter


def test_get_checks_the_kind(sample):
    with open_gguf(sample) as file:
        assert file.get("one.UINT16", int) == 65_535
        assert file.get("one.FLOAT64", float) == -1e300
        assert type(file.get("one.INT8", float)) is float
        assert file.get("one.BOOL", bool) is True
        assert file.get("one.STRING", str) == "naïve"
        assert file.get("many.STRING", list) == TEXTS
        assert file.get("many.INT8", np.ndarray).tolist() == [-128, 0, 127]
        assert file.get("absent", int, 7) == 7 and file.get("absent", str, None) is None
        with pytest.raises(ModelError, match=r"sample\.gguf: metadata absent is missing; wanted is an integer"):
            file.get("absent", int)


@pytest.mark.parametrize(
    ("key", "kind", "found"),
    [
        ("one.STRING", int, r"is 'naïve' \(str\), wanted is an integer"),
        ("one.BOOL", int, r"is True \(bool\), wanted is an integer"),
        ("one.BOOL", float, r"is True \(bool\), wanted is a number"),
        ("one.UINT8", bool, r"is 255 \(int\), wanted is a boolean"),
        ("one.FLOAT32", int, r"\(float\), wanted is an integer"),
        ("one.UINT8", str, r"is 255 \(int\), wanted is a string"),
        ("many.STRING", np.ndarray, "is an array of 8 strings, wanted is an array of numbers"),
        ("many.INT8", list, r"is an array of 3 numbers \(int8\), wanted is an array of strings"),
        ("nested", list, "is an array of 2 arrays, wanted is an array of strings"),
        ("one.UINT8", np.ndarray, r"is 255 \(int\), wanted is an array of numbers"),
    ],
)
def test_get_tells_what_was_found(sample, key, kind, found):
    with open_gguf(sample) as file:
        with pytest.raises(ModelError, match=rf"offset \d+: metadata {key} .*{found}") as error:
            file.get(key, kind, None)
    offset = int(re.search(r"offset (\d+)", str(error.value))[1])
    assert sample.read_bytes()[: offset - 4].endswith(key.encode())  # the value comes after its type


# ---- split files


def test_a_split_model_opens_from_any_part(tmp_path):
    paths = write_sample(tmp_path / "model.gguf", split_max_tensors=2)
    assert [p.name for p in paths] == [f"model-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    for path in paths:
        with open_gguf(path) as file:
            check_sample(file)
            assert (file.path, file.paths) == (paths[0], paths)
            assert file.n_bytes == sum(p.stat().st_size for p in paths)
            assert [t.path for t in file.tensors.values()] == [paths[i] for i in (0, 0, 1, 1, 2)]


def test_a_missing_part_is_named(tmp_path):
    paths = write_sample(tmp_path / "model.gguf", split_max_tensors=2)
    paths[1].unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003\.gguf: is missing: part 2 of 3"):
        open_gguf(paths[2])


def split_part(i: int, count: int = 2, n_tensors: int = 2, name: str | None = None) -> bytes:
    pairs = [
        pair("split.no", Type.UINT16, i.to_bytes(2, "little")),
        pair("split.count", Type.UINT16, count.to_bytes(2, "little")),
        pair("split.tensors.count", Type.INT32, u32(n_tensors)),
    ]
    return with_data(header(pairs, [entry(name or f"t{i}")]), 128)


def test_parts_that_disagree(write):
    first, second = (f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    write(split_part(0), first)
    path = write(split_part(0), second)
    assert re.fullmatch(r"offset 44: metadata split.no is 0, by the file's name it is 1", refusal(path))
    write(split_part(1, count=3), second)
    with pytest.raises(ModelError, match=r"00002\.gguf: offset \d+: metadata split.count is 3, by the file's name it is 2"):
        open_gguf(path.with_name(first))
    write(split_part(1, name="t0"), second)
    assert re.fullmatch(r"offset 160: tensor t0 is in .*/m-00001-of-00002.gguf too", refusal(path))
    write(split_part(1), second)
    first = write(split_part(0, n_tensors=5), first)
    assert re.fullmatch(r"offset \d+: metadata split.tensors.count is 5, the 2 parts hold 2 tensors", refusal(first))


def test_a_part_under_another_name(write):
    path = write(split_part(0), "renamed.gguf")
    assert refusal(path).startswith("offset 69: metadata split.count is 2, so the file must be named *-00001-of-00002.gguf")


@pytest.mark.parametrize("value", [pair("split.count", Type.STRING, string("2")),
                                   pair("split.count", Type.ARRAY, array(Type.UINT8, 2, b"\2\2"))])  # fmt: skip
def test_a_split_count_that_is_no_number(write, value):
    assert "wanted is an integer" in refusal(write(header([value])))


# ---- malformed files

F32_DATA = 128  # bytes of the tensor that `entry` describes if not told otherwise
ENTRY = 24  # where the directory starts in a file without metadata


MALFORMED = {
    "no magic": (b"GGML" + bytes(60), "offset 0: the magic is b'GGML', wanted is b'GGUF'"),
    "short magic": (b"GG", "offset 0: the magic takes 4 bytes, 2 are left"),
    "version 1": (header(version=1), "offset 4: GGUF version 1 is not supported, 2 and 3 are"),
    "version 4": (header(version=4), "offset 4: GGUF version 4 is not supported"),
    "big-endian": (b"GGUF\0\0\0\3" + bytes(16), "offset 4: the file is byte-swapped (big-endian)"),
    "keys 2^64-1": (b"GGUF" + u32(3) + u64(0) + u64(2**64 - 1), f"offset 16: {2**64 - 1} metadata keys do not fit"),
    "tensors 2^63": (b"GGUF" + u32(3) + u64(2**63) + u64(0), f"offset 8: {2**63} tensors do not fit into the 0 bytes"),
    "key length": (header([u64(2**64 - 1) + bytes(20)]), f"offset 24: a metadata key has {2**64 - 1} bytes"),
    "key cut": (header([u64(60_000) + bytes(20)]), "offset 32: a metadata key takes 60000 bytes, 20 are left"),
    "key not UTF-8": (header([pair(b"ab\xc3(", Type.INT8, b"\0")]), "offset 34: a metadata key is not valid UTF-8"),
    "key twice": (header([pair("k", Type.INT8, b"\0")] * 2), "offset 38: metadata k is there twice"),
    "value type": (header([pair("k", 13, b"\0")]), "offset 33: metadata k has the unknown type 13"),
    "boolean": (header([pair("k", Type.BOOL, b"\2")]), "offset 37: metadata k is 2, a boolean is 0 or 1"),
    "string length": (
        header([pair("k", Type.STRING, u64(2**63))]),
        f"offset 45: metadata k takes {2**63} bytes, 0 are left",
    ),
    "string not UTF-8": (header([pair("k", Type.STRING, string(b"abc\xff"))]), "offset 48: metadata k is not valid UTF-8"),
    "element type": (
        header([pair("k", Type.ARRAY, array(99, 0, b""))]),
        "offset 37: metadata k is an array of the unknown type 99",
    ),
    "numbers 2^64-1": (
        header([pair("k", Type.ARRAY, array(Type.UINT8, 2**64 - 1, b"12"))]),
        f"offset 41: {2**64 - 1} elements of metadata k do not fit into the 2 bytes left",
    ),
    "strings 2^61": (
        header([pair("k", Type.ARRAY, array(Type.STRING, 2**61, string("a")))]),
        f"offset 41: {2**61} elements of metadata k do not fit",
    ),
    "array string length": (
        header([pair("k", Type.ARRAY, array(Type.STRING, 1, u64(2**64 - 1)))]),
        "offset 49: metadata k ends at offset",
    ),
    "array string beyond": (
        header([pair("k", Type.ARRAY, array(Type.STRING, 2, u64(99) + bytes(8)))]),
        "offset 156: string 1 of metadata k is beyond the end",
    ),
    "array string not UTF-8": (
        header([pair("k", Type.ARRAY, array(Type.STRING, 2, string("a") + string(b"b\xe9")))]),
        "offset 67: string 1 of metadata k is not valid UTF-8",
    ),
    "array boolean": (
        header([pair("k", Type.ARRAY, array(Type.BOOL, 2, b"\1\xff"))]),
        "offset 50: element 1 of metadata k is 255, a boolean is 0 or 1",
    ),
    "nesting": (
        header([pair("k", Type.ARRAY, array(Type.ARRAY, 1, b"") * 99)]),
        "offset 133: metadata k has arrays in arrays more than 8 deep",
    ),
    "alignment type": (
        header([pair("general.alignment", Type.STRING, string("32"))]),
        "offset 53: metadata general.alignment is '32' (str), wanted is an integer",
    ),
    **{
        f"alignment {n}": (
            header([pair("general.alignment", Type.UINT32, u32(n))]),
            f"offset 53: metadata general.alignment is {n}, wanted is a power of two from 8 on",
        )
        for n in (0, 1, 4, 24, 2**32 - 1)
    },
    "tensor name": (header([], [u64(2**40) + bytes(24)]), f"offset {ENTRY}: a tensor's name has {2**40} bytes"),
    "tensor name not UTF-8": (header([], [entry(b"\x80")]), f"offset {ENTRY + 8}: a tensor's name is not valid UTF-8"),
    "tensor twice": (
        with_data(header([], [entry("t"), entry("t", offset=F32_DATA)]), 2 * F32_DATA),
        f"offset {ENTRY + 33}: tensor t is in the directory twice",
    ),
    "no dimensions": (header([], [entry("t", ()) + bytes(8)]), f"offset {ENTRY}: tensor t has 0 dimensions, 1 to 4"),
    "5 dimensions": (header([], [entry("t", (1,) * 5)]), f"offset {ENTRY}: tensor t has 5 dimensions"),
    "2^32-1 dimensions": (
        header([], [string("t") + u32(2**32 - 1) + bytes(30)]),
        f"offset {ENTRY}: tensor t has {2**32 - 1} dimensions",
    ),
    "dimension 0": (header([], [entry("t", (32, 0))]), f"offset {ENTRY}: tensor t has the impossible shape (0, 32)"),
    "product 2^64": (
        header([], [entry("t", (2**32, 2**32))]),
        f"offset {ENTRY}: tensor t has the impossible shape ({2**32}, {2**32})",
    ),
    "product 2^256": (header([], [entry("t", (2**64 - 1,) * 4)]), f"offset {ENTRY}: tensor t has the impossible shape"),
    "type id": (header([], [entry("t", type_id=4)]), f"offset {ENTRY}: tensor t has the unknown type 4"),
    "ragged row": (
        header([], [entry("t", (100, 256), formats.Q4_K.type_id)]),
        f"offset {ENTRY}: tensor t has rows of 100 values, Q4_K has blocks of 256",
    ),
    "misaligned": (
        with_data(header([], [entry("t", offset=16)]), 256),
        f"offset {ENTRY}: tensor t has offset 16, no multiple of the alignment 32",
    ),
    "data cut": (
        with_data(header([], [entry("t")]), F32_DATA - 1),
        "offset 64: tensor t ends at offset 192, the file at 191; it is cut short or damaged",
    ),
    "data far outside": (
        with_data(header([], [entry("t", offset=2**64 - 32)]), F32_DATA),
        f"offset {2**64 + 32}: tensor t ends at offset",
    ),
    "overlap": (
        with_data(header([], [entry("b", offset=96), entry("a")]), 256),
        "offset 192: tensor b overlaps tensor a, which ends at offset 224",
    ),
    "same place": (
        with_data(header([], [entry("a"), entry("b")]), 256),
        "offset 96: tensor b overlaps tensor a, which ends at offset 224",
    ),
    "name with a line break": (header([], [entry("a\nb", ())]) + bytes(8), f"offset {ENTRY}: tensor 'a\\nb' has 0"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(write, case):
    content, message = MALFORMED[case]
    assert refusal(write(content)).startswith(message)


def test_a_file_cut_anywhere_is_refused(write, sample):
    content = sample.read_bytes()
    with open_gguf(sample) as file:
        data_start = min(t.offset for t in file.tensors.values())
        ends = [t.offset + t.n_bytes for t in file.tensors.values()]
    assert max(ends) > len(content) - 32  # only padding comes after it
    path = write(content)
    for size in sorted({*range(1, data_start), *(end - 1 for end in ends), (data_start + max(ends)) // 2}, reverse=True):
        os.truncate(path, size)
        assert re.match(r"offset \d+: ", refusal(path)), size


@pytest.mark.parametrize("kind", [Type.STRING, Type.ARRAY])
def test_a_huge_file_of_zeros_is_refused_at_once(write, kind):
    # Well-formed, as empty strings or empty arrays; reading all of them would take minutes and gigabytes.
    path = write(header([pair("k", Type.ARRAY, array(kind, 2**27, b""))]))
    os.truncate(path, 2**31)
    start = time.process_time()
    assert "at most 4194304 are supported" in refusal(path)
    assert time.process_time() - start < 0.5  # a check before the scan takes none of it


def test_the_limit_of_items_counts_the_whole_file(write, monkeypatch):
    monkeypatch.setattr(metadata, "_MAX_ITEMS", 3)
    path = write(header([pair(k, Type.ARRAY, array(Type.STRING, 2, string("") * 2)) for k in "ab"]))
    assert refusal(path).startswith("offset 78: metadata b: there are 4 strings and arrays")


def test_messages_stay_short(write):
    long = "k" * 60_000
    assert len(refusal(write(header([pair(long, 13, b"\0")])))) < 200
    with open_gguf(write(header([pair("k", Type.STRING, string(long))]))) as file:
        with pytest.raises(ModelError) as error:
            file.get("k", int)
    assert len(str(error.value).removeprefix(str(file.path))) < 200


# ---- what is no file


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for name, message in {
        "": "is a directory, wanted is a GGUF file",
        "pipe": "is no regular file, wanted is a GGUF file",
        "empty": "is empty, wanted is a GGUF file",
        "absent": "cannot be read: No such file or directory",
        "empty/below": "cannot be read: Not a directory",
        "a\0b": "cannot be read: .*null",
    }.items():
        path = tmp_path / name
        with pytest.raises(ModelError, match=f"^{re.escape(str(path))}: {message}"):
            open_gguf(path)


def test_a_file_that_may_not_be_read(write):
    path = write(header())
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65_534)
    try:
        with pytest.raises(ModelError, match="cannot be read: Permission denied"):
            open_gguf(path)
    finally:
        os.seteuid(user)


# ---- closing


MAPS = Path("/proc/self/maps")
needs_maps = pytest.mark.skipif(not MAPS.exists(), reason=f"{MAPS} tells what is mapped, and is absent here")


def is_mapped(path: Path) -> bool:
    return str(path) in MAPS.read_text()


@needs_maps
def test_close_unmaps(sample):
    file = open_gguf(sample)
    assert is_mapped(sample)
    file.data("token_embd.weight").sum()
    file.close()
    assert not is_mapped(sample)
    file.close()  # again does nothing


@needs_maps
def test_a_view_outlives_its_file(sample):
    with open_gguf(sample) as file:
        view = file.data("blk.0.attn_norm.weight")[:]
        expected = view.tobytes()
    assert is_mapped(sample) and view.tobytes() == expected
    del view
    assert not is_mapped(sample)


def test_after_closing(sample):
    with open_gguf(sample) as file:
        read = file.metadata["many.STRING"]
    assert file.metadata["many.STRING"] is read and file.metadata["one.STRING"] == "naïve"
    with pytest.raises(AssertionError, match="closed"):
        file.data("token_embd.weight")
    with pytest.raises(AssertionError, match="closed"):
        file.metadata["tokenizer.ggml.tokens"]


@needs_maps
def test_a_refused_file_is_unmapped(tmp_path):
    paths = write_sample(tmp_path / "model.gguf", split_max_tensors=2)
    paths[2].write_bytes(paths[2].read_bytes()[:-64])
    # The error, still at hand, holds on to every frame that it went through: it is not they that unmap.
    with pytest.raises(ModelError) as error:
        open_gguf(paths[0])
    assert error.tb and not any(is_mapped(path) for path in paths)
