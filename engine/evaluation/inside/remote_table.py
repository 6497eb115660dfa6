"""The subject's table of objects behind handles, and how values cross the channel on its side."""

from __future__ import annotations

import builtins
import copy
import dataclasses
import importlib
import inspect
import itertools
import math
import operator
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from . import named, protocol, wire

MAX_TEXT = 4000
"""Characters of an exception's text or a docstring that cross."""

MAX_NESTED = 20
"""Named tuples within named tuples that cross as data; a chain of a thousand stays behind a handle."""

_ITERATORS = (map, zip, filter, enumerate, reversed)
"""Built-in iterators that are classes by name: no mirror describes those."""

_FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinFunctionType)


class Table:
    """Objects by handle number; owns their lifetime until the judge drops them."""

    def __init__(self, make_callback: Callable[[int, str], Any]) -> None:
        self._objects: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._described: set[int] = set()
        self._new_classes: list[dict[str, Any]] = []
        self._counter = itertools.count(1)
        self._nested = 0
        self._make_callback = make_callback

    def get(self, number: int) -> Any:
        """The object of a handle."""
        return self._objects[number]

    def drop(self, number: int) -> None:
        """The judge has forgotten the handle."""
        if number in self._objects and number not in self._described:
            del self._numbers[id(self._objects.pop(number))]

    def take_classes(self) -> list[dict[str, Any]]:
        """Descriptions of classes that the judge has not seen yet."""
        classes, self._new_classes = self._new_classes, []
        return classes

    # --- outwards

    def encode(self, value: Any, arguments: Sequence[Any] = ()) -> Any:
        """The wire form of a value; one that is an argument of this very call says so, to keep its identity."""
        for index, argument in enumerate(arguments):
            if argument is value and isinstance(value, (list, dict, set, bytearray)):
                return ["a", index]
        try:
            return wire.encode(value, self._handle)
        except wire.NotPlainError:
            return self._handle(value)

    def encode_exception(self, error: BaseException) -> list[Any]:
        """The wire form of an exception."""
        try:
            text = str(error)[:MAX_TEXT]
        except Exception as failure:  # its own __str__ is code under test
            text = f"<str() failed: {type(failure).__name__}>"
        args = error.args if isinstance(error.args, tuple) else ()  # pyright: ignore[reportUnnecessaryIsInstance]
        return ["E", self.number(error), self._class(type(error)), self.encode(args), text]

    def _handle(self, value: Any) -> list[Any]:
        kind = type(value)
        if isinstance(value, BaseException):
            return self.encode_exception(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            genuine = value.__name__ in protocol.GENUINE_MODULES and sys.modules.get(value.__name__) is value
            return ["M", value.__name__] if genuine else ["h", self.number(value), ["R", "object"], "m", ""]
        if found := _genuine(value, protocol.GENUINE_TYPES):
            return found
        if self._nested < MAX_NESTED and named.fields_of(kind) is not None:
            return self._named(value)
        flags = "a" if inspect.iscoroutinefunction(value) else ""
        return ["h", self.number(value), self._class(kind), _shape(value), flags]

    def _named(self, value: tuple[Any, ...]) -> list[Any]:
        self._nested += 1
        try:
            return ["n", self._class(type(value)), [wire.encode(item, self._handle) for item in value]]
        finally:
            self._nested -= 1

    def number(self, value: Any) -> int:
        """The handle of an object, a new one if it has none."""
        number = self._numbers.get(id(value))
        if number is None:
            number = next(self._counter)
            self._objects[number] = value
            self._numbers[id(value)] = number
        return number

    def _class(self, kind: type) -> list[Any]:
        if kind.__module__ == "builtins" and getattr(builtins, kind.__name__, None) is kind:
            return ["R", kind.__name__]
        if found := _genuine(kind, protocol.GENUINE_TYPES) or _genuine(kind, protocol.GENUINE_EXCEPTIONS):
            return found
        number = self.number(kind)
        if number not in self._described:
            self._described.add(number)
            self._new_classes.append(self._describe_class(kind, number))
        return ["K", number]

    def _describe_class(self, kind: type, number: int) -> dict[str, Any]:
        bases = [self._class(base) for base in kind.__bases__ if base is not object]
        doc = kind.__dict__.get("__doc__")
        return {
            "id": number,
            "name": str(kind.__name__),
            "module": str(kind.__module__),
            "qualname": str(kind.__qualname__),
            "doc": doc[:MAX_TEXT] if isinstance(doc, str) else None,
            "bases": bases,
            "exception": issubclass(kind, BaseException),
            "named": named.fields_of(kind),
            "dunders": sorted(name for name in protocol.DUNDERS if _defines(kind, name)),
            "fields": [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else None,
        }

    # --- inwards

    def decode(self, data: Any) -> Any:
        """The value of a wire form sent by the judge."""
        return wire.decode(data, self._special)

    def _special(self, data: list[Any]) -> Any:
        match data:
            case ["h", int(number)]:
                return self._objects[number]
            case ["n", ["K", int(number)], items]:
                return tuple.__new__(self._objects[number], [self.decode(item) for item in items])
            case ["j", int(number), str(flags)]:
                return self._make_callback(number, flags)
            case ["B", str(module), str(name)]:
                return operator.attrgetter(name)(importlib.import_module(module))
            case ["X", str(name), args]:
                return getattr(builtins, name)(*self.decode(args))
            case _:
                raise wire.WireError(f"unknown tag {data[0]!r}")


def _genuine(value: Any, table: dict[str, str]) -> list[Any] | None:
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str):
        return None
    name = name if isinstance(name, str) else str(getattr(value, "_name", ""))
    if not protocol.is_genuine(table, module, name):
        return None
    return ["Y", module, name] if getattr(sys.modules.get(module), name, None) is value else None


def _shape(value: Any) -> str:
    if isinstance(value, _FUNCTIONS):
        return "f"
    if isinstance(value, types.GeneratorType):
        return "g"
    if isinstance(value, _ITERATORS):
        return "i"
    return "w" if inspect.isawaitable(value) else "o"


def _defines(kind: type, name: str) -> bool:
    found = getattr(kind, name, None)
    return (
        found is not None and found is not getattr(object, name, None) and any(name in c.__dict__ for c in kind.__mro__)
    )


def apply_special(name: str, operands: list[Any]) -> Any:
    """Apply a special method the way Python itself would, reflected operands and all."""
    first, *rest = operands
    if (unary := protocol.UNARY.get(name)) is not None and not rest:
        return unary(first)
    if (simple := _SIMPLE.get(name)) is not None:
        return simple(*operands)
    found: Callable[..., Any] | None = getattr(operator, name, None)
    if found is None and name in ("and", "or"):
        found = getattr(operator, f"{name}_")
    if found is not None:
        return found(*operands)
    return getattr(type(first), f"__{name}__")(first, *rest)


def _equal(a: Any, b: Any) -> bool:
    return bool(a == b)


def _unequal(a: Any, b: Any) -> bool:
    return bool(a != b)


_SIMPLE: dict[str, Callable[..., Any]] = {
    "eq": _equal,
    "ne": _unequal,
    "bool": bool,
    "hash": hash,
    "repr": repr,
    "str": str,
    "format": format,
    "contains": operator.contains,
    "divmod": divmod,
    "pow": pow,
    "round": round,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
