"""What the tests hold of the solution: stand-ins for its functions, objects, classes, exceptions and modules.

A stand-in asks the subject for everything, with one exception that carries the verdict: operators that would hand a
value of the tests to an object of the solution and take the answer for a truth. So

- stand-in == plain data is False without asking; stand-in == stand-in is asked only within one remote class;
- `<`, `<=`, `>`, `>=` with plain data are refused;
- `plain data in stand-in` is asked only of a class that the tests use by themselves (a container under test); anything
  else, such as what a function returned in place of a list, is iterated and compared here;
- arithmetic with plain data must give another object, and that object is never turned into plain data
  (`abs(f(x) - 0.5) < 1e-6` with an object that answers 0.0 would pass otherwise).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final, NoReturn

from . import protocol
from .link import Link, SolutionExited, SubjectDied

IN_PROCESS_HINT: Final = "the task needs `in_process: true`"

_STATE = ("_rune_link", "_rune_handle", "_rune_tainted")


def link_of(value: Any) -> Link:
    """The link of a stand-in."""
    return object.__getattribute__(value, "_rune_link")


def handle_of(value: Any) -> int:
    """The handle of a stand-in."""
    return object.__getattribute__(value, "_rune_handle")


class StandIn:
    """An object of the solution, by its handle."""

    __slots__ = (*_STATE, "__weakref__")

    _rune_class_used: ClassVar[bool] = False
    """The tests have called the class, or taken something from it; inherited by its subclasses."""

    def __del__(self) -> None:
        try:
            link_of(self).dropped.append(handle_of(self))
        except AttributeError:
            return  # never finished

    def __getattr__(self, name: str) -> Any:
        if name in _STATE:
            raise AttributeError(name)
        return link_of(self).request("get", h=handle_of(self), name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        link = link_of(self)
        link.request("set", h=handle_of(self), name=name, value=link.translator.encode(value))

    def __delattr__(self, name: str) -> None:
        link_of(self).request("del", h=handle_of(self), name=name)

    def __dir__(self) -> list[str]:
        return list(link_of(self).request("dir", h=handle_of(self)))

    @property
    def __dict__(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return link_of(self).request("get", h=handle_of(self), name="__dict__")

    def __eq__(self, other: object) -> bool:
        return self is other or (_comparable(self, other) and special(self, "eq", other) is True)

    def __ne__(self, other: object) -> bool:
        if _comparable(self, other):
            return special(self, "ne", other) is True
        return self is not other

    def __hash__(self) -> int:
        return special(self, "hash")

    def __bool__(self) -> bool:
        return special(self, "bool") is True

    def __repr__(self) -> str:
        return _text(self, "repr")

    def __str__(self) -> str:
        return _text(self, "str")

    def __format__(self, spec: str) -> str:
        return str(special(self, "format", spec))

    def __copy__(self) -> Any:
        return special(self, "copy")

    def __deepcopy__(self, _memo: Any) -> Any:
        return special(self, "deepcopy")

    def __reduce_ex__(self, _protocol: Any) -> NoReturn:
        raise TypeError(f"an object of the solution cannot be pickled by a test: {IN_PROCESS_HINT}")


def make(kind: type, link: Link, handle: int) -> Any:
    """A stand-in of a mirrored class."""
    value = object.__new__(kind)
    object.__setattr__(value, "_rune_link", link)
    object.__setattr__(value, "_rune_handle", handle)
    object.__setattr__(value, "_rune_tainted", False)
    return value


def special(value: Any, name: str, *args: Any, swap: bool = False) -> Any:
    """Apply a special method in the subject."""
    return link_of(value).request("special", args, h=handle_of(value), name=name, swap=swap)


def call(value: Any, handle: int, link: Link, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call an object of the solution."""
    del value
    return link.request("call", [*args, *kwargs.values()], h=handle, names=list(kwargs))


def _comparable(mine: Any, other: Any) -> bool:
    return isinstance(other, StandIn) and type(other) is type(mine)


def _text(value: Any, how: str) -> str:
    try:
        return str(special(value, how))
    except (SubjectDied, SolutionExited):  # a report must be able to name what it is about
        return f"<{type(value).__name__} of the solution>"


# --- special methods that a class has only when the remote class has them ---------------------------------------


def _is_object(value: Any) -> bool:
    return isinstance(value, (StandIn, Mirror))


def _arithmetic(name: str, swap: bool) -> Callable[[Any, Any], Any]:
    def operate(self: Any, other: Any) -> Any:
        tainted = _tainted(self) or _tainted(other)
        result = special(self, name, other, swap=swap)
        if _is_object(other) and not tainted:
            return result
        if not isinstance(result, StandIn):
            raise TypeError(
                f"`{name}` of an object of the solution ({type(self).__name__}) with plain data gave plain data, "
                f"which proves nothing: return plain data, or {IN_PROCESS_HINT}"
            )
        object.__setattr__(result, "_rune_tainted", True)
        return result

    return operate


