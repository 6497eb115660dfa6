"""One registry: no key twice, every refusal in plain words."""

from __future__ import annotations

from collections import Counter

import pytest
from support.fake_engine import running, session, status

from engine.api_models import RunState
from engine.jobs import RESUMABLE as ENGINE_RESUMABLE
from rune_tui.actions import ACTIONS, BY_ID, RESUMABLE, key_names, spelled
from rune_tui.screens.help import help_rows
from rune_tui.screens.main import AdaptersPane, MainScreen, TrainingPane
from rune_tui.state import Item, Link, LinkState, Snapshot, State, apply_all, select


def state_with(*records: object, link: LinkState = LinkState.LIVE) -> State:
    items: list[Item] = [Snapshot(status(), records, ()), Link(link)]  # pyright: ignore[reportArgumentType]
    state = apply_all(State(), items)
    return select(state, next(iter(state.sessions), ""))


def refusal(action_id: str, state: State) -> str | None:
    return BY_ID[action_id].refusal(state)


def test_ids_and_keys_are_unique() -> None:
    keys = Counter((key, action.pane) for action in ACTIONS for key in action.keys)
    assert max(keys.values()) == 1
    assert len(BY_ID) == len(ACTIONS)


def test_the_screen_binds_exactly_the_registry() -> None:
    bindings = [*MainScreen.BINDINGS, *TrainingPane.BINDINGS, *AdaptersPane.BINDINGS]
    bound = {binding.id: binding.key.split(",") for binding in bindings}  # pyright: ignore[reportAttributeAccessIssue]
    assert bound == {action.id: list(action.keys) for action in ACTIONS if action.keys}


def test_help_names_every_action() -> None:
    said = "\n".join("".join(span.text for span in row.spans) for row in help_rows(State()))
    for action in ACTIONS:
        assert action.title in said and action.help in said and key_names(action) in said


def test_texts_are_plain() -> None:
    """The palette reads help as markup: ours has none."""
    assert not any("[" in action.help + action.title for action in ACTIONS)


@pytest.mark.parametrize("action_id", ["cancel", "resume", "details", "export"])
def test_nothing_selected(action_id: str) -> None:
    assert "no session is selected" in (refusal(action_id, state_with()) or "")


@pytest.mark.parametrize("action_id", ["new-task", "cancel", "resume", "details", "export"])
def test_not_connected(action_id: str) -> None:
    assert "no engine" in (refusal(action_id, state_with(running(), link=LinkState.RETRYING)) or "")


@pytest.mark.parametrize("run_state", list(RunState))
def test_cancel_and_resume_follow_the_state(run_state: RunState) -> None:
    state = state_with(session(state=run_state))
    assert (refusal("cancel", state) is None) == (run_state in (RunState.QUEUED, RunState.RUNNING))
    assert (refusal("resume", state) is None) == (run_state in RESUMABLE)


def test_resumable_is_what_the_engine_says() -> None:
    assert RESUMABLE == ENGINE_RESUMABLE


def test_moving_quitting_and_help_always_work() -> None:
    for action_id in ("tasks", "adapters", "training", "lineage", "help", "quit", "refresh", "next-pane"):
        assert refusal(action_id, State()) is None


def test_key_names_and_spelling() -> None:
    assert key_names(BY_ID["help"]) == "?, F1"
    assert key_names(BY_ID["quit"]) == "q, Ctrl+Q"
    assert spelled(BY_ID["cancel"], state_with(session("rune-1"))) == "rune-tui sessions cancel rune-1"
