"""Frames on a pipe, and plain data in them.

A frame is four bytes of length (big-endian) and a JSON object. A value in it is either a JSON scalar or a list
`[tag, ...]`. Only values whose `type()` is EXACTLY a known one are data: a subclass of `int` with a lying `__eq__`
is not an `int` here, it goes to the `other` hook, which makes a handle of it or refuses it. Decoding builds only
genuine built-in and standard-library values, so equality of decoded data is decided by the reader's own interpreter.
"""

from __future__ import annotations

import base64
import builtins
import datetime
import json
import os
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath, PurePosixPath
from typing import Any, NoReturn, cast
from uuid import UUID

MAX_FRAME = 8 << 20
"""Bytes of one frame: far above what a test compares, far below the memory of a sandboxed process."""

MAX_DEPTH = 150
"""Levels of nested containers; deeper ones (and cycles) stay behind a handle."""

SAFE_INTEGER = 1 << 53
"""Larger integers travel as hexadecimal: the decimal conversion of huge ones is quadratic and limited by Python."""

Hook = Callable[[Any], Any]


class WireError(Exception):
    """What came over the channel is not a frame of this protocol, or the channel ended inside one."""


class NotPlainError(TypeError):
    """The value is not plain data, and nothing here may carry it."""


def refuse(value: object) -> NoReturn:
    """The hook for places where only plain data may pass.

    Raises:
        NotPlainError: always.
    """
    raise NotPlainError(f"{type(value).__name__} is not plain data")


# --- frames --------------------------------------------------------------------------------------------------


def pack(message: dict[str, Any]) -> bytes:
    """The bytes of a frame.

    Raises:
        WireError: the frame would be too large.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME:
        raise WireError(f"more than {MAX_FRAME >> 20} MiB of data in one message")
    return struct.pack(">I", len(body)) + body


def unpack(body: bytes) -> dict[str, Any]:
    """The message in the body of a frame.

    Raises:
        WireError: it is not a JSON object.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise WireError("not a frame") from error
    if type(message) is not dict:
        raise WireError("not a frame")
    return cast("dict[str, Any]", message)


def send(fd: int, message: dict[str, Any]) -> None:
    """Write a frame, blocking.

    Raises:
        WireError: too large. OSError: the other end is gone.
    """
    send_bytes(fd, pack(message))


