"""The judge's end of the channel to the subject: requests, callbacks, and the death of the other side.

alive ──(end of channel, garbage, wrong nonce)──► dead      (sticky: a verdict with a dead subject never passes)
"""

from __future__ import annotations

import inspect
import secrets
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, cast

from . import wire

MAX_CLASSES = 2000
"""Classes that a subject may describe in all."""


class SubjectDied(BaseException):
    """The process of the solution ended, or answered something that is no answer."""


class SolutionExited(SystemExit):
    """The solution ended the program (SystemExit, KeyboardInterrupt ...) instead of returning."""


class Translator(ABC):
    """How values cross on the judge's side; the mirrors implement it."""

    @abstractmethod
    def encode(self, value: Any) -> Any:
        """The wire form of a value of the tests."""

    @abstractmethod
    def decode(self, data: Any, arguments: Sequence[Any]) -> Any:
        """The value of a wire form sent by the subject."""

    @abstractmethod
    def learn(self, described: dict[str, Any]) -> None:
        """Take in the description of a remote class."""

    @abstractmethod
    def error(self, described: dict[str, Any]) -> BaseException:
        """The exception of a description."""

    @abstractmethod
    def describe_error(self, error: BaseException) -> dict[str, Any]:
        """The description of an exception that a callback raised."""


class Link:
    """One request at a time; while one is under way the subject may call back into the tests."""

    def __init__(self, receive_fd: int, send_fd: int) -> None:
        self._receive_fd = receive_fd
        self._send_fd = send_fd
        self._lock = threading.RLock()
        self._next_id = 0
        self._classes = 0
        self._callbacks: dict[int, Any] = {}
        self.translator: Translator  # set by the mirrors, which need this link first
        self.dropped: list[int] = []
        """Handles that the tests let go; told to the subject with the next request."""
        self.dead = ""
        """Why the subject is gone, empty while it answers."""

    def wait_ready(self) -> None:
        """Wait until the subject stands, before any generated code runs.

        Raises:
            SubjectDied: it never came up.
        """
        if self._receive().get("ready") is not True:
            self._die("it spoke out of turn")

    def request(self, operation: str, args: Sequence[Any] | None = None, **fields: Any) -> Any:
        """Ask the subject; returns the decoded answer and updates mutable arguments that it changed.

        Raises:
            SubjectDied: it is gone. Anything else: what the solution raised.
        """
        with self._lock:
            if self.dead:
                raise SubjectDied(self.dead)
            self._next_id += 1
            message: dict[str, Any] = {"id": self._next_id, "n": secrets.token_hex(8), "op": operation, **fields}
            arguments = list(args or ())
            if args is not None:
                message["args"] = [self.translator.encode(item) for item in arguments]
            message["drop"], self.dropped = self.dropped, []
            self._send(message)
            return self._settle(self._await_reply(message), arguments)

    def offer(self, value: Any) -> int:
        """A number under which the subject may call the value; kept for the life of the link."""
        number = len(self._callbacks) + 1
        self._callbacks[number] = value
        return number

    # --- replies

    def _await_reply(self, message: dict[str, Any]) -> dict[str, Any]:
        while True:
            frame = self._receive()
            self._take_in(frame)
            if "callback" in frame:
                self._send(self._serve_callback(frame))
            elif frame.get("id") == message["id"] and frame.get("n") == message["n"]:
                return frame
            else:
                self._die("it answered what nobody asked")

    def _settle(self, reply: dict[str, Any], arguments: list[Any]) -> Any:
        try:
            for index, data in reply.get("mut", ()):
                write_back(arguments[index], self.translator.decode(data, ()))
            if "exc" not in reply:
                return self.translator.decode(reply["ok"], arguments)
            error = self.translator.error(reply["exc"])
        except (wire.WireError, KeyError, IndexError, TypeError, ValueError, AttributeError) as failure:
            self._die(f"its answer cannot be read ({type(failure).__name__}: {failure})")
        raise error

    def _take_in(self, frame: dict[str, Any]) -> None:
        for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
            if isinstance(text := frame.get(name), str):
                stream.write(text)
        described: Any = frame.get("classes") or ()
        self._classes += len(described)
        if self._classes > MAX_CLASSES:
            self._die("it has too many classes")
        try:
            for item in described:
                self.translator.learn(item)
        except (wire.WireError, KeyError, TypeError, ValueError, AttributeError):
            self._die("its classes cannot be read")

    # --- callbacks

    def _serve_callback(self, frame: dict[str, Any]) -> dict[str, Any]:
        try:
            value = self._callbacks[frame["callback"]]
            args = [self.translator.decode(item, ()) for item in frame["args"]]
            kwargs = {str(name): self.translator.decode(item, ()) for name, item in frame["kwargs"].items()}
            operation = frame["op"]
        except (wire.WireError, KeyError, TypeError, ValueError, AttributeError):
            self._die("its callback cannot be read")
        try:
            result = _advance(value) if operation == "next" else _call(value, args, kwargs)
            return {"cb": frame["cb"], "ok": self.translator.encode(result)}
        except SubjectDied:
            raise
        except BaseException as error:  # whatever a callback raises belongs to the solution that called it
            return {"cb": frame["cb"], "exc": self.translator.describe_error(error)}

    # --- the pipe

    def _send(self, message: dict[str, Any]) -> None:
        try:
            data = wire.pack(message)
        except wire.WireError as error:
            raise wire.NotPlainError(str(error)) from error
        try:
            wire.send_bytes(self._send_fd, data)
        except OSError:
            self._die("its process ended")

    def _receive(self) -> dict[str, Any]:
        try:
            frame = wire.receive(self._receive_fd)
        except wire.WireError as error:
            self._die(f"it sent garbage ({error})")
        if frame is None:
            self._die("its process ended")
        return frame

    def _die(self, reason: str) -> NoReturn:
        self.dead = self.dead or f"the solution's process is lost: {reason}"
        raise SubjectDied(self.dead)


def _call(value: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    result = value(*args, **kwargs)
    if not inspect.iscoroutine(result):
        return result
    import asyncio  # half of a cold start, and needed by few tests

    return _in_thread(lambda: asyncio.run(result))


def _in_thread(work: Callable[[], Any]) -> Any:
    """Run a coroutine of the tests although a loop of theirs may be running in this thread."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((True, work()))
        except BaseException as error:  # handed to the waiting thread
            outcome.extend((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if outcome[0]:
        return outcome[1]
    raise outcome[1]


def _advance(iterator: Iterator[Any]) -> list[Any]:
    for item in iterator:
        return [item]
    return []


def write_back(old: Any, new: Any) -> None:
    """Give a mutable argument its new content in place, keeping inner containers that only changed inside."""
    if type(old) is not type(new):
        return
    match old:
        case list():
            items = cast("list[Any]", old)
            items[:] = [_merged(before, after) for before, after in zip(items, new, strict=False)] + new[len(items) :]
        case dict():
            mapping = cast("dict[Any, Any]", old)
            merged = {key: _merged(mapping.get(key), value) for key, value in new.items()}
            mapping.clear()
            mapping.update(merged)
        case set():
            cast("set[Any]", old).clear()
            cast("set[Any]", old).update(new)
        case bytearray():
            old[:] = new
        case _:
            return


def _merged(before: Any, after: Any) -> Any:
    if type(before) is type(after) and type(before) in (list, dict, set, bytearray):
        write_back(before, after)
        return before
    return after
