"""How a claimed attempt of a training job ends, and which state follows. Pure.

A wish of the user decides before anything that went wrong does:

    ending       cancel asked   pause asked             neither
    succeeded    succeeded      succeeded               succeeded
    failed       cancelled      failed                  failed
    stopped      cancelled      interrupted (paused)    queued again
    crashed      cancelled      interrupted (paused)    queued again, or interrupted after `MAX_CRASHES`
"""

from __future__ import annotations

from enum import StrEnum

from engine.api_models import RunState


class Ending(StrEnum):
    """How a claimed attempt ended, whatever its user wished."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """The same again would end the same."""
    STOPPED = "stopped"
    """It was asked to stop and can be continued."""
    CRASHED = "crashed"
    """It ended without being asked and can be continued."""


def decide(ending: Ending, *, cancel: bool, pause: bool) -> RunState | None:
    """The state that follows: the table above. None: give the attempt up, so that another follows."""
    match ending:
        case Ending.SUCCEEDED:
            return RunState.SUCCEEDED
        case _ if cancel:
            return RunState.CANCELLED
        case Ending.FAILED:
            return RunState.FAILED
        case _ if pause:
            return RunState.INTERRUPTED
        case Ending.STOPPED | Ending.CRASHED:
            return None
