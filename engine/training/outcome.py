"""What the end of a trainer child means. Pure.

    0 with its metrics      succeeded
    70 or 71                failed, with the reason that it said
    75 or 0 after our TERM  stopped: paused, cancelled or queued again, as its user wished
    a signal, silence, ...  crashed: queued again, to go on from the last checkpoint
    anything else           failed; the end of its log says more

The child is believed nothing but its exit status and its words.
"""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGKILL

from engine.device.contracts import TrainerEnd
from engine.device.guarded import Exit
from engine.training.ending import Ending
from engine.training.protocol import Metrics, TrainerExit


@dataclass
class Heard:
    """What an attempt has said so far."""

    steps: int = 0
    """That are done."""
    reason: str = ""
    """Why it cannot go on, in its own words."""
    metrics: Metrics | None = None
    complaint: str = ""
    """Why we ended it: it fell silent, or said what no trainer says."""
    asked: bool = False
    """We asked it to stop because somebody wanted that."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    ending: Ending
    reason: str = ""
    """One sentence; empty when it succeeded."""
    metrics: Metrics | None = None
    """Of a finished adapter. Also of one that was finished when it was stopped: it is published the next time."""
    unexplained: bool = False
    """The log may say more than the reason."""
    out_of_memory: bool = False
    """The kernel ended it before its first step, as it does when memory runs out."""

    def end(self, *, can_shrink: bool) -> TrainerEnd:
        """The same as the owner of the device wants to know it."""
        return TrainerEnd(self.ending is Ending.SUCCEEDED, self.reason, self.out_of_memory and can_shrink)


def outcome_of(ended: Exit, heard: Heard) -> Outcome:
    """How the attempt ended whose child ended so."""
    where = f"at step {heard.steps}" if heard.steps else "before its first step"
    if ended.code == TrainerExit.DONE and heard.metrics is not None and not heard.complaint:
        if heard.asked:
            return Outcome(Ending.STOPPED, "finished when it was stopped", heard.metrics)
        return Outcome(Ending.SUCCEEDED, metrics=heard.metrics)
    if heard.asked:
        return Outcome(Ending.STOPPED, f"stopped {where}")
    if heard.complaint:
        return Outcome(Ending.CRASHED, heard.complaint)
    match ended.code:
        case None | TrainerExit.STOPPED:
            starved = ended.signal is SIGKILL and heard.steps == 0
            return Outcome(Ending.CRASHED, f"The trainer {ended.reason} {where}.", out_of_memory=starved)
        case TrainerExit.OUT_OF_MEMORY:
            return Outcome(Ending.FAILED, heard.reason or "Memory ran out with one sequence at a time.")
        case TrainerExit.REFUSED if heard.reason:
            return Outcome(Ending.FAILED, heard.reason)
        case _:
            return Outcome(Ending.FAILED, f"The trainer {ended.reason} {where}", unexplained=True)
