"""One registry of actions: keys, footer, palette, help and the command line's spelling all come from here.

An action that cannot be done now stays where it is and says why: `refusal` gives that reason in plain words.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.api_models import RunState
from rune_tui.action_rules import (
    RESUMABLE,
    Refusal,
    always,
    can_cancel,
    can_move,
    can_resume,
    can_retry_device,
    can_roll_back,
    connected,
    job_in,
    with_adapter,
    with_adapter_in_use,
    with_device,
    with_job,
    with_registry,
    with_session,
    with_training,
)
from rune_tui.state import State

TRAINING_PANE = "training"
"""Id of the pane whose keys act on a training job."""

ADAPTERS_PANE = "adapters"
"""Id of the pane whose keys act on an adapter."""


@dataclass(frozen=True)
class Action:
    """Something that the user can do."""

    id: str
    title: str
    keys: tuple[str, ...]
    """As Textual names them; the first is the one that the footer and the help show."""
    help: str
    cli: str = ""
    """The same on the command line, where it exists; SESSION, JOB, ADAPTER and TASK_TYPE stand for
    the one under the cursor."""
    refusal: Refusal = always
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
        connected,
        in_footer=True,
    ),
    Action(
        "cancel",
        "Cancel",
        ("c",),
        "Stop the selected session, after asking. It can be resumed.",
        "rune-tui sessions cancel SESSION",
        can_cancel,
        in_footer=True,
    ),
    Action(
        "resume",
        "Resume",
        ("r",),
        "Let the selected session go on from its last finished step.",
        "rune-tui sessions resume SESSION",
        can_resume,
        in_footer=True,
    ),
    Action(
        "details",
        "Details",
        ("d",),
        "Every attempt of the selected session: code, verdict, diagnosis. Enter on a session does the same.",
        "rune-tui sessions show SESSION",
        with_session,
        in_footer=True,
    ),
    Action(
        "export",
        "Export",
        ("e",),
        "Write the log of the selected session to a file, as JSON Lines, CSV or Markdown.",
        "rune-tui export-log --session SESSION --format jsonl",
        with_session,
        in_footer=True,
    ),
    Action(
        "train",
        "Train",
        ("t",),
        "Queue a training job; shows what it would take before it asks.",
        "rune-tui train --from-trajectories",
        with_training,
        in_footer=True,
    ),
    Action(
        "backend",
        "Backend",
        ("b",),
        "Choose what serves the model; shows what each can do and why one cannot be used.",
        "rune-tui backend list",
        with_device,
        in_footer=True,
    ),
    Action(
        "device",
        "Device",
        ("i",),
        "Who has the device, since when and why, and what its memory holds.",
        "rune-tui device",
        with_device,
    ),
    Action("retry-device", "Retry device", (), "Look at a device with a fault again, now.", refusal=can_retry_device),
    Action(
        "cancel-job",
        "Cancel job",
        ("c",),
        "Stop the selected training job, after asking. It can be resumed.",
        "rune-tui jobs cancel JOB",
        job_in(RunState.QUEUED, RunState.RUNNING),
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
        job_in(RunState.QUEUED, RunState.RUNNING),
        in_footer=True,
        pane=TRAINING_PANE,
    ),
    Action(
        "resume-job",
        "Resume job",
        ("r",),
        "Let the selected training job go on from its last checkpoint, in its old place.",
        "rune-tui jobs resume JOB",
        job_in(*RESUMABLE),
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
        job_in(*RESUMABLE),
        in_footer=True,
        pane=TRAINING_PANE,
    ),
    Action(
        "job-up",
        "Move up",
        ("K", "shift+up"),
        "Let the selected training job start one place earlier.",
        "rune-tui jobs move JOB PLACE",
        can_move(-1),
        pane=TRAINING_PANE,
    ),
    Action(
        "job-down",
        "Move down",
        ("J", "shift+down"),
        "Let the selected training job start one place later.",
        "rune-tui jobs move JOB PLACE",
        can_move(1),
        pane=TRAINING_PANE,
    ),
    Action(
        "job-details",
        "Job details",
        ("d",),
        "Losses, progress, recipe and result of the selected training job. Enter on a job does the same.",
        "rune-tui jobs show JOB",
        with_job,
        in_footer=True,
        short="Details",
        pane=TRAINING_PANE,
    ),
    Action(
        "promote",
        "Promote",
        ("p",),
        "Show what promoting the selected adapter would rest on; promote it, or have measured what is missing.",
        "rune-tui promote ADAPTER",
        with_adapter_in_use,
        in_footer=True,
        pane=ADAPTERS_PANE,
    ),
    Action(
        "merge",
        "Merge",
        ("m",),
        "Make one adapter of the selected one and others.",
        "rune-tui merge --method ties ADAPTER OTHER",
        with_adapter_in_use,
        in_footer=True,
        pane=ADAPTERS_PANE,
    ),
    Action(
        "evaluate",
        "Evaluate",
        ("v",),
        "Measure the selected adapter on a suite.",
        "rune-tui evaluate --adapter ADAPTER --suite SUITE",
        with_adapter_in_use,
        in_footer=True,
        pane=ADAPTERS_PANE,
    ),
    Action(
        "archive",
        "Archive",
        ("x",),
        "Take the selected adapter out of use, after asking; an archived one comes back. Nothing is deleted.",
        "rune-tui prune ADAPTER",
        with_adapter,
        in_footer=True,
        pane=ADAPTERS_PANE,
    ),
    Action(
        "rollback",
        "Roll back",
        ("R",),
        "Put the champion before this one of the selected adapter's task type back, after asking.",
        "rune-tui rollback TASK_TYPE",
        can_roll_back,
        pane=ADAPTERS_PANE,
    ),
    Action(
        "undo",
        "Undo",
        ("z",),
        "Take back the newest change of the registry, after showing it; also one from before a restart.",
        "rune-tui undo",
        with_registry,
    ),
    Action(
        "redo",
        "Redo",
        ("Z",),
        "Do the last undone change of the registry again, after showing it.",
        "rune-tui redo",
        with_registry,
    ),
    Action(
        "history",
        "History",
        ("h",),
        "Every change of the registry, newest first, with what was before it.",
        "rune-tui history",
        with_registry,
    ),
    Action(
        "improve",
        "Improve",
        ("I",),
        "Rounds of a suite: run its tasks, learn from what was verified, prove the gain, put it to use.",
        "rune-tui improve --suite SUITE --rounds 1",
        with_registry,
    ),
    Action(
        "operations",
        "Operations",
        ("w",),
        "What takes long: how far it is, how long it will take, what came of it; stop it or let it go on.",
        "rune-tui operations list",
        with_registry,
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
    adapter = state.selected_adapter
    names = {
        "SESSION": state.selected,
        "JOB": state.workshop.selected_job,
        "ADAPTER": adapter.id if adapter else "",
        "TASK_TYPE": adapter.task_type if adapter else "",
    }
    return " ".join(names.get(word) or word for word in action.cli.split(" "))
