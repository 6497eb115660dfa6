"""Long-running operations: evaluate, merge, evolve, improve and their like, as durable jobs with a result.

    POST ──► queued ──claim──► handler.run ──► succeeded with a result | failed with a reason
                ▲                   │
                └── engine died ────┘   the handler is called again; what it had done, it finds done

A kind has one handler and one worker, so two operations of one kind never run side by side. A handler is called again
after a crash with the same operation: it must be able to go on, which is easiest where each of its steps is stored
under a key of what it depends on.
"""

from __future__ import annotations

from typing import Protocol

from engine.api_learning import Operation
from engine.api_models import Frozen


class Progress(Protocol):
    """Tells how far an operation is; the ETA is made from it."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps; may be called as often as anything changes, few of the calls are stored."""
        ...


class Handler(Protocol):
    """Does the operations of one kind."""

    async def run(self, operation: Operation, progress: Progress) -> Frozen:
        """Do it, or what is left of it; gives the result.

        Cancelled when its user cancels the operation or the engine stops; nothing half made may be left to be seen.

        Raises:
            RuneError, RegistryError: it cannot be done; the sentence becomes the operation's reason.
        """
        ...
