"""Named tuples of the solution: their items are data, and compared as data; only their methods are asked for.

A stand-in would be unequal to `(1, 2)`, which a named tuple is equal to. So the items cross, and the tests hold a
genuine tuple of a mirrored class: equality, order, hash, iteration and fields are decided in their own process.
Nothing of it is the subject's word beyond the items; a class that redefines any of that stays behind a handle.
"""

from __future__ import annotations

import keyword
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, cast

from .link import SolutionExited, SubjectDied


class NamedValue(tuple[Any, ...]):
    """Base of the mirrored classes of named tuples."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_rune_"):
            raise AttributeError(name)
        link = cast("Any", type(self))._rune_class_link
        return link.request("get", v=link.translator.encode(self), name=name)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("can't set attribute")

    def __repr__(self) -> str:
        return _text(self, "__repr__")

    def __str__(self) -> str:
        return _text(self, "__str__")


def _text(value: NamedValue, how: str) -> str:
    try:
        return str(NamedValue.__getattr__(value, how)())
    except (SubjectDied, SolutionExited):  # a report must be able to name what it is about
        return tuple.__repr__(value)


def make(kind: Any, items: Sequence[Any]) -> NamedValue | None:
    """The value of a mirrored class; None if the class is none of a named tuple."""
    named = isinstance(kind, type) and issubclass(kind, NamedValue)
    return tuple.__new__(cast("type[NamedValue]", kind), items) if named else None


def namespace(fields: Sequence[Any]) -> dict[str, Any]:
    """What the mirror of a named tuple's class has: its fields, by position."""
    names = [str(field) for field in fields]
    usable = {name for name in names if name.isidentifier() and not keyword.iskeyword(name) and name[0] != "_"}
    getters = {name: property(operator.itemgetter(at)) for at, name in enumerate(names) if name in usable}
    return {**getters, "_fields": tuple(names)}


# --- in the subject ------------------------------------------------------------------------------------------


class _Sample(NamedTuple):
    field: int


_FIELD = type(vars(_Sample)["field"])
"""What a field is that the class has not redefined."""
_DECIDES = ("eq", "ne", "lt", "le", "gt", "ge", "hash", "iter", "getitem", "len", "contains", "add", "mul", "rmul")


def fields_of(kind: type) -> list[str] | None:
    """The fields of a class of named tuples that is compared, iterated and hashed as tuples are; None for any other."""
    if not issubclass(kind, tuple):
        return None
    fields: Any = getattr(kind, "_fields", None)
    if type(fields) is not tuple or not all(type(field) is str for field in cast("tuple[object, ...]", fields)):
        return None
    if any(type(getattr(kind, field, None)) is not _FIELD for field in fields):
        return None
    dunders = (f"__{name}__" for name in _DECIDES)
    return list(fields) if all(getattr(kind, name) is getattr(tuple, name) for name in dunders) else None
