"""The subject: runs generated code and answers the judge's questions about it.

It is given inputs and never an expected value. Nothing that it says is believed beyond "this is the data that the
code returned": the process belongs to the code under test, so every answer is one that the code could have chosen.

    ready ──(request ► answer)*──► end of channel
                 │  ▲
                 ▼  │ a call may ask back (callback) and serve requests while it waits
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import os
import sys
import traceback
import types
import unittest
from collections.abc import Callable, Mapping
from typing import Any, cast

from . import remote_table, wire
from .relay import Relay

SOLUTION = "solution"
"""Name of the module that the generated code becomes."""

MAX_CAUSES = 3
"""Exceptions of a chain that are described."""

MUTABLE = (list, dict, set, bytearray)


class CallbackError(Exception):
    """A callback of the tests raised an exception of a class that only the tests know."""

    origin: int | None = None


class Subject:
    """Owns the channel and the table of objects that the judge holds."""

    def __init__(self, receive_fd: int, send_fd: int, root: str) -> None:
        self._receive_fd = receive_fd
        self._send_fd = send_fd
        self._path = os.path.join(root, f"{SOLUTION}.py")
        self._relay = Relay()
        self._table = remote_table.Table(self._make_callback)
        self._loop: Any = None
        self._callback_ids = itertools.count(1)
        self._operations: dict[str, Callable[[dict[str, Any]], Any]] = {
            "load": self._load,
            "module": lambda m: self._table.number(importlib.import_module(m["name"])),
            "public": self._public,
            "get": lambda m: getattr(self._object(m), m["name"]),
            "set": lambda m: setattr(self._object(m), m["name"], self._table.decode(m["value"])),
            "del": lambda m: delattr(self._object(m), m["name"]),
            "dir": lambda m: dir(self._object(m)),
            "call": self._call,
            "case": self._case,
            "special": self._special,
            "await": lambda m: self._await(self._object(m)),
        }

    def serve(self) -> None:
        """Announce readiness, then answer until the channel ends."""
        self._relay.install()
        wire.send(self._send_fd, {"ready": True})
        while (message := wire.receive(self._receive_fd)) is not None:
            self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        for handle in message.get("drop", ()):
            self._table.drop(handle)
        reply = self._outcome(message)
        reply.update(self._relay.take())
        try:
            frame = wire.pack(self._sealed(message, reply))
        except wire.WireError as error:
            too_large = {"exc": self._describe(wire.NotPlainError(f"the result is too large: {error}"))}
            frame = wire.pack(self._sealed(message, too_large))
        wire.send_bytes(self._send_fd, frame)

    def _sealed(self, message: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
        return {"id": message["id"], "n": message["n"], "classes": self._table.take_classes(), **reply}

    def _outcome(self, message: dict[str, Any]) -> dict[str, Any]:
        arguments: list[Any] = []
        try:
            if "args" in message:
                arguments = [self._table.decode(item) for item in message["args"]]
                message["values"] = arguments
            result = self._operations[message["op"]](message)
            reply = {"ok": self._table.encode(result, arguments)}
        except BaseException as error:  # the code under test may raise anything; it is data for the judge
            reply = {"exc": self._describe(error)}
        return reply | self._mutated(message, arguments)

    def _mutated(self, message: dict[str, Any], arguments: list[Any]) -> dict[str, Any]:
        """Arguments that the call changed in place, in their new form."""
        changed: list[list[Any]] = []
        for index, value in enumerate(arguments):
            if type(value) in MUTABLE:
                try:
                    now = self._table.encode(value)
                except wire.NotPlainError:
                    continue
                if now != message["args"][index]:
                    changed.append([index, now])
        return {"mut": changed} if changed else {}

    # --- operations

    def _object(self, message: dict[str, Any]) -> Any:
        return self._table.decode(message["v"]) if "v" in message else self._table.get(message["h"])

    def _load(self, message: dict[str, Any]) -> Any:
        importlib.import_module(SOLUTION)

    def _public(self, message: dict[str, Any]) -> list[str]:
        module = self._object(message)
        names = getattr(module, "__all__", None)
        if isinstance(names, (list, tuple)):
            return [str(name) for name in cast("list[object]", names)]
        return [name for name in vars(module) if not name.startswith("_")]

    def _call(self, message: dict[str, Any]) -> Any:
        names: list[str] = message["names"]
        values: list[Any] = message["values"]
        positional = len(values) - len(names)
        return self._object(message)(*values[:positional], **dict(zip(names, values[positional:], strict=True)))

    def _case(self, message: dict[str, Any]) -> Any:
        function = getattr(sys.modules[SOLUTION], message["name"])
        kwargs = {name: self._table.decode(value) for name, value in message["kwargs"].items()}
        result = function(*message["values"], **kwargs)
        return self._await(result) if inspect.isawaitable(result) else result

    def _special(self, message: dict[str, Any]) -> Any:
        operands = [self._object(message), *message["values"]]
        if message.get("swap"):
            operands.reverse()
        return remote_table.apply_special(message["name"], operands)

    def _await(self, awaitable: Any) -> Any:
        import asyncio  # half of a cold start, and needed by few solutions

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)

        async def wait() -> Any:
            return await awaitable

        return self._loop.run_until_complete(wait())

    # --- callbacks

    def _make_callback(self, number: int, flags: str) -> Any:
        """What stands for a function or an iterator of the tests."""

        def ask(operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
            return self._ask(number, operation, args, kwargs)

        if "i" in flags:
            return _CallbackIterator(ask)
        if "a" in flags:

            async def asynchronous(*args: Any, **kwargs: Any) -> Any:
                return ask("call", args, kwargs)

            return asynchronous

        def callback(*args: Any, **kwargs: Any) -> Any:
            return ask("call", args, kwargs)

        return callback

    def _ask(self, number: int, operation: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        request = next(self._callback_ids)
        frame = {
            "callback": number,
            "cb": request,
            "op": operation,
            "args": [self._table.encode(item) for item in args],
            "kwargs": {name: self._table.encode(value) for name, value in kwargs.items()},
            **self._relay.take(),
        }
        frame["classes"] = self._table.take_classes()
        wire.send(self._send_fd, frame)
        while (message := wire.receive(self._receive_fd)) is not None:
            if message.get("cb") == request:
                return self._callback_result(message)
            self._answer(message)
        os._exit(0)  # the tests are gone, and nobody is left to tell

    def _callback_result(self, message: dict[str, Any]) -> Any:
        if "exc" not in message:
            return self._table.decode(message["ok"])
        raised = message["exc"]
        if "h" in raised:
            raise self._table.get(raised["h"])
        kind = getattr(sys.modules["builtins"], raised["type"], None)
        base: type[Exception] = kind if isinstance(kind, type) and issubclass(kind, Exception) else Exception
        error = types.new_class(raised["name"], (CallbackError, base))(*self._table.decode(raised["args"]))
        error.origin = raised["origin"]
        raise error

    # --- exceptions

    def _describe(self, error: BaseException, depth: int = 0) -> dict[str, Any]:
        line, source = self._place(error)
        described: dict[str, Any] = {
            "value": self._table.encode_exception(error),
            "name": type(error).__name__,
            "line": line,
            "source": source,
            "ends": not isinstance(error, Exception),
            "origin": getattr(error, "origin", None) if isinstance(error, CallbackError) else None,
        }
        if error.__cause__ is not None and depth < MAX_CAUSES:
            described["cause"] = self._describe(error.__cause__, depth + 1)
        return described

    def _place(self, error: BaseException) -> tuple[int | None, str]:
        """The last line of the solution that the exception came through."""
        if isinstance(error, SyntaxError) and error.filename == self._path:
            return error.lineno, (error.text or "").strip()[:200]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == self._path]
        return (frames[-1].lineno, (frames[-1].line or "")[:200]) if frames else (None, "")


class _CallbackIterator:
    """An iterator of the tests, advanced by asking back."""

    def __init__(self, ask: Callable[[str, tuple[Any, ...], Mapping[str, Any]], Any]) -> None:
        self._ask = ask

    def __iter__(self) -> _CallbackIterator:
        return self

    def __next__(self) -> Any:
        found = self._ask("next", (), {})
        if not found:
            raise StopIteration
        return found[0]


def quiet_runners() -> None:
    """A solution may end in `unittest.main()`; the judge runs the tests, so that call does nothing here."""

    def main(*_args: object, **_kwargs: object) -> None:
        return None

    setattr(unittest, "main", main)  # noqa: B010 - a class there, a function here; only ever called


def main() -> None:
    """Entry point: settings as JSON on standard input."""
    settings = json.loads(sys.stdin.buffer.read())
    root = os.getcwd()
    sys.path.insert(0, root)
    sys.dont_write_bytecode = True
    quiet_runners()
    Subject(settings["receive_fd"], settings["send_fd"], root).serve()
