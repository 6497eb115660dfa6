"""The header of a GGUF file: its plain settings and the shapes of its tensors, in some milliseconds.

`gguf.GGUFReader` makes numpy views of every token of the vocabulary: three seconds for a model of 49,152 tokens, which
a new adapter would wait for. Lists are stepped over here. Format: the GGUF specification, version 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Those with 64-bit counts."""
MAX_ENTRIES = 1 << 20
"""Settings or tensors: a file that claims more is damaged."""
MAX_TEXT = 1 << 26
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

Value = str | int | float | bool


@dataclass(frozen=True)
class Header:
    """What stands before the tensors' data."""

    settings: Mapping[str, Value]
    """Without those that are lists."""
    shapes: Mapping[str, tuple[int, ...]]
    """By tensor name, in the file's order of dimensions: the innermost first."""


def read_header(path: Path) -> Header:
    """Read the header. Blocks for some milliseconds.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no GGUF file, or damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Cursor(data).header()
        except (struct.error, UnicodeDecodeError, KeyError) as error:
            raise ValueError(f"{path}: not a whole GGUF file") from error


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def header(self) -> Header:
        magic, version = self._data[:4], struct.unpack_from("<I", self._data, 4)[0]
        if magic != MAGIC or version not in VERSIONS:
            raise ValueError("not a GGUF file of version 2 or 3")
        self._at = 8
        tensors, count = self._count(), self._count()
        settings: dict[str, Value] = {}
        for _ in range(count):
            key = self._text()
            value = self._value(self._number("I"))
            if value is not None:
                settings[key] = value
        return Header(settings, dict(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> tuple[str, tuple[int, ...]]:
        name = self._text()
        shape = tuple(self._number("Q") for _ in range(min(self._number("I"), 8)))
        self._at += 12  # type and offset
        return name, shape

    def _value(self, kind: int) -> Value | None:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        item, length = self._number("I"), self._number("Q")
        if item == _STRING:
            for _ in range(length):
                self._at += 8 + struct.unpack_from("<Q", self._data, self._at)[0]
        elif item == _ARRAY:
            for _ in range(length):
                self._value(_ARRAY)
        else:
            self._at += length * struct.calcsize(_SCALARS[item])
        return None

    def _count(self) -> int:
        number = self._number("Q")
        if number > MAX_ENTRIES:
            raise ValueError("a damaged GGUF file: too many entries")
        return number

    def _number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(f"<{code}")
        return value

    def _text(self) -> str:
        length = self._number("Q")
        if length > MAX_TEXT or self._at + length > len(self._data):
            raise ValueError("a damaged GGUF file: a text without an end")
        self._at += length
        return self._data[self._at - length : self._at].decode()
