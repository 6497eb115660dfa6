"""Asks a model server for many answers side by side: what whoever judges the answers and whoever keeps them share.

request ──► answer
   ├─ the device was handed over ──► the same again: these come minutes apart, so few are enough for hours
   ├─ too long for the model ──► once more, shortened
   └─ the server fails ──► the caller's: nothing is known of this one; too many in a row end it all
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from engine.errors import ContextOverflowError, ProviderError, RequestAbortedError
from engine.inference.admitted import Answered
from engine.inference.provider import Request

MAX_ABORTS = 8
"""So often one request is asked again after a handover of the device: these come minutes apart."""
TRIES = 2
"""Of an answer that the model server or the judge failed on."""
GIVE_UP_AFTER = 20
"""So many answers in a row that say nothing mean that no more will: the work fails, and can be resumed."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Answering(Protocol):
    """Asks whatever server serves (`engine.inference.admitted.AdmittedProvider`)."""

    async def answer(self, request: Request) -> Answered:
        """The whole answer, and what the server says about who gave it."""
        ...


async def ask(provider: Answering, request: Request, what: str) -> Answered:
    """The answer, asked for again after each handover of the device.

    Args:
        what: names the request in the log.

    Raises:
        RequestAbortedError: more than `MAX_ABORTS` times.
        ProviderError: as of `Answering`.
    """
    for _ in range(MAX_ABORTS):
        try:
            return await provider.answer(request)
        except RequestAbortedError as aborted:
            log.info("%s: %s Asked again.", what, aborted)
    return await provider.answer(request)


async def ask_fitting(provider: Answering, request: Callable[[bool], Request], what: str) -> Answered:
    """As `ask`; what is too long for the model is asked once more, shortened.

    Args:
        request: makes it; True: shortened.

    Raises:
        ContextOverflowError: it is too long even so.
    """
    try:
        return await ask(provider, request(False), what)
    except ContextOverflowError:
        return await ask(provider, request(True), what)


class Patience:
    """Counts answers that came to nothing; ends the work when it is in vain."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def renew(self) -> None:
        """An answer came."""
        self._in_a_row = 0

    def lose(self, reason: str) -> None:
        """An answer came to nothing.

        Raises:
            ProviderError: `GIVE_UP_AFTER` did in a row.
        """
        self._in_a_row += 1
        if self._in_a_row >= GIVE_UP_AFTER:
            raise ProviderError(f"{GIVE_UP_AFTER} answers in a row came to nothing; the last: {reason}")


async def side_by_side(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Do it for every item, `at_once` at a time; the first that fails ends all, and is raised as it is."""
    left = iter(items)

    async def worker() -> None:
        for item in left:  # shared: each takes the next
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(worker(), name=f"asking {number}")
    except BaseExceptionGroup as failures:
        raise _first(failures) from failures


def _first(failures: BaseException) -> BaseException:
    """The first failure itself, so that callers need not know about groups."""
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures
