"""Names that the subject and the judge agree on: special methods, genuine library parts, ends of the subject."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

BINARY = ["add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor"]
"""Operators with a left, a reflected and an in-place form."""

ORDERING = ("lt", "le", "gt", "ge")

UNARY: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "iter": iter,
    "next": next,
    "reversed": reversed,
    "abs": abs,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "bytes": bytes,
}
"""Special methods of one operand, by the built-in that dispatches to them."""

CONVERSIONS = ("abs", "int", "float", "complex", "index", "round", "len", "bool", "trunc", "floor", "ceil")
"""Special methods that turn an object into plain data."""

DIRECT = [
    "enter",
    "exit",
    "aenter",
    "aexit",
    "aiter",
    "anext",
    "round",
    "trunc",
    "floor",
    "ceil",
    "getitem",
    "setitem",
    "delitem",
    "contains",
    "divmod",
    "rdivmod",
    "call",
]
"""Special methods that are called on the type as they are."""

DUNDERS = frozenset(
    f"__{name}__"
    for name in (
        *BINARY,
        *(f"r{name}" for name in BINARY),
        *(f"i{name}" for name in BINARY),
        *ORDERING,
        *UNARY,
        *DIRECT,
        "bool",
    )
)
"""What a mirrored class has when the remote class has it."""

GENUINE_MODULES = frozenset(
    [
        "abc",
        "array",
        "asyncio",
        "base64",
        "bisect",
        "calendar",
        "cmath",
        "collections",
        "contextlib",
        "copy",
        "csv",
        "dataclasses",
        "datetime",
        "decimal",
        "enum",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "inspect",
        "io",
        "itertools",
        "json",
        "math",
        "numbers",
        "operator",
        "os",
        "pathlib",
        "random",
        "re",
        "statistics",
        "string",
        "sys",
        "textwrap",
        "threading",
        "time",
        "typing",
        "unittest",
        "uuid",
    ]
)
"""Modules that a test may use because the solution imported them, under their own name: the judge gives its own."""

GENUINE_TYPES = {
    "typing": "Any Callable Dict Generator Iterable Iterator List Mapping Optional Sequence Set Tuple Type Union",
    "collections": "ChainMap Counter OrderedDict defaultdict deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "fractions": "Fraction",
    "pathlib": "Path PurePath",
    "uuid": "UUID",
    "io": "StringIO BytesIO",
}
"""Types that a test may use because the solution imported them, under their own name: the judge gives its own."""

GENUINE_EXCEPTIONS = {
    "json.decoder": "JSONDecodeError",
    "decimal": "InvalidOperation DivisionByZero",
    "dataclasses": "FrozenInstanceError",
    "queue": "Empty Full",
    "asyncio.exceptions": "CancelledError QueueFull QueueEmpty InvalidStateError",
    "asyncio.queues": "QueueFull QueueEmpty",
    "statistics": "StatisticsError",
    "configparser": "Error",
    "csv": "Error",
    "re": "error",
    "struct": "error",
}
"""Exceptions of the standard library that a test can expect by type. None of them can skip or end a test."""

ENDING = (SystemExit, KeyboardInterrupt, GeneratorExit)
"""What ends a program rather than a call."""


def is_genuine(table: dict[str, str], module: str, name: str) -> bool:
    """Is that name of that module in the table?"""
    return name in table.get(module, "").split()


def is_builtin_exception(name: str) -> bool:
    """Is it a built-in exception that a call may raise without ending the judge?"""
    found = getattr(builtins, name, None)
    return isinstance(found, type) and issubclass(found, Exception)