def _ordering(name: str) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        if not _is_object(other) or _tainted(self) or _tainted(other):
            raise TypeError(
                f"`{name}` between an object of the solution ({type(self).__name__}) and plain data proves nothing: "
                f"return plain data, or {IN_PROCESS_HINT}"
            )
        return special(self, name, other)

    return compare


def _plain_special(name: str) -> Callable[..., Any]:
    def apply(self: Any, *args: Any) -> Any:
        if name in protocol.CONVERSIONS and _tainted(self):
            raise TypeError(f"`{name}` of a result computed with plain data proves nothing: {IN_PROCESS_HINT}")
        result = special(self, name, *args)
        if _tainted(self) and isinstance(result, StandIn):
            object.__setattr__(result, "_rune_tainted", True)
        return result

    return apply


def _tainted(value: Any) -> bool:
    return isinstance(value, StandIn) and object.__getattribute__(value, "_rune_tainted")


def _iterated_contains(self: Any, item: Any) -> bool:
    return any(item is found or item == found for found in self)


def _contains(self: Any, item: Any) -> bool:
    if _is_object(item) or type(self)._rune_class_used:
        return special(self, "contains", item) is True
    if hasattr(type(self), "__iter__"):
        return _iterated_contains(self, item)
    raise TypeError(
        f"plain data `in` an object of the solution ({type(self).__name__}) whose class the tests do not use proves "
        f"nothing: return plain data, or {IN_PROCESS_HINT}"
    )


def _call_instance(self: Any, *args: Any, **kwargs: Any) -> Any:
    return call(self, handle_of(self), link_of(self), args, kwargs)


def _always_true(_self: Any) -> bool:
    return True


def _truth(self: Any) -> bool:
    return _plain_special("bool")(self) is True


def special_methods(names: list[str]) -> dict[str, Any]:
    """The namespace of special methods for a mirrored class."""
    space: dict[str, Any] = {}
    arithmetic = frozenset(protocol.BINARY)
    for dunder in protocol.DUNDERS.intersection(names):
        name = dunder.strip("_")
        if name == "call":
            space[dunder] = _call_instance
        elif name == "contains":
            space[dunder] = _contains
        elif name in protocol.ORDERING:
            space[dunder] = _ordering(name)
        elif name in arithmetic or (name[0] == "i" and name[1:] in arithmetic):
            space[dunder] = _arithmetic(name, swap=False)
        elif name[0] == "r" and (name[1:] in arithmetic or name == "rdivmod"):
            space[dunder] = _arithmetic(name[1:], swap=True)
        elif name == "divmod":
            space[dunder] = _arithmetic(name, swap=False)
        elif name != "bool":
            space[dunder] = _plain_special(name)
    if "__iter__" in space and "__contains__" not in space:
        space["__contains__"] = _iterated_contains
    if "__bool__" not in names and "__len__" not in names:
        space["__bool__"] = _always_true
    else:
        space["__bool__"] = _truth
    return space


# --- classes -------------------------------------------------------------------------------------------------


class Mirror(type):
    """The class of mirrored classes: calls, class attributes and class-level protocols go to the subject."""

    _rune_class_link: Link
    _rune_class_handle: int

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **_options: Any) -> Mirror:
        if "_rune_class_link" not in namespace:
            raise TypeError(
                f"a test cannot subclass a class of the solution from outside its process: {IN_PROCESS_HINT}"
            )
        return super().__new__(cls, name, bases, namespace)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        type.__setattr__(cls, "_rune_class_used", True)
        return call(cls, cls._rune_class_handle, cls._rune_class_link, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_rune_") or name in ("__test__", "__unittest_skip__"):
            raise AttributeError(name)
        if not name.startswith("_"):  # runners look for marks of their own
            type.__setattr__(cls, "_rune_class_used", True)
        return cls._rune_class_link.request("get", h=cls._rune_class_handle, name=name)

    def __setattr__(cls, name: str, value: Any) -> None:
        link = cls._rune_class_link
        link.request("set", h=cls._rune_class_handle, name=name, value=link.translator.encode(value))

    def __instancecheck__(cls, instance: Any) -> bool:
        return type.__instancecheck__(cls, instance)

    def __iter__(cls) -> Any:
        return iter(_class_special(cls, "iter"))

    def __len__(cls) -> int:
        return _class_special(cls, "len")

    def __getitem__(cls, key: Any) -> Any:
        return _class_special(cls, "getitem", key)

    def __contains__(cls, key: Any) -> bool:
        return _class_special(cls, "contains", key) is True

    def __bool__(cls) -> bool:
        return True

    def __repr__(cls) -> str:
        return f"<class 'solution.{cls.__qualname__}'>"


def _class_special(kind: Mirror, name: str, *args: Any) -> Any:
    return kind._rune_class_link.request("special", args, h=kind._rune_class_handle, name=name, swap=False)  # pyright: ignore[reportPrivateUsage]
