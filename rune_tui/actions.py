"""One registry of actions: keys, footer, palette, help and the command line's spelling all come from here.

An action that cannot be done now stays where it is and says why: `refusal` gives that reason in plain words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.api_models import RunState
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


@dataclass(frozen=True)
class Action:
    """Something that the user can do."""

    id: str
    title: str
    keys: tuple[str, ...]
    """As Textual names them; the first is the one that the footer and the help show."""
    help: str
    cli: str = ""
    """The same on the command line, where it exists; SESSION stands for a session's id."""
    refusal: Refusal = _always
    in_footer: bool = False


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
    """The command line that does the same for the selected session; empty where there is none."""
    return action.cli.replace("SESSION", state.selected) if state.selected else action.cli
