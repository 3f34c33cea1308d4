"""GGUF files, memory-mapped: metadata, the directory of tensors, views of their bytes. Decodes no block.

The format: github.com/ggml-org/ggml, docs/gguf.md. Versions 2 and 3, little-endian. Everything that
a file says of itself is checked before it is believed: counts and lengths against the bytes that
are left, so that a broken file costs neither time nor memory.
"""

import mmap
import os
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rocforge.errors import ModelError
from rocforge.gguf.formats import BY_ID, Format

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4
_MAX_NESTING = 8

_STRING, _ARRAY = 8, 9
# value type -> (struct code, numpy type); strings and arrays apart.
_SCALARS = {
    0: ("<B", "u1"), 1: ("<b", "i1"), 2: ("<H", "<u2"), 3: ("<h", "<i2"), 4: ("<I", "<u4"), 5: ("<i", "<i4"),
    6: ("<f", "<f4"), 7: ("<B", "?"), 10: ("<Q", "<u8"), 11: ("<q", "<i8"), 12: ("<d", "<f8"),
}  # fmt: skip
_WIDTH = {kind: struct.calcsize(code) for kind, (code, _) in _SCALARS.items()}
_SPLIT_NAME = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")
_REQUIRED = object()


@dataclass(frozen=True)
class Tensor:
    """An entry of the directory. `shape` has the outermost axis first: a matrix is (N rows, K columns).

    `offset` counts bytes from the start of the file `path`, which holds `n_bytes` of data there.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    path: Path
    offset: int
    n_bytes: int


class GGUFFile:
    """An open model: one file, or the parts of a split one. Made by `open_gguf`; a context manager."""

    def __init__(self, parts: "list[_Part]"):
        self._parts = {part.path: part for part in parts}
        first = parts[0]
        self.path, self.paths = first.path, [part.path for part in parts]
        self.version, self.alignment = first.version, first.alignment
        self.n_bytes = sum(part.size for part in parts)
        self.metadata: Mapping[str, Any] = first.metadata
        self.tensors: dict[str, Tensor] = {}
        for part in parts:
            for tensor in part.tensors:
                if tensor.name in self.tensors:
                    raise ModelError(f"{part.path}: tensor {tensor.name} stands in {self.tensors[tensor.name].path} too")
                self.tensors[tensor.name] = tensor

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        """The value of a metadata key as `kind`: bool, int, float, str, list (of strings) or np.ndarray.

        Raises ModelError where the key is missing (unless a default is given) or of another kind.
        """
        if key not in self.metadata:
            if default is not _REQUIRED:
                return default
            raise ModelError(f"{self.path}: metadata {key} is missing")
        value = self.metadata[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ModelError(f"{self.path}: metadata {key} is {_describe(value)}, wanted is {kind.__name__}")
        return value

    def data(self, tensor: "Tensor | str") -> np.ndarray:
        """The tensor's bytes where they are mapped: read-only uint8 [..., row bytes], leading axes kept."""
        if isinstance(tensor, str):
            tensor = self.tensors[tensor]
        raw = self._parts[tensor.path].bytes(tensor.offset, tensor.n_bytes)
        return raw.reshape(*tensor.shape[:-1], tensor.format.row_bytes(tensor.shape[-1]))

    def close(self) -> None:
        """Unmap. A view that is still alive keeps its file mapped until it goes, too."""
        for part in self._parts.values():
            part.close()

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_gguf(path: "str | os.PathLike") -> GGUFFile:
    """Open a GGUF file; for a part of a split model (`-00001-of-0000N.gguf`), all its parts.

    Raises ModelError, with the file, the byte offset and what is wrong, for anything that is not a
    whole and sound GGUF file.
    """
    path = Path(path)
    parts = [_Part(path)]
    try:
        count = parts[0].metadata.get("split.count", 1)
        if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 100_000:
            raise ModelError(f"{path}: metadata split.count is {_describe(count)}, wanted is a small number")
        if count > 1:
            parts = _open_split(parts, count)
        return GGUFFile(parts)
    except BaseException:
        for part in parts:
            part.close()
        raise


