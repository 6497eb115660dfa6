"""Values between the tests and the subject, seen from the tests: builds the stand-ins, and encodes arguments."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import keyword
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

from . import mirrors, named, protocol, wire
from .link import Link, SolutionExited, Translator
from .mirrors import Mirror, StandIn

MAX_NAME = 200
"""Characters of a class name that a subject may use."""

_FUNCTION_KINDS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodDescriptorType)


class Function(StandIn):
    """A function or bound method of the solution."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return mirrors.call(self, mirrors.handle_of(self), mirrors.link_of(self), args, kwargs)

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Function) and mirrors.special(self, "eq", other) is True)

    def __hash__(self) -> int:
        return mirrors.handle_of(self)

    @property
    def __doc__(self) -> str | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return mirrors.link_of(self).request("get", h=mirrors.handle_of(self), name="__doc__")


@functools.cache
def coroutine_function() -> type[Function]:
    """The class of an `async def` of the solution: asyncio recognises it as one."""
    from asyncio import coroutines  # half of a cold start, and needed by few solutions

    mark = vars(coroutines)["_is_coroutine"]
    return type("CoroutineFunction", (Function,), {"__slots__": (), "_is_coroutine": mark})


class _RemoteIterator(StandIn):
    """A `map`, `zip` and the like of the solution."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return mirrors.special(self, "next")


class _RemoteGenerator(_RemoteIterator):
    """What a generator of the solution is drawn from."""

    __slots__ = ()

    def send(self, value: Any) -> Any:
        return _method(self, "send")(value)

    def throw(self, *args: Any) -> Any:
        return _method(self, "throw")(*args)

    def close(self) -> None:
        _method(self, "close")()


def _generator(source: Any) -> Generator[Any, Any, Any]:
    """A genuine generator over a remote one; `yield from` passes send, throw and close on."""
    return (yield from source)


class Mirrors(Translator):
    """Owns the mirrored classes and the stand-ins that are alive."""

    def __init__(self, link: Link) -> None:
        self._link = link
        link.translator = self
        self._classes: dict[int, type] = {}
        self._alive: WeakValueDictionary[int, StandIn] = WeakValueDictionary()
        self._raised: dict[int, BaseException] = {}

    # --- from the subject

    def decode(self, data: Any, arguments: Sequence[Any] = ()) -> Any:
        """The value of a wire form; `["a", i]` is the i-th argument itself."""

        def special(item: list[Any]) -> Any:
            if item[0] == "a":
                return arguments[item[1]]
            return self._special(item)

        return wire.decode(data, special)

    def _special(self, item: list[Any]) -> Any:
        match item:
            case ["K", int(number)]:
                return self._classes[number]
            case ["h", int(number), kind, str(shape), str(flags)]:
                return self._stand_in(number, kind, shape, flags)
            case ["n", kind, list(items)]:
                return self._named_value(kind, cast("list[Any]", items))
            case ["E", int(number), kind, args, str(text)]:
                return self._exception(number, kind, args, text)
            case ["M", str(name)] if name in protocol.GENUINE_MODULES:
                return importlib.import_module(name)
            case ["Y", str(module), str(name)] if _is_library(module, name):
                return getattr(importlib.import_module(module), name)
            case _:
                raise wire.WireError("unknown tag")

    def _stand_in(self, number: int, kind: Any, shape: str, flags: str) -> Any:
        value = self._alive.get(number)
        if value is None:
            if number in self._link.dropped:
                self._link.dropped.remove(number)
            value = self._alive[number] = mirrors.make(self._stand_in_class(kind, shape, flags), self._link, number)
        match shape:
            case "g":
                return _generator(value)
            case "w":
                return self._awaitable(value)
            case _:
                return value

    def _stand_in_class(self, kind: Any, shape: str, flags: str) -> type[StandIn]:
        match shape:
            case "f":
                return coroutine_function() if "a" in flags else Function
            case "g":
                return _RemoteGenerator
            case "i":
                return _RemoteIterator
            case "o":
                return self._object_class(kind)
            case _:
                return StandIn

    def _named_value(self, kind: Any, items: list[Any]) -> Any:
        value = named.make(self.decode(kind), [self.decode(item) for item in items])
        if value is None:
            raise wire.WireError("not a named tuple")
        return value

    def _object_class(self, kind: Any) -> type[StandIn]:
        found = self.decode(kind)
        mirrored = isinstance(found, Mirror) and issubclass(found, StandIn)
        return cast("type[StandIn]", found) if mirrored else StandIn

    async def _awaitable(self, value: StandIn) -> Any:
        return self._link.request("await", h=mirrors.handle_of(value))

    def _exception(self, number: int, kind: Any, args: Any, text: str) -> BaseException:
        found = self.decode(kind)
        if not isinstance(found, type) or not issubclass(found, BaseException):
            raise wire.WireError("not an exception")
        if issubclass(found, Exception):
            error = _instance(found, self.decode(args), text)
        else:
            error = SolutionExited(*_exit_code(self.decode(args)))
        error.__dict__["_rune_handle"] = number
        error.__dict__["_rune_text"] = text
        return error

    def error(self, described: dict[str, Any]) -> BaseException:
        """The exception that the solution raised; the one that a callback of the tests raised, if it is that."""
        origin = described.get("origin")
        if origin is not None and origin in self._raised:
            return self._raised[origin]
        if described["ends"]:
            error: Any = SolutionExited(*_exit_code(self.decode(described["value"][3])))
        else:
            error = self.decode(described["value"])
            if not isinstance(error, BaseException):
                raise wire.WireError("not an exception")
        line, source = described.get("line"), described.get("source")
        error.__dict__["_rune_place"] = (line if type(line) is int else None, str(source or ""))
        error.__dict__["_rune_name"] = str(described.get("name", ""))[:MAX_NAME]
        if "cause" in described:
            error.__cause__ = self.error(described["cause"])
        return error

    # --- classes

    def learn(self, described: dict[str, Any]) -> None:
        """Make the mirror of a class."""
        name = _identifier(described["name"])
        bases = [base for base in (self.decode(item) for item in described["bases"]) if isinstance(base, type)]
        namespace: dict[str, Any] = {
            "_rune_class_link": self._link,
            "_rune_class_handle": int(described["id"]),
            "__module__": "solution",
            "__qualname__": str(described["qualname"])[:MAX_NAME],
            "__doc__": described["doc"],
        }
        if described["exception"]:
            namespace["__getattr__"] = _exception_attribute
            namespace["__str__"] = _exception_text
            kept = tuple(base for base in bases if issubclass(base, Exception)) or (Exception,)
        elif isinstance(tuple_fields := described.get("named"), list):
            namespace.update(named.namespace(cast("list[Any]", tuple_fields)))
            kept = tuple(base for base in bases if issubclass(base, named.NamedValue)) or (named.NamedValue,)
        else:
            namespace["__slots__"] = ()
            namespace.update(mirrors.special_methods(list(described["dunders"])))
            kept = tuple(base for base in bases if isinstance(base, Mirror) and issubclass(base, StandIn)) or (StandIn,)
        if isinstance(fields := described.get("fields"), list):
            namespace["__dataclass_fields__"] = _fields(fields)
        try:
            mirror = Mirror.__new__(Mirror, name, kept, namespace)
        except TypeError:  # bases that only make sense in the subject
            mirror = Mirror.__new__(Mirror, name, kept[:1], namespace)
        self._classes[int(described["id"])] = mirror

    # --- to the subject

    def encode(self, value: Any) -> Any:
        """The wire form of a value of the tests.

        Raises:
            NotPlainError: it is an object of the tests that cannot leave their process.
        """
        return wire.encode(value, self._other)

    def _other(self, value: Any) -> Any:
        if isinstance(value, Mirror):
            return ["h", value._rune_class_handle]  # pyright: ignore[reportPrivateUsage]
        if isinstance(value, StandIn):
            return ["h", mirrors.handle_of(value)]
        if isinstance(value, named.NamedValue):
            kind = cast("Any", type(value))
            return ["n", ["K", kind._rune_class_handle], [self.encode(item) for item in value]]
        if isinstance(value, types.TracebackType):
            return None  # what `__exit__` is given; frames of the tests stay here
        if isinstance(value, BaseException):
            return self._encode_error(value)
        if (found := _library_name(value)) is not None:
            return ["B", *found]
        if callable(value):
            return ["j", self._link.offer(value), "a" if inspect.iscoroutinefunction(value) else ""]
        if isinstance(value, Iterator):
            return ["j", self._link.offer(value), "i"]
        raise wire.NotPlainError(
            f"a test gives the solution an object of its own ({type(value).__name__}), which cannot leave the "
            f"process of the tests: {mirrors.IN_PROCESS_HINT}"
        )

    def _encode_error(self, error: BaseException) -> list[Any]:
        handle = error.__dict__.get("_rune_handle")
        if handle is not None:
            return ["h", handle]
        if type(error).__module__ == "builtins":
            return ["X", type(error).__name__, self.encode(error.args)]
        raise wire.NotPlainError(f"a test gives the solution an exception of its own: {mirrors.IN_PROCESS_HINT}")

    def describe_error(self, error: BaseException) -> dict[str, Any]:
        """What the subject is told about an exception of a callback."""
        if (handle := error.__dict__.get("_rune_handle")) is not None:
            return {"h": handle}
        number = len(self._raised) + 1
        self._raised[number] = error
        base = next((kind for kind in type(error).__mro__ if kind.__module__ == "builtins"), Exception)
        try:
            args = self.encode(error.args)
        except wire.NotPlainError:
            args = self.encode((str(error),))
        return {"type": base.__name__, "name": type(error).__name__, "args": args, "origin": number}


def _method(value: StandIn, name: str) -> Callable[..., Any]:
    return StandIn.__getattr__(value, name)


def _is_library(module: str, name: str) -> bool:
    tables = (protocol.GENUINE_TYPES, protocol.GENUINE_EXCEPTIONS)
    return any(protocol.is_genuine(table, module, name) for table in tables)


def _library_name(value: Any) -> tuple[str, str] | None:
    """Module and name of a function or type that the subject can look up for itself."""
    if not isinstance(value, (type, *_FUNCTION_KINDS)):
        return None
    module = getattr(value, "__module__", None) or ("builtins" if hasattr(value, "__objclass__") else None)
    name: Any = getattr(value, "__qualname__", "")
    if module not in ("builtins", "operator", "_operator", "math", *protocol.GENUINE_TYPES):
        return None
    found: Any = importlib.import_module(module)
    for part in str(name).split("."):
        found = getattr(found, part, None)
    return (module, name) if found is value else None


def _instance(kind: Any, args: Any, text: str) -> BaseException:
    mirrored = isinstance(kind, Mirror)
    arguments = args if isinstance(args, tuple) else (text,)
    for attempt in (arguments, (text,)):
        try:
            error: Any = kind.__new__(kind, *attempt)
            if not mirrored:
                kind.__init__(error, *attempt)
        except Exception:
            continue
        else:
            return error
    return Exception(text)


def _exit_code(args: Any) -> tuple[Any, ...]:
    return args if isinstance(args, tuple) else ()


def _exception_attribute(self: BaseException, name: str) -> Any:
    handle = self.__dict__.get("_rune_handle")
    if handle is None or name.startswith("_rune_"):
        raise AttributeError(name)
    return type(self)._rune_class_link.request("get", h=handle, name=name)  # type: ignore[attr-defined]


def _exception_text(self: BaseException) -> str:
    return self.__dict__.get("_rune_text", "")


def _identifier(name: Any) -> str:
    text = str(name)[:MAX_NAME]
    return text if text.isidentifier() and not keyword.iskeyword(text) else "Anonymous"


def _fields(names: list[Any]) -> dict[str, Any]:
    usable = [str(name) for name in names if str(name).isidentifier() and not keyword.iskeyword(str(name))]
    return {field.name: field for field in dataclasses.fields(dataclasses.make_dataclass("Fields", usable))}
