"""Is what the code returned the expected JSON value? Decided in the engine, by exact type and exact value.

- `1`, `True` and `1.0` are three values; floats are compared exactly; NaN equals NaN, 0.0 equals -0.0.
- A tuple may stand for a list: JSON cannot ask for a tuple, and Python code returns tuples where it means "two values".
- A dictionary needs string keys; anything else (set, bytes, an object) equals nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

MAX_SHOWN = 400
"""Characters of a value in a failure."""


@dataclass(frozen=True)
class Foreign:
    """A value that JSON cannot express."""

    kind: str

    def __repr__(self) -> str:
        return f"<{self.kind}>"


_FOREIGN = {
    "s": "set",
    "z": "frozenset",
    "q": "deque",
    "b": "bytes",
    "y": "bytearray",
    "c": "complex",
    "m": "Decimal",
    "r": "Fraction",
    "T": "datetime",
    "C": "Counter",
    "O": "OrderedDict",
    "D": "defaultdict",
    "g": "range",
    "R": "class",
    "E": "exception",
}


def json_value(data: Any) -> Any:
    """The value in a wire form, with `Foreign` for what is no JSON. Builds nothing but JSON values and tuples.

    Raises:
        ValueError, TypeError, IndexError, RecursionError: not a wire form.
    """
    if not isinstance(data, list):
        return data
    parts = cast("list[Any]", data)
    match parts:
        case ["l", items]:
            return [json_value(item) for item in items]
        case ["t", items]:
            return tuple(json_value(item) for item in items)
        case ["n", _, items]:  # a named tuple is a tuple
            return tuple(json_value(item) for item in items)
        case ["d", pairs]:
            if all(type(key) is str for key, _ in pairs):
                return {key: json_value(value) for key, value in pairs}
            return Foreign("dict with keys that are not strings")
        case ["i", str(text)]:
            return int(text, 16)
        case ["f", str(text)]:
            return float(text)
        case _:
            return Foreign(_FOREIGN.get(str(parts[0]), "object"))


def same(expected: Any, got: Any) -> bool:
    """Is `got` exactly the expected JSON value?"""
    if isinstance(expected, list):
        items = cast("list[Any]", expected)
        if type(got) not in (list, tuple):
            return False
        others = cast("list[Any]", got)
        return len(items) == len(others) and all(same(a, b) for a, b in zip(items, others, strict=True))
    if type(expected) is not type(got):
        return False
    if isinstance(expected, dict):
        mine, theirs = cast("dict[str, Any]", expected), cast("dict[str, Any]", got)
        return mine.keys() == theirs.keys() and all(same(mine[key], theirs[key]) for key in mine)
    if isinstance(expected, float) and expected != expected:
        return got != got
    return expected == got


def shown(value: Any) -> str:
    """The value for a reader, cut."""
    try:
        text = repr(value)
    except ValueError:  # an integer too long for decimal digits
        text = "<a huge integer>"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def difference(expected: Any, got: Any) -> str:
    """One line on why they differ."""
    if isinstance(got, Foreign):
        return f"got {got.kind}, which is no JSON value"
    if isinstance(expected, list) and type(got) in (list, tuple):
        return "the elements differ"
    if type(expected) is not type(got):
        return f"got {type(got).__name__} where {type(expected).__name__} is expected"
    return "the values differ"