def _open_split(opened: "list[_Part]", count: int) -> "list[_Part]":
    """All `count` parts of the split model that the opened part belongs to, in order; added to `opened` as they open."""
    given = opened[0]
    name = _SPLIT_NAME.match(given.path.name)
    if name is None or int(name["count"]) != count:
        raise ModelError(
            f"{given.path}: is part of a model in {count} files, which must keep their names *-00001-of-{count:05d}.gguf"
        )
    parts = []
    for i in range(count):
        path = given.path.with_name(f"{name['stem']}-{i + 1:05d}-of-{count:05d}.gguf")
        if path == given.path:
            part = given
        elif not path.exists():
            raise ModelError(f"{path}: part {i + 1} of {count} of the model is missing; put it beside {given.path.name}")
        else:
            part = _Part(path)
            opened.append(part)
        if part.metadata.get("split.no", i) != i or part.metadata.get("split.count") != count:
            raise ModelError(
                f"{path}: says that it is part {part.metadata.get('split.no')} (from 0) of "
                f"{part.metadata.get('split.count')}, its name says {i} of {count}"
            )
        parts.append(part)
    total = sum(len(part.tensors) for part in parts)
    expected = parts[0].metadata.get("split.tensors.count", total)
    if expected != total:
        raise ModelError(f"{given.path}: the {count} parts hold {total} tensors, split.tensors.count says {expected}")
    return parts


