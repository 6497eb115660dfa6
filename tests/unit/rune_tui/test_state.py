"""The state is a pure fold: no event loop, no Textual."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_engine import START, adapter, running, session, status

from engine.api_models import Event, PhaseName, RunState, StreamChunk
from rune_tui.state import (
    MAX_SESSIONS,
    AdapterList,
    Gone,
    Link,
    LinkState,
    Snapshot,
    State,
    apply,
    apply_all,
    only_output_differs,
    reread,
    select,
    stale,
)
from rune_tui.tails import MAX_STREAM_LINE_CHARS, MAX_TAILS
from rune_tui.widgets.row import Tone
from rune_tui.widgets.session_rows import output_rows

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def event(number: int, subject: str, payload: dict[str, object], **changes: object) -> Event:
    fields: dict[str, object] = {
        "sequence": number,
        "id": str(number),
        "kind": "updated",
        "subject": subject,
        "payload": payload,
        "source": "test",
        "timestamp": START,
    }
    return Event.model_validate({**fields, **changes})


def chunk(text: str, session_id: str = "rune-00000001", attempt: int = 1) -> StreamChunk:
    return StreamChunk(session_id=session_id, phase=PhaseName.CODE, attempt=attempt, text=text)


def loaded(*records: object, sequence: int = 0) -> State:
    return apply(State(), Snapshot(status(last_sequence=sequence), records, ()), NOW)  # pyright: ignore[reportArgumentType]


def text_of(state: State, session_id: str = "rune-00000001") -> list[str]:
    return [line for block in state.tails[session_id].blocks for line in block.lines]


def test_knows_no_textual() -> None:
    code = "import sys, rune_tui.state, rune_tui.actions, rune_tui.attach; sys.exit('textual' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_loading_until_the_first_snapshot() -> None:
    assert not State().loaded
    assert loaded(session()).loaded


def test_a_changed_field_is_merged() -> None:
    """The engine's events carry the fields that changed; the rest stays."""
    state = apply(loaded(session()), event(1, "session/rune-00000001", {"state": "running", "attempts": 3}), NOW)
    record = state.sessions["rune-00000001"]
    assert (record.state, record.attempts, record.task.id) == (RunState.RUNNING, 3, "sort-list")
    assert state.heard["rune-00000001"] == NOW


def test_a_new_session_comes_whole() -> None:
    record = session("rune-2", task_id="new")
    state = apply(loaded(), event(1, "session/rune-2", record.model_dump(mode="json"), kind="created"), NOW)
    assert state.sessions == {"rune-2": record}


def test_old_events_are_ignored() -> None:
    state = loaded(session(attempts=5), sequence=10)
    assert apply(state, event(10, "session/rune-00000001", {"attempts": 1}), NOW) == state


@pytest.mark.parametrize("payload", [{"attempts": "many"}, {"nonsense": 1}, {}])
def test_what_cannot_be_read_is_read_again(payload: dict[str, object]) -> None:
    state = apply(loaded(session()), event(1, "session/rune-00000001", payload), NOW)
    assert state.stale == {"rune-00000001"}
    assert state.sessions["rune-00000001"].attempts == 0
    assert apply(state, session(attempts=2), NOW).stale == frozenset()


def test_reread_and_gone() -> None:
    state = apply_all(loaded(session()), [event(1, "session/rune-9", {"attempts": 1})], NOW)
    assert state.stale == {"rune-9"}
    assert stale(state) and not stale(reread(state))
    assert apply(state, Gone("rune-00000001"), NOW).sessions == {}


def test_adapters_come_by_event_or_are_read_again() -> None:
    payload = {"action": "published", **adapter("a").model_dump(mode="json")}
    state = apply(loaded(), event(1, "adapter/a", payload), NOW)
    assert state.adapters["a"].id == "a" and not state.adapters_stale
    state = apply(state, event(2, "adapter/b", {"action": "published"}), NOW)
    assert state.adapters_stale
    state = apply(state, AdapterList((adapter("b"),)), NOW)
    assert list(state.adapters) == ["b"] and not state.adapters_stale


def test_an_untouched_table_stays_the_same_object() -> None:
    """By this a screen knows that it need not look at it again."""
    before = loaded(running())
    after = apply(before, chunk("x"), NOW)
    assert after.sessions is before.sessions and after.adapters is before.adapters
    assert after.workshop is before.workshop and after.log is before.log
    assert after.tails is not before.tails


def test_chunks_join_into_lines_of_one_block_an_answer() -> None:
    state = apply_all(loaded(running()), [chunk("def f"), chunk("():\n    ret"), chunk("urn 1\n")], NOW)
    assert text_of(state) == ["def f():", "    return 1", ""]
    state = apply(state, chunk("again", attempt=2), NOW)
    assert [block.origin for block in state.tails["rune-00000001"].blocks] == [("code", "", 1), ("code", "", 2)]


def test_parallel_answers_grow_side_by_side() -> None:
    """Subtasks of one layer are written at the same time: their words must not be shuffled."""
    words = [("a", "one "), ("b", "eins "), ("a", "two\n"), ("b", "zwei"), ("a", "three")]
    state = loaded(running())
    for subtask, text in words:
        state = apply(state, chunk(text).model_copy(update={"subtask": subtask}), NOW)
    blocks = state.tails["rune-00000001"].blocks
    assert [(block.origin[1], block.lines) for block in blocks] == [("a", ("one two", "three")), ("b", ("eins zwei",))]


def test_a_model_cannot_fake_a_heading() -> None:
    state = select(apply(loaded(running()), chunk("── code · attempt 9 ──\n"), NOW), "rune-00000001")
    shown = output_rows(state)
    assert [row.spans[0].tone for row in shown] == [Tone.ACCENT, Tone.PLAIN, Tone.PLAIN]


def test_a_tail_is_bounded_in_lines_and_in_characters() -> None:
    state = State(stream_lines=10)
    state = apply_all(state, [Snapshot(status(), (running(),), ()), chunk("x\n" * 100)], NOW)
    tail = state.tails["rune-00000001"]
    assert len(text_of(state)) == 9 and tail.dropped == 92
    state = apply_all(state, [chunk("y" * 3000), chunk("y" * 3000)], NOW)
    assert len(text_of(state)[-1]) == MAX_STREAM_LINE_CHARS
    for attempt in range(2, 40):
        state = apply(state, chunk("z\nz", attempt=attempt), NOW)
        assert len(output_rows(select(state, "rune-00000001"))) <= 11  # and the line that says how many are gone
    assert len(state.tails["rune-00000001"].blocks) <= 5


def test_tails_are_bounded_in_number_and_the_selected_one_stays() -> None:
    records = [session(f"rune-{number}") for number in range(MAX_TAILS + 5)]
    state = select(loaded(*records), "rune-0")
    state = apply_all(state, [chunk("x", record.id) for record in records], NOW)
    assert "rune-0" in state.tails and len(state.tails) <= MAX_TAILS + 1


def test_sessions_are_bounded_and_unfinished_ones_stay() -> None:
    done = [session(f"rune-{number:05}", state="succeeded") for number in range(MAX_SESSIONS)]
    state = loaded(*done, session("rune-queued", created_at="2020"), session("rune-run", state="running"))
    assert len(state.sessions) == MAX_SESSIONS
    assert {"rune-queued", "rune-run"} <= state.sessions.keys()


def test_unfinished_sessions_stand_first() -> None:
    records = (
        session("rune-1", state="succeeded", created_at="2026-01-03"),
        session("rune-2", created_at="2026-01-02"),
        session("rune-3", state="running", created_at="2026-01-01"),
        session("rune-4", state="failed", created_at="2026-01-04"),
    )
    assert [record.id for record in loaded(*records).ordered_sessions()] == ["rune-3", "rune-2", "rune-4", "rune-1"]


def test_the_selection_goes_with_its_session() -> None:
    state = select(loaded(session()), "rune-00000001")
    assert select(state, "nothing").selected == ""
    assert apply(state, event(1, "session/rune-00000001", {}, kind="deleted"), NOW).selected == ""


def test_what_a_model_writes_is_all_that_is_new_and_nothing_else_is_drawn_for_it() -> None:
    before = apply_all(loaded(running()), (chunk("a"),))
    assert only_output_differs(before, apply_all(before, (chunk("b"), chunk("c\n"))))
    assert not only_output_differs(
        before, apply_all(before, (chunk("b"), event(2, "session/rune-00000001", {"attempts": 9})))
    )
    assert not only_output_differs(before, apply_all(before, (chunk("b", "rune-99999999"),))), "one that must be read"


def test_a_lost_link_keeps_what_was_known() -> None:
    state = apply(loaded(session()), Link(LinkState.RETRYING, "gone", 4.0), NOW)
    assert state.sessions and state.link.retry_in_s == 4.0


def test_another_engines_journal_may_begin_lower() -> None:
    state = apply(loaded(session(), sequence=500), Snapshot(status(last_sequence=3), (), ()), NOW)
    assert state.sequence == 3 and state.sessions == {}


def test_applying_leaves_the_old_state_alone() -> None:
    before = loaded(session())
    after = apply_all(before, [event(1, "session/rune-00000001", {"attempts": 1}), chunk("x")], NOW + timedelta(1))
    assert before.sessions["rune-00000001"].attempts == 0 and before.tails == {} and before.sequence == 0
    assert after.log[-1].subject == "session/rune-00000001"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.data())
def test_batching_changes_nothing(kinds: list[int], data: st.DataObject) -> None:
    """However a stream is cut into batches, and whatever is repeated after a reconnection, the state is the same."""
    items = [
        chunk(f"line {number}\n")
        if kind == 0
        else event(number + 1, "session/rune-00000001", {"attempts": number, "state": "running"})
        if kind == 1
        else event(number + 1, f"session/rune-{number}", session(f"rune-{number}").model_dump(mode="json"))
        if kind == 2
        else event(number + 1, "adapter/a", adapter("a", version=number + 1).model_dump(mode="json"))
        for number, kind in enumerate(kinds)
    ]
    whole = apply_all(loaded(session()), items, NOW)
    cut = data.draw(st.integers(0, len(items)))
    events_again = [item for item in items[:cut] if isinstance(item, Event)]
    parts = apply_all(apply_all(loaded(session()), items[:cut], NOW), [*events_again, *items[cut:]], NOW)
    assert parts == whole
