"""A GGUF file's metadata, and the cursor that reads it. Knows no tensors.

The format: github.com/ggml-org/ggml, docs/gguf.md. Counts and lengths are checked against the bytes
that are left before anything is read or made of them.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rocforge.errors import ModelError

_BOOL, _STRING, _ARRAY = 7, 8, 9
# Value type -> its code for struct and numpy alike.
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", _BOOL: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_WIDTH = {kind: struct.calcsize(code) for kind, code in _SCALARS.items()}
# The fewest bytes that one element takes: a string has its length, an array its type and its length.
_LEAST_WIDTH = {**_WIDTH, _STRING: 8, _ARRAY: 12}

_MAX_NAME = 65_535  # GGUF's limit for a key
_MAX_NESTING = 8
# Strings and nested arrays in a file, all together. Vocabularies and merges are below a million; a scan
# of this many, which a file of zeros would otherwise make last for minutes, takes under a second.
_MAX_ITEMS = 1 << 22

_KINDS = {
    bool: "a boolean", int: "an integer", float: "a number", str: "a string",
    list: "an array of strings", np.ndarray: "an array of numbers",
}  # fmt: skip
REQUIRED = object()  # the default of a key that has none


class Metadata(Mapping):
    """Keys to values of one file. Scalars and strings are parsed at once, an array when first asked for."""

    def __init__(self, path: Path, data: mmap.mmap):
        self._path, self._data = path, data
        self._offsets: dict[str, int] = {}  # where the value of each key starts
        self._values: dict[str, Any] = {}  # those that are parsed

    def add(self, cursor: "Cursor") -> None:
        """Read the next key and, unless it is an array, its value."""
        start = cursor.at
        key = cursor.name("a metadata key")
        what = f"metadata {printable(key)}"
        if key in self._offsets:
            cursor.fail(f"{what} is there twice", at=start)
        kind = cursor.number("<I", f"the type of {what}")
        self._offsets[key] = cursor.at
        if kind == _ARRAY:
            cursor.skip_array(what)
        elif kind == _STRING:
            self._values[key] = cursor.string(what)
        elif kind in _SCALARS:
            self._values[key] = cursor.scalar(kind, what)
        else:
            cursor.fail(f"{what} has the unknown type {kind}", at=cursor.at - 4)

    def typed(self, key: str, kind: type, default: Any = REQUIRED) -> Any:
        """See GGUFFile.get."""
        if key not in self:
            if default is REQUIRED:
                raise ModelError(f"{self._path}: metadata {printable(key)} is missing; wanted is {_KINDS[kind]}")
            return default
        value = self[key]
        if kind is float and type(value) is int:
            return float(value)
        # Not isinstance: True is no integer.
        if type(value) is not kind:
            self.fail(key, f"is {_describe(value)}, wanted is {_KINDS[kind]}")
        return value

    def fail(self, key: str, why: str) -> NoReturn:
        raise ModelError(f"{self._path}: offset {self._offsets[key]}: metadata {printable(key)} {why}")

    def release(self) -> None:
        """Let go of the map; arrays that were not parsed are out of reach then."""
        self._data = None

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            offset = self._offsets[key]
            assert self._data is not None, f"{self._path} is closed and {key} was not read before"
            self._values[key] = Cursor(self._path, self._data, offset).array(f"metadata {printable(key)}")
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._offsets

    def __iter__(self) -> Iterator[str]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)


class Cursor:
    """Reads a mapped file forwards. `what` names, for the message, the thing that is being read."""

    def __init__(self, path: Path, data: mmap.mmap, at: int = 0):
        self.path, self.data, self.at = path, data, at
        self.size, self.items = len(data), 0

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        raise ModelError(f"{self.path}: offset {self.at if at is None else at}: {why}")

    def expect(self, count: int, width: int, what: str, at: int) -> None:
        """Refuse a count, found at offset `at`, of things of at least `width` bytes that cannot all be there."""
        if count * width > self.size - self.at:
            left = self.size - self.at
            self.fail(f"{count} {what} do not fit into the {left} bytes left; the file is cut short or damaged", at)

    def take(self, n_bytes: int, what: str) -> bytes:
        if n_bytes > self.size - self.at:
            self.fail(f"{what} takes {n_bytes} bytes, {self.size - self.at} are left; the file is cut short or damaged")
        self.at += n_bytes
        return self.data[self.at - n_bytes : self.at]

    def number(self, code: str, what: str) -> Any:
        return struct.unpack(code, self.take(struct.calcsize(code), what))[0]

    def scalar(self, kind: int, what: str) -> Any:
        if kind == _BOOL and self.at < self.size and self.data[self.at] > 1:
            self.fail(f"{what} is {self.data[self.at]}, a boolean is 0 or 1")
        return self.number(_SCALARS[kind], what)

    def string(self, what: str, most_bytes: int | None = None) -> str:
        n_bytes = self.number("<Q", what)
        if most_bytes is not None and n_bytes > most_bytes:
            self.fail(f"{what} has {n_bytes} bytes, at most {most_bytes} are possible", at=self.at - 8)
        raw = self.take(n_bytes, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not valid UTF-8", at=self.at - n_bytes + error.start)

    def name(self, what: str) -> str:
        return self.string(what, _MAX_NAME)

    # ---- arrays: the type of the elements, their number, the elements

    def _array_head(self, what: str) -> tuple[int, int]:
        start = self.at
        kind = self.number("<I", f"the type of the elements of {what}")
        count = self.number("<Q", f"the length of {what}")
        if kind not in _LEAST_WIDTH:
            self.fail(f"{what} is an array of the unknown type {kind}", at=start)
        self.expect(count, _LEAST_WIDTH[kind], f"elements of {what}", at=start + 4)
        if kind not in _SCALARS:
            self.items += count
            if self.items > _MAX_ITEMS:
                why = f"there are {self.items} strings and arrays up to here, at most {_MAX_ITEMS} are supported"
                self.fail(f"{what}: {why}", at=start)
        return kind, count

    def skip_array(self, what: str, depth: int = 1) -> None:
        kind, count = self._array_head(what)
        if kind == _STRING:
            self._skip_strings(count, what)
        elif kind == _ARRAY:
            if depth == _MAX_NESTING:
                self.fail(f"{what} has arrays in arrays more than {_MAX_NESTING} deep")
            for _ in range(count):
                self.skip_array(what, depth + 1)
        else:
            self.at += count * _WIDTH[kind]

    def _skip_strings(self, count: int, what: str) -> None:
        # A vocabulary has hundreds of thousands of strings: this loop is the time that opening a file takes.
        at, data, last, length_at = self.at, self.data, self.size - 8, struct.Struct("<Q").unpack_from
        for i in range(count):
            if at > last:
                self.fail(f"string {i} of {what} is beyond the end of the file, which is cut short or damaged", at)
            at += 8 + length_at(data, at)[0]
        if at > self.size:
            self.fail(f"{what} ends at offset {at}, the file at {self.size}; it is cut short or damaged")
        self.at = at

    def array(self, what: str) -> Any:
        """An array that skip_array has passed over before: the extents of its elements are known to be sound."""
        kind, count = self._array_head(what)
        if kind == _STRING:
            return self._strings(count, what)
        if kind == _ARRAY:
            return tuple(self.array(what) for _ in range(count))
        start = self.at
        values = np.frombuffer(self.take(count * _WIDTH[kind], what), _SCALARS[kind])
        if kind == _BOOL:
            raw = values.view(np.uint8)
            if (raw > 1).any():
                i = int((raw > 1).argmax())
                self.fail(f"element {i} of {what} is {raw[i]}, a boolean is 0 or 1", at=start + i)
        return values

    def _strings(self, count: int, what: str) -> list[str]:
        end, data, length_at, found = self.at, self.data, struct.Struct("<Q").unpack_from, []
        try:
            for _ in range(count):
                start = end + 8
                end = start + length_at(data, end)[0]
                found.append(data[start:end].decode())
        except UnicodeDecodeError as error:
            self.fail(f"string {len(found)} of {what} is not valid UTF-8", at=start + error.start)
        self.at = end
        return found


def printable(name: str) -> str:
    """A name out of a file, fit for a line of text."""
    text = name if name.isprintable() and name else repr(name)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.size} numbers ({value.dtype})"
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)} {'strings' if isinstance(value, list) else 'arrays'}"
    return f"{printable(repr(value))} ({type(value).__name__})"
