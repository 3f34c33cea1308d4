"""GGUF files, memory-mapped: metadata, the directory of tensors, views of their bytes. Decodes no block.

The format: github.com/ggml-org/ggml, docs/gguf.md; versions 2 and 3, little-endian. What a file says of
itself is checked before it is believed: counts and lengths against the bytes that are left, so that a
broken file costs neither time nor memory. A file that shrinks while it is open is not survived (SIGBUS).
"""

import mmap
import os
import re
import stat
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from rocforge.errors import ModelError
from rocforge.gguf.formats import BY_ID, Format
from rocforge.gguf.metadata import REQUIRED, Cursor, Metadata, printable

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4

_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An entry of the directory. `shape` has the outermost axis first: a matrix is (N rows, K columns).

    The file `path` holds the `n_bytes` of its data from byte `offset` on.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    path: Path
    offset: int
    n_bytes: int


class GGUFFile:
    """An open model: one file, or all parts of a split one. Made by `open_gguf`; a context manager.

    `path` is the first file and `paths` all of them; `n_bytes` is their size. `metadata` (the first
    file's) has strings as str, string arrays as list, arrays of numbers as read-only numpy arrays and
    arrays of arrays as tuple. An array is parsed when first asked for, and may raise ModelError then.
    `tensors` has the tensors of all files by name, in file order.
    """

    def __init__(self, parts: "list[_Part]"):
        first = parts[0]
        self.path, self.paths = first.path, [part.path for part in parts]
        self.version, self.alignment = first.version, first.alignment
        self.n_bytes = sum(part.size for part in parts)
        self.metadata: Metadata = first.metadata
        self.tensors: dict[str, Tensor] = {}
        self._parts = {part.path: part for part in parts}
        for tensor in (tensor for part in parts for tensor in part.tensors):
            other = self.tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                name = printable(tensor.name)
                raise ModelError(f"{tensor.path}: offset {tensor.offset}: tensor {name} is in {other.path} too")

    def get(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """The value of metadata `key`, which is to be of `kind`; `default` where the file lacks the key.

        `kind` is bool, int, float (an integer is converted), str, list (of strings) or np.ndarray.
        Raises ModelError where the key is missing and has no default, or is of another kind.
        """
        return self.metadata.typed(key, kind, default)

    def data(self, tensor: Tensor | str) -> np.ndarray:
        """The tensor's bytes where they are mapped: read-only uint8 [..., row bytes], leading axes kept."""
        if isinstance(tensor, str):
            tensor = self.tensors[tensor]
        raw = self._parts[tensor.path].view(tensor.offset, tensor.n_bytes)
        return raw.reshape(*tensor.shape[:-1], tensor.format.row_bytes(tensor.shape[-1]))

    def close(self) -> None:
        """Unmap. A view that is still alive stays valid, and keeps its file mapped until it goes, too."""
        for part in self._parts.values():
            part.close()

    def __enter__(self) -> "GGUFFile":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_gguf(path: str | os.PathLike) -> GGUFFile:
    """Open a GGUF file; for any part of a split model (`-00001-of-0000N.gguf`), all its parts.

    Raises ModelError, with the file, the byte offset and what is wrong, for anything that is not a
    whole and sound GGUF file.
    """
    with ExitStack() as opened:
        given = _Part(Path(path))
        opened.callback(given.close)
        count = given.metadata.typed("split.count", int, 1)
        file = GGUFFile(_open_split(given, count, opened) if count > 1 else [given])
        opened.pop_all()
    return file


def _open_split(given: "_Part", count: int, opened: ExitStack) -> "list[_Part]":
    """All parts, in order, of the split model that the part `given` belongs to."""
    name = _SPLIT_NAME.fullmatch(given.path.name)
    if name is None or int(name["count"]) != count:
        given.metadata.fail("split.count", f"is {count}, so the file must be named *-00001-of-{count:05d}.gguf or alike")
    parts = []
    for i in range(count):
        path = given.path.with_name(f"{name['stem']}-{i + 1:05d}-of-{count:05d}.gguf")
        if path == given.path:
            part = given
        elif not path.exists():
            raise ModelError(f"{path}: is missing: part {i + 1} of {count} of the model; put it beside the others")
        else:
            part = _Part(path)
            opened.callback(part.close)
        for key, wanted in (("split.no", i), ("split.count", count)):
            found = part.metadata.typed(key, int)
            if found != wanted:
                part.metadata.fail(key, f"is {found}, by the file's name it is {wanted}")
        parts.append(part)
    n_tensors = sum(len(part.tensors) for part in parts)
    stated = parts[0].metadata.typed("split.tensors.count", int)
    if stated != n_tensors:
        parts[0].metadata.fail("split.tensors.count", f"is {stated}, the {count} parts hold {n_tensors} tensors")
    return parts


class _Part:
    """One mapped file: its header parsed and checked."""

    def __init__(self, path: Path):
        self.path = path
        self._map = _map_file(path)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self.size = len(self._map)
        self.metadata = Metadata(path, self._map)
        try:
            self._parse()
        except ModelError:
            self.close()
            raise

    def view(self, offset: int, n_bytes: int) -> np.ndarray:
        assert self._map is not None, f"{self.path} is closed"
        return self._bytes[offset : offset + n_bytes]

    def close(self) -> None:
        if self._map is None:
            return
        mapped, self._map, self._bytes = self._map, None, None
        self.metadata.release()
        try:
            mapped.close()
        except BufferError:
            pass  # Views are alive; they own the map now, and it is unmapped with the last of them.

    def _parse(self) -> None:
        cursor = Cursor(self.path, self._map)
        magic = cursor.take(4, "the magic")
        if magic != MAGIC:
            cursor.fail(f"the magic is {magic!r}, wanted is {MAGIC!r}; this is not a GGUF file", at=0)
        version = cursor.take(4, "the version")
        self.version = int.from_bytes(version, "little")
        if self.version not in VERSIONS:
            if 1 <= int.from_bytes(version, "big") <= max(VERSIONS):
                cursor.fail("the file is byte-swapped (big-endian), which is not supported; convert it anew", at=4)
            cursor.fail(f"GGUF version {self.version} is not supported, 2 and 3 are; convert the model anew", at=4)
        n_tensors = cursor.number("<Q", "the number of tensors")
        n_keys = cursor.number("<Q", "the number of metadata keys")

        cursor.expect(n_keys, 13, "metadata keys", at=16)  # a key's length, its value's type, a value of one byte
        for _ in range(n_keys):
            self.metadata.add(cursor)
        self.alignment = self._alignment()

        cursor.expect(n_tensors, 32, "tensors", at=8)  # a name's length, one dimension, type and offset
        directory: dict[str, Tensor] = {}
        for _ in range(n_tensors):
            start = cursor.at
            tensor = self._read_tensor(cursor)
            if tensor.name in directory:
                cursor.fail(f"tensor {printable(tensor.name)} is in the directory twice", at=start)
            directory[tensor.name] = tensor
        data_start = -(-cursor.at // self.alignment) * self.alignment
        self.tensors = [replace(tensor, offset=data_start + tensor.offset) for tensor in directory.values()]
        self._check_data(cursor)

    def _alignment(self) -> int:
        value = self.metadata.typed("general.alignment", int, DEFAULT_ALIGNMENT)
        if value < 8 or value & (value - 1):
            self.metadata.fail("general.alignment", f"is {value}, wanted is a power of two from 8 on")
        return value

    def _read_tensor(self, cursor: Cursor) -> Tensor:
        """The next entry of the directory; its offset still counts from the start of the data."""
        start = cursor.at
        name = cursor.name("a tensor's name")
        what = f"tensor {printable(name)}"
        n_dims = cursor.number("<I", f"the number of dimensions of {what}")
        if not 1 <= n_dims <= MAX_DIMENSIONS:
            cursor.fail(f"{what} has {n_dims} dimensions, 1 to {MAX_DIMENSIONS} are possible", at=start)
        shape = tuple(cursor.number("<Q", f"a dimension of {what}") for _ in range(n_dims))[::-1]
        type_id = cursor.number("<I", f"the type of {what}")
        offset = cursor.number("<Q", f"the offset of {what}")
        if not 0 < prod(shape) < 1 << 63:
            cursor.fail(f"{what} has the impossible shape {shape}", at=start)
        format = BY_ID.get(type_id)
        if format is None:
            cursor.fail(f"{what} has the unknown type {type_id}", at=start)
        if shape[-1] % format.block:
            cursor.fail(f"{what} has rows of {shape[-1]} values, {format} has blocks of {format.block}", at=start)
        if offset % self.alignment:
            cursor.fail(f"{what} has offset {offset}, no multiple of the alignment {self.alignment}", at=start)
        n_bytes = prod(shape[:-1]) * format.row_bytes(shape[-1])
        return Tensor(name, shape, format, self.path, offset, n_bytes)

    def _check_data(self, cursor: Cursor) -> None:
        end, before = cursor.at, "the directory"
        for tensor in sorted(self.tensors, key=lambda t: t.offset):
            what = f"tensor {printable(tensor.name)}"
            if tensor.offset < end:
                cursor.fail(f"{what} overlaps {before}, which ends at offset {end}", at=tensor.offset)
            end, before = tensor.offset + tensor.n_bytes, what
            if end > self.size:
                why = f"{what} ends at offset {end}, the file at {self.size}; it is cut short or damaged"
                cursor.fail(why, at=tensor.offset)


def _map_file(path: Path) -> mmap.mmap:
    try:
        # A pipe or a device would block or never end: look before opening.
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise ModelError(f"{path}: is {what}, wanted is a GGUF file")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ModelError(f"{path}: is empty, wanted is a GGUF file")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ModelError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