def send_bytes(fd: int, data: bytes) -> None:
    """Write all of it, blocking.

    Raises:
        OSError: the other end is gone.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def receive(fd: int) -> dict[str, Any] | None:
    """Read a frame, blocking; None at the end of the channel.

    Raises:
        WireError: not a frame.
    """
    header = _read_exactly(fd, 4)
    if not header:
        return None
    (length,) = struct.unpack(">I", header)
    if length > MAX_FRAME:
        raise WireError("a frame larger than allowed")
    return unpack(_read_exactly(fd, length))


def _read_exactly(fd: int, count: int) -> bytes:
    parts: list[bytes] = []
    missing = count
    while missing:
        part = os.read(fd, min(missing, 1 << 20))
        if not part:
            if not parts:
                return b""
            raise WireError("the channel ended inside a frame")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


# --- plain data ----------------------------------------------------------------------------------------------


def encode(value: Any, other: Hook = refuse, depth: int = 0) -> Any:
    """The wire form of a value; what is not plain data by exact type goes through `other`.

    Raises:
        NotPlainError: `other` refused, or the nesting is too deep.
    """
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int:
        return value if -SAFE_INTEGER < value < SAFE_INTEGER else ["i", hex(value)]
    if kind is float:
        return value if value - value == 0 else ["f", repr(value)]
    if depth > MAX_DEPTH:
        raise NotPlainError("nested too deeply")
    if (tag := _SEQUENCES.get(kind)) is not None:
        return [tag, [encode(item, other, depth + 1) for item in list(value)]]
    if (tag := _MAPPINGS.get(kind)) is not None:
        pairs = list(kind.items(value))
        return [tag, [[encode(k, other, depth + 1), encode(v, other, depth + 1)] for k, v in pairs]]
    if (small := _encode_small(kind, value, other)) is not None:
        return small
    return other(value)


def _encode_small(kind: type, value: Any, other: Hook) -> list[Any] | None:
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "y", base64.b64encode(value).decode()]
    if kind is complex:
        return ["c", encode(value.real), encode(value.imag)]
    if kind is range or kind is slice:
        bounds = [encode(part, other) for part in (value.start, value.stop, value.step)]
        return ["g" if kind is range else "e", *bounds]
    if kind is datetime.timedelta:
        return ["P", value.days, value.seconds, value.microseconds]
    if kind is datetime.datetime or kind is datetime.time:
        fixed = value.tzinfo is None or type(value.tzinfo) is datetime.timezone
        return [_TEXTS[kind], value.isoformat()] if fixed else None
    if kind is datetime.date:
        return [_TEXTS[kind], value.isoformat()]
    if (tag := _TEXTS.get(kind)) is not None:
        return [tag, str(value)]
    if value is Ellipsis or value is NotImplemented:
        return ["k", "Ellipsis" if value is Ellipsis else "NotImplemented"]
    if kind is type and value.__module__ == "builtins" and getattr(builtins, value.__name__, None) is value:
        return ["R", value.__name__]
    return None


_SEQUENCES: dict[type, str] = {list: "l", tuple: "t", set: "s", frozenset: "z", deque: "q"}
_MAPPINGS: dict[type, str] = {dict: "d", Counter: "C", OrderedDict: "O", defaultdict: "D"}
_TEXTS: dict[type, str] = {
    Decimal: "m",
    Fraction: "r",
    UUID: "u",
    PosixPath: "p",
    PurePosixPath: "p",
    datetime.datetime: "T",
    datetime.date: "A",
    datetime.time: "H",
}

_BUILD_SEQUENCE: dict[str, Callable[[list[Any]], Any]] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "q": deque,
}
_BUILD_MAPPING: dict[str, Callable[[list[tuple[Any, Any]]], Any]] = {
    "d": dict,
    "C": lambda pairs: Counter(dict(pairs)),
    "O": OrderedDict,
    "D": lambda pairs: defaultdict(None, pairs),
}
_BUILD_TEXT: dict[str, Callable[[str], Any]] = {
    "i": lambda text: int(text, 16),
    "f": float,
    "b": lambda text: base64.b64decode(text),
    "y": lambda text: bytearray(base64.b64decode(text)),
    "m": Decimal,
    "r": Fraction,
    "u": UUID,
    "p": PosixPath,
    "T": datetime.datetime.fromisoformat,
    "A": datetime.date.fromisoformat,
    "H": datetime.time.fromisoformat,
    "k": lambda text: {"Ellipsis": Ellipsis, "NotImplemented": NotImplemented}[text],
    "R": lambda text: _builtin_type(text),
}
_BUILD_PARTS: dict[str, Callable[..., Any]] = {"c": complex, "g": range, "e": slice, "P": datetime.timedelta}


def decode(data: Any, special: Hook = refuse) -> Any:
    """The value of a wire form; `special` is given lists with tags that are not plain data.

    Raises:
        WireError: not a wire form.
    """
    try:
        return _decode(data, special)
    except (ValueError, TypeError, KeyError, IndexError, ArithmeticError, RecursionError) as error:
        raise WireError(f"not a value: {type(error).__name__}") from error


def _decode(data: Any, special: Hook) -> Any:
    if type(data) is not list:
        if type(data) is dict:
            raise WireError("not a value")
        return data
    tag: Any = data[0]
    if (sequence := _BUILD_SEQUENCE.get(tag)) is not None:
        return sequence([_decode(item, special) for item in data[1]])
    if (mapping := _BUILD_MAPPING.get(tag)) is not None:
        return mapping([(_decode(k, special), _decode(v, special)) for k, v in data[1]])
    if (text := _BUILD_TEXT.get(tag)) is not None:
        return text(data[1])
    if (parts := _BUILD_PARTS.get(tag)) is not None:
        return parts(*[_decode(item, special) for item in data[1:]])
    return special(data)


def _builtin_type(name: str) -> type:
    found = getattr(builtins, name, None)
    if not isinstance(found, type):
        raise WireError("not a built-in type")
    return found