class _Part:
    """One mapped file, parsed."""

    def __init__(self, path: Path):
        self.path = path
        try:
            if path.is_dir():
                raise ModelError(f"{path}: is a directory, not a GGUF file")
            with open(path, "rb") as f:
                self.size = os.fstat(f.fileno()).st_size
                if self.size == 0:
                    raise ModelError(f"{path}: is empty")
                self._map = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as e:
            reason = getattr(e, "strerror", None) or str(e)
            raise ModelError(f"{path}: cannot be read: {reason}") from None
        self._bytes = np.frombuffer(self._map, np.uint8)
        try:
            self._parse()
        except BaseException:
            self.close()
            raise

    def bytes(self, offset: int, n_bytes: int) -> np.ndarray:
        return self._bytes[offset : offset + n_bytes]

    def close(self) -> None:
        self._bytes = np.empty(0, np.uint8)
        self.metadata = {}
        try:
            self._map.close()
        except BufferError:
            pass  # views are alive: the map goes with the last of them

    # ---- the header

    def _parse(self) -> None:
        cursor = _Cursor(self.path, self._map)
        magic = cursor.take(4, "the magic")
        if magic != MAGIC:
            raise ModelError(f"{self.path}: offset 0: magic is {magic!r}, wanted is {MAGIC!r}; this is not a GGUF file")
        self.version = cursor.number("<I", "the version")
        if self.version not in (2, 3):
            if int.from_bytes(self.version.to_bytes(4, "little"), "big") in (1, 2, 3):
                raise ModelError(f"{self.path}: offset 4: the file is big-endian, which is not supported; convert it")
            raise ModelError(f"{self.path}: offset 4: GGUF version {self.version} is not supported; 2 and 3 are")
        n_tensors = cursor.number("<Q", "the number of tensors")
        n_keys = cursor.number("<Q", "the number of metadata keys")
        # An entry of either list takes 13 and 24 bytes at the least.
        cursor.expect(n_keys, 13, 16, "metadata keys")
        self.metadata = _Metadata()
        for _ in range(n_keys):
            start = cursor.at
            key = cursor.string("a metadata key")
            if key in self.metadata:
                raise ModelError(f"{self.path}: offset {start}: metadata key {key} stands there twice")
            self.metadata._add(key, _read_value(cursor, cursor.number("<I", f"the type of {key}"), key))
        cursor.expect(n_tensors, 24, 8, "tensors")
        self.alignment = self._check_alignment()
        entries = [self._read_entry(cursor) for _ in range(n_tensors)]
        base = -(-cursor.at // self.alignment) * self.alignment
        self.tensors = [self._check_entry(entry, base) for entry in entries]
        self._check_layout()

    def _check_alignment(self) -> int:
        value = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if not isinstance(value, int) or isinstance(value, bool) or value < 8 or value & (value - 1) or value > 1 << 30:
            raise ModelError(f"{self.path}: metadata general.alignment is {_describe(value)}, wanted is a power of two from 8")
        return value

    def _read_entry(self, cursor: "_Cursor") -> tuple[int, str, tuple[int, ...], int, int]:
        start = cursor.at
        name = cursor.string("a tensor's name")
        n_axes = cursor.number("<I", f"the number of dimensions of {name}")
        if not 1 <= n_axes <= MAX_DIMENSIONS:
            raise ModelError(f"{self.path}: offset {cursor.at - 4}: tensor {name} has {n_axes} dimensions; 1 to 4 are allowed")
        axes = tuple(cursor.number("<Q", f"a dimension of {name}") for _ in range(n_axes))
        type_id = cursor.number("<I", f"the type of {name}")
        return start, name, tuple(reversed(axes)), type_id, cursor.number("<Q", f"the offset of {name}")

    def _check_entry(self, entry, base: int) -> Tensor:
        start, name, shape, type_id, offset = entry
        where = f"{self.path}: offset {start}: tensor {name}"
        format = BY_ID.get(type_id)
        if format is None:
            raise ModelError(f"{where} has the unknown type {type_id}")
        count = 1
        for axis in shape:
            count *= axis
        if not 0 < count < 1 << 62:
            raise ModelError(f"{where} has the impossible shape {list(shape)}")
        if shape[-1] % format.block:
            raise ModelError(f"{where} has rows of {shape[-1]}, {format} comes in blocks of {format.block}")
        if offset % self.alignment:
            raise ModelError(f"{where} starts at {offset}, which is not a multiple of the alignment {self.alignment}")
        n_bytes = count // format.block * format.block_bytes
        if base + offset + n_bytes > self.size:
            raise ModelError(
                f"{where} ends at offset {base + offset + n_bytes}, the file at {self.size}; it is cut short or damaged"
            )
        return Tensor(name, shape, format, self.path, base + offset, n_bytes)

    def _check_layout(self) -> None:
        names: set[str] = set()
        for tensor in self.tensors:
            if tensor.name in names:
                raise ModelError(f"{self.path}: tensor {tensor.name} stands in the directory twice")
            names.add(tensor.name)
        by_offset = sorted(self.tensors, key=lambda t: t.offset)
        for a, b in zip(by_offset, by_offset[1:], strict=False):
            if a.offset + a.n_bytes > b.offset:
                raise ModelError(f"{self.path}: offset {b.offset}: tensor {b.name} overlaps {a.name}")


# ---- values


class _Metadata(Mapping):
    """Keys to values; an array is parsed when it is first asked for."""

    def __init__(self):
        self._values: dict[str, Any] = {}

    def _add(self, key: str, value: Any) -> None:
        self._values[key] = value

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if isinstance(value, _Array):
            value = self._values[key] = value.parse()
        return value

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass
class _Array:
    """Where an array stands; its extent has been checked."""

    cursor: "_Cursor"
    start: int
    kind: int
    count: int
    key: str

    def parse(self) -> Any:
        cursor = self.cursor.copy(self.start)
        if self.kind in _SCALARS:
            raw = cursor.take(self.count * _WIDTH[self.kind], self.key)
            return np.frombuffer(raw, _SCALARS[self.kind][1])
        if self.kind == _STRING:
            return cursor.strings(self.count, self.key)
        items = []
        for _ in range(self.count):
            value = _read_value(cursor, _ARRAY, self.key)
            items.append(value.parse())
        return items


def _read_value(cursor: "_Cursor", kind: int, key: str, depth: int = 0) -> Any:
    if kind in _SCALARS:
        value = cursor.number(_SCALARS[kind][0], key)
        return bool(value) if _SCALARS[kind][1] == "?" else value
    if kind == _STRING:
        return cursor.string(key)
    if kind != _ARRAY:
        raise ModelError(f"{cursor.path}: offset {cursor.at - 4}: metadata {key} has the unknown type {kind}")
    element = cursor.number("<I", f"the element type of {key}")
    count = cursor.number("<Q", f"the length of {key}")
    array = _Array(cursor, cursor.at, element, count, key)
    _skip_array(cursor, element, count, key, depth)
    return array


def _skip_array(cursor: "_Cursor", element: int, count: int, key: str, depth: int) -> None:
    if element in _SCALARS:
        cursor.expect(count, _WIDTH[element], cursor.at, f"elements of {key}")
        cursor.at += count * _WIDTH[element]
    elif element == _STRING:
        cursor.expect(count, 8, cursor.at, f"strings of {key}")
        cursor.skip_strings(count, key)
    elif element == _ARRAY and depth < _MAX_NESTING:
        cursor.expect(count, 12, cursor.at, f"arrays of {key}")
        for _ in range(count):
            _read_value(cursor, _ARRAY, key, depth + 1)
    else:
        raise ModelError(f"{cursor.path}: offset {cursor.at - 12}: metadata {key} is an array of the unknown type {element}")


class _Cursor:
    """Reads a mapped file forward and complains with the offset."""

    def __init__(self, path: Path, data: mmap.mmap, at: int = 0):
        self.path, self.data, self.at, self.size = path, data, at, len(data)

    def copy(self, at: int) -> "_Cursor":
        return _Cursor(self.path, self.data, at)

    def fail_short(self, what: str, wanted: int):
        raise ModelError(
            f"{self.path}: offset {self.at}: {what} needs {wanted} bytes, {self.size - self.at} are left; "
            "the file is cut short or damaged"
        )

    def expect(self, count: int, width: int, at: int, what: str) -> None:
        if count * width > self.size - self.at:
            raise ModelError(
                f"{self.path}: offset {at}: {count} {what} cannot fit into the {self.size - self.at} bytes that are left"
            )

    def take(self, n: int, what: str) -> bytes:
        if n > self.size - self.at:
            self.fail_short(what, n)
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str, what: str) -> Any:
        width = struct.calcsize(code)
        if width > self.size - self.at:
            self.fail_short(what, width)
        self.at += width
        return struct.unpack_from(code, self.data, self.at - width)[0]

    def string(self, what: str) -> str:
        start = self.at
        length = self.number("<Q", what)
        raw = self.take(length, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as e:
            raise ModelError(f"{self.path}: offset {start + 8 + e.start}: {what} is not valid UTF-8") from None

    def skip_strings(self, count: int, what: str) -> None:
        # A vocabulary has hundreds of thousands of strings: this loop is the time to open a file.
        at, last, data, length_at = self.at, self.size - 8, self.data, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if at > last:
                self.at = at
                self.fail_short(what, 8)
            at += 8 + length_at(data, at)[0]
        if at > self.size:
            raise ModelError(f"{self.path}: offset {self.at}: the strings of {what} end beyond the file's end")
        self.at = at

    def strings(self, count: int, what: str) -> list[str]:
        at, data, length_at, found = self.at, self.data, struct.Struct("<Q").unpack_from, []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(data, at)[0]
                found.append(data[start:at].decode())
        except UnicodeDecodeError as e:
            raise ModelError(f"{self.path}: offset {start + e.start}: a string of {what} is not valid UTF-8") from None
        return found


def _describe(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)):
        return f"an array of {len(value)}"
    return f"{value!r} ({type(value).__name__})"
