"""When an action can be done, and the plain sentence that says why it cannot. Pure."""

from __future__ import annotations

from collections.abc import Callable

from engine.api_device import DeviceState
from engine.api_models import RunState
from engine.api_training import TrainJob
from rune_tui.state import LinkState, State

Refusal = Callable[[State], str | None]
"""Why the action cannot be done in this state; None means that it can."""


def always(state: State) -> str | None:
    """It always can."""
    del state
    return None


def connected(state: State) -> str | None:
    """An engine must answer."""
    if state.link.state is not LinkState.LIVE:
        return "no engine is connected; it is tried again by itself"
    return None


def with_session(state: State) -> str | None:
    """A session must be selected."""
    if reason := connected(state):
        return reason
    return None if state.selected_session else "no session is selected; press n to start a task"


def can_cancel(state: State) -> str | None:
    """The selected session must not have ended."""
    if reason := with_session(state):
        return reason
    session = state.selected_session
    assert session is not None
    if session.state in (RunState.QUEUED, RunState.RUNNING):
        return None
    return f"the session has already ended ({session.state})"


RESUMABLE = frozenset({RunState.CANCELLED, RunState.INTERRUPTED, RunState.FAILED})
"""States from which a session can go on."""


def can_resume(state: State) -> str | None:
    """The selected session must have stopped before its end."""
    if reason := with_session(state):
        return reason
    session = state.selected_session
    assert session is not None
    if session.state in RESUMABLE:
        return None
    if session.state is RunState.SUCCEEDED:
        return "the session ran to its end; there is nothing left to do"
    return f"the session is {session.state}; only a stopped one can be resumed"


def with_device(state: State) -> str | None:
    """The engine must tell of its device."""
    if reason := connected(state):
        return reason
    return None if state.workshop.device_served else "this engine cannot do it: it is older than this terminal"


def can_retry_device(state: State) -> str | None:
    """The device must have a fault."""
    if reason := with_device(state):
        return reason
    device = state.workshop.device
    if device is None or device.state is DeviceState.FAULT:
        return None
    return "the device has no fault"


def with_training(state: State) -> str | None:
    """The engine must have a training queue."""
    if reason := connected(state):
        return reason
    return None if state.workshop.jobs_served else "this engine cannot train: it is older than this terminal"


def with_job(state: State) -> str | None:
    """A training job must be selected."""
    if reason := with_training(state):
        return reason
    return None if state.workshop.job else "no training job is selected; press t to queue one"


def job_in(*states: RunState) -> Refusal:
    """The selected job must be in one of those states."""

    def refusal(state: State) -> str | None:
        if reason := with_job(state):
            return reason
        job = state.workshop.job
        assert job is not None
        return None if job.state in states else f"the job is {job.state}"

    return refusal


def can_move(step: int) -> Refusal:
    """There must be a place so many steps away in the queue."""

    def refusal(state: State) -> str | None:
        if reason := job_in(RunState.QUEUED)(state):
            return reason
        job = state.workshop.job
        assert job is not None
        if moved_to(state, job, step) is None:
            return "it is the first of the queue" if step < 0 else "it is the last of the queue"
        return None

    return refusal


def moved_to(state: State, job: TrainJob, step: int) -> int | None:
    """The place in the queue that is so many steps from the job's; None where there is none."""
    target = (job.position or 1) + step
    return target if 1 <= target <= state.workshop.queue_length() else None


def with_registry(state: State) -> str | None:
    """The engine must be one that keeps a history."""
    if reason := connected(state):
        return reason
    return None if state.registry.served else "this engine cannot do it: it is older than this terminal"


def with_adapter(state: State) -> str | None:
    """An adapter must be under the cursor."""
    if reason := with_registry(state):
        return reason
    return None if state.selected_adapter else "no adapter is selected; press 2 and go to one"


def with_adapter_in_use(state: State) -> str | None:
    """It must be one that can be served."""
    if reason := with_adapter(state):
        return reason
    adapter = state.selected_adapter
    assert adapter is not None
    if adapter.is_archived:
        return f"{adapter.id} is archived; press x to bring it back"
    return (
        f"{adapter.id} is quarantined: its files are not those that were published" if adapter.is_quarantined else None
    )


def can_roll_back(state: State) -> str | None:
    """The selected adapter's task type must have a champion, or had one before."""
    if reason := with_adapter(state):
        return reason
    adapter = state.selected_adapter
    assert adapter is not None
    roles = {f"{adapter.task_type}@champion", f"{adapter.task_type}@previous"}
    return None if roles & state.registry.aliases.keys() else f"{adapter.task_type} has no champion and had none"
