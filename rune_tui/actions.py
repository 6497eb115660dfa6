"""One registry of actions: keys, footer, palette, help and the command line's spelling all come from here.

An action that cannot be done now stays where it is and says why: `refusal` gives that reason in plain words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.api_device import DeviceState
from engine.api_models import RunState
from engine.api_training import TrainJob
from rune_tui.state import LinkState, State

Refusal = Callable[[State], str | None]
"""Why the action cannot be done in this state; None means that it can."""


def _always(state: State) -> str | None:
    del state
    return None


def _connected(state: State) -> str | None:
    if state.link.state is not LinkState.LIVE:
        return "no engine is connected; it is tried again by itself"
    return None


def _with_session(state: State) -> str | None:
    if reason := _connected(state):
        return reason
    return None if state.selected_session else "no session is selected; press n to start a task"


def _can_cancel(state: State) -> str | None:
    if reason := _with_session(state):
        return reason
    session = state.selected_session
    assert session is not None
    if session.state in (RunState.QUEUED, RunState.RUNNING):
        return None
    return f"the session has already ended ({session.state})"


RESUMABLE = frozenset({RunState.CANCELLED, RunState.INTERRUPTED, RunState.FAILED})
"""States from which a session can go on."""


def _can_resume(state: State) -> str | None:
    if reason := _with_session(state):
        return reason
    session = state.selected_session
    assert session is not None
    if session.state in RESUMABLE:
        return None
    if session.state is RunState.SUCCEEDED:
        return "the session ran to its end; there is nothing left to do"
    return f"the session is {session.state}; only a stopped one can be resumed"


def _with_device(state: State) -> str | None:
    if reason := _connected(state):
        return reason
    return None if state.workshop.device_served else "this engine cannot do it: it is older than this terminal"


def _can_retry_device(state: State) -> str | None:
    if reason := _with_device(state):
        return reason
    device = state.workshop.device
    if device is None or device.state is DeviceState.FAULT:
        return None
    return "the device has no fault"


def _with_training(state: State) -> str | None:
    if reason := _connected(state):
        return reason
    return None if state.workshop.jobs_served else "this engine cannot train: it is older than this terminal"


def _with_job(state: State) -> str | None:
    if reason := _with_training(state):
        return reason
    return None if state.workshop.job else "no training job is selected; press t to queue one"


def _job_in(*states: RunState) -> Refusal:
    """The selected job must be in one of those states."""

    def refusal(state: State) -> str | None:
        if reason := _with_job(state):
            return reason
        job = state.workshop.job
        assert job is not None
        return None if job.state in states else f"the job is {job.state}"

    return refusal


def _can_move(step: int) -> Refusal:
    def refusal(state: State) -> str | None:
        if reason := _job_in(RunState.QUEUED)(state):
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


TRAINING_PANE = "training"
"""Id of the pane whose keys act on a training job."""


@dataclass(frozen=True)
class Action:
    """Something that the user can do."""

    id: str
    title: str
    keys: tuple[str, ...]
    """As Textual names them; the first is the one that the footer and the help show."""
    help: str
    cli: str = ""
    """The same on the command line, where it exists; SESSION and JOB stand for the id of the one under the cursor."""
    refusal: Refusal = _always
    in_footer: bool = False
    short: str = ""
    """Title in the footer, where the pane says what it is about."""
    pane: str = ""
    """Id of the pane in which the keys mean this; empty: everywhere."""


ACTIONS: tuple[Action, ...] = (
    Action(
        "new-task",
        "New task",
        ("n",),
        "Give the model a task: a prompt, tests if there are any, and how much of the pipeline it goes through.",
        "rune-tui --batch FILE",
        _connected,
        in_footer=True,
    ),
    Action(
        "cancel",
        "Cancel",
        ("c",),
        "Stop the selected session, after asking. It can be resumed.",
        "rune-tui sessions cancel SESSION",
        _can_cancel,
        in_footer=True,
    ),
    Action(
        "resume",
        "Resume",
        ("r",),
        "Let the selected session go on from its last finished step.",
        "rune-tui sessions resume SESSION",
        _can_resume,
        in_footer=True,
    ),
    Action(
        "details",
        "Details",
        ("d",),
        "Every attempt of the selected session: code, verdict, diagnosis. Enter on a session does the same.",
        "rune-tui sessions show SESSION",
        _with_session,
        in_footer=True,
    ),
    Action(
        "export",
        "Export",
        ("e",),
        "Write the log of the selected session to a file, as JSON Lines, CSV or Markdown.",
        "rune-tui export-log --session SESSION --format jsonl",
        _with_session,
        in_footer=True,
    ),
    Action(
        "train",
        "Train",
        ("t",),
        "Queue a training job; shows what it would take before it asks.",
        "rune-tui train --from-trajectories",
        _with_training,
        in_footer=True,
    ),
    Action(
        "backend",
        "Backend",
        ("b",),
        "Choose what serves the model; shows what each can do and why one cannot be used.",
        "rune-tui backend list",
        _with_device,
        in_footer=True,
    ),
    Action(
        "device",
        "Device",
        ("i",),
        "Who has the device, since when and why, and what its memory holds.",
        "rune-tui device",
        _with_device,
    ),
    Action("retry-device", "Retry device", (), "Look at a device with a fault again, now.", refusal=_can_retry_device),
    Action(
        "cancel-job",
        "Cancel job",
        ("c",),
        "Stop the selected training job, after asking. It can be resumed.",
        "rune-tui jobs cancel JOB",
        _job_in(RunState.QUEUED, RunState.RUNNING),
        in_footer=True,
        short="Cancel",
        pane=TRAINING_PANE,
    ),
    Action(
        "pause-job",
        "Pause",
        ("p",),
        "Take the selected training job out of the queue; a running one stops at a checkpoint.",
        "rune-tui jobs pause JOB",
        _job_in(RunState.QUEUED, RunState.RUNNING),
        in_footer=True,
        pane=TRAINING_PANE,
    ),
    Action(
        "resume-job",
        "Resume job",
        ("r",),
        "Let the selected training job go on from its last checkpoint, in its old place.",
        "rune-tui jobs resume JOB",
        _job_in(*RESUMABLE),
        in_footer=True,
        short="Resume",
        pane=TRAINING_PANE,
    ),
    Action(
        "retry-job",
        "Retry",
        ("a",),
        "Let the selected training job start over, in its old place.",
        "rune-tui jobs retry JOB",
        _job_in(*RESUMABLE),
        in_footer=True,
        pane=TRAINING_PANE,
    ),
    Action(
        "job-up",
        "Move up",
        ("K", "shift+up"),
        "Let the selected training job start one place earlier.",
        "rune-tui jobs move JOB PLACE",
        _can_move(-1),
        pane=TRAINING_PANE,
    ),
    Action(
        "job-down",
        "Move down",
        ("J", "shift+down"),
        "Let the selected training job start one place later.",
        "rune-tui jobs move JOB PLACE",
        _can_move(1),
        pane=TRAINING_PANE,
    ),
    Action(
        "job-details",
        "Job details",
        ("d",),
        "Losses, progress, recipe and result of the selected training job. Enter on a job does the same.",
        "rune-tui jobs show JOB",
        _with_job,
        in_footer=True,
        short="Details",
        pane=TRAINING_PANE,
    ),
    Action("tasks", "Tasks", ("1",), "Go to the task pipeline."),
    Action("adapters", "Adapters", ("2",), "Go to the adapter tree."),
    Action("training", "Training", ("3",), "Go to the training queue."),
    Action("lineage", "Lineage", ("4",), "Go to the evolution lineage."),
    Action("next-pane", "Next pane", ("tab",), "Go to the next pane."),
    Action("previous-pane", "Previous pane", ("shift+tab",), "Go to the previous pane."),
    Action(
        "output", "Output", ("o",), "Go to the streamed output of the selected session, to scroll in it; o returns."
    ),
    Action("refresh", "Refresh", ("ctrl+r", "f5"), "Read everything from the engine again, or try to reach it now."),
    Action("help", "Help", ("question_mark", "f1"), "Every key and what it does.", in_footer=True),
    Action("theme", "Theme", (), "Choose other colours."),
    Action(
        "quit",
        "Quit",
        ("q", "ctrl+q"),
        "Leave. The engine and everything that runs in it go on; start rune-tui again to come back.",
        in_footer=True,
    ),
)

BY_ID = {action.id: action for action in ACTIONS}

_KEY_NAMES = {"question_mark": "?"}


def key_names(action: Action) -> str:
    """Its keys as one reads them: `?, F1`."""
    return ", ".join(_key_name(key) for key in action.keys)


def _key_name(key: str) -> str:
    if key in _KEY_NAMES:
        return _KEY_NAMES[key]
    return key if len(key) == 1 else "+".join(part.capitalize() for part in key.split("+"))


def spelled(action: Action, state: State) -> str:
    """The command line that does the same for what is selected; empty where there is none."""
    cli = action.cli.replace("SESSION", state.selected or "SESSION")
    return cli.replace("JOB", state.workshop.selected_job or "JOB")
