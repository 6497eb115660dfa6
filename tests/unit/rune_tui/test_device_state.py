"""What the terminal knows of device and training is a pure fold, and so is what the panes say of it."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_engine import BACKENDS, PREVIEW, START, device, job, progress, status

from engine.api_device import BackendName, DeviceState
from engine.api_models import Event, RunState
from engine.api_training import TrainJob
from rune_tui.action_rules import moved_to
from rune_tui.device_state import (
    MAX_LOSSES,
    BackendList,
    Curve,
    DeviceRead,
    JobList,
    device_eta_s,
    job_eta_s,
    reread_workshop,
)
from rune_tui.state import Item, Snapshot, State, apply_all, reread, select_training, stale
from rune_tui.widgets.device_rows import (
    adapters_unused,
    backend_rows,
    device_details,
    device_spans,
    free_memory,
    switch_question,
)
from rune_tui.widgets.job_rows import (
    SPARK_WIDTH,
    chart_rows,
    job_activity,
    job_details,
    job_rows,
    loss_text,
    preview_rows,
    sparkline,
)
from rune_tui.widgets.row import Row, Span

NOW = datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def event(number: int, subject: str, payload: dict[str, object], kind: str = "updated") -> Event:
    return Event.model_validate(
        {
            "sequence": number,
            "id": str(number),
            "kind": kind,
            "subject": subject,
            "payload": payload,
            "source": "test",
            "timestamp": START,
        }
    )


def loaded(*jobs: TrainJob, **changes: object) -> State:
    return apply_all(State(), [Snapshot(status(), (), (), device(**changes), jobs)], NOW)


def after(state: State, *items: Item, later_s: float = 0.0) -> State:
    return apply_all(state, items, NOW + timedelta(seconds=later_s))


def said(rows: list[Row]) -> str:
    return "\n".join("".join(span.text for span in row.spans) for row in rows)


def line(spans: tuple[Span, ...]) -> str:
    return "".join(span.text for span in spans)


# --- device ---


def test_an_engine_without_these_routes_says_so_and_nothing_fails() -> None:
    state = apply_all(State(), [Snapshot(status(), (), ())], NOW)
    assert not state.workshop.device_served and not state.workshop.jobs_served
    assert "older than this terminal" in line(device_spans(state, NOW))
    assert "older than this terminal" in said(device_details(state.workshop, NOW))


def test_a_device_event_is_the_whole_status_and_what_is_not_is_read_again() -> None:
    state = after(
        loaded(), event(1, "device/cpu", device(state=DeviceState.WAKING, eta_seconds=12.0).model_dump(mode="json"))
    )
    assert state.workshop.device is not None and state.workshop.device.state is DeviceState.WAKING
    broken = after(state, event(2, "device/cpu", {"state": "dancing"}))
    assert stale(broken).device and broken.workshop.device == state.workshop.device
    assert not stale(reread(broken)) and not stale(after(broken, DeviceRead(device())))


def test_the_eta_counts_down_from_when_it_was_said_and_never_below_zero() -> None:
    state = loaded(state=DeviceState.DRAINING, eta_seconds=10.0)
    left = [device_eta_s(state.workshop, NOW + timedelta(seconds=passed)) for passed in (0, 4, 60)]
    assert left == [10.0, 6.0, 0.0]
    assert device_eta_s(loaded().workshop, NOW) is None
    assert device_eta_s(loaded(state=DeviceState.COLD, eta_seconds=0.0).workshop, NOW) is None
    assert state.workshop.ticks and not loaded().workshop.ticks


@pytest.mark.parametrize("name", list(DeviceState))
def test_every_state_has_words_and_the_reason_is_said(name: DeviceState) -> None:
    state = loaded(state=name, reason="Because.", eta_seconds=65.0, waiting=2)
    text = line(device_spans(state, NOW))
    for part in ("llamacpp", "ready in 1:05", "2 waiting", "12.0 of 23.5 GiB free", "Because."):
        assert part in text
    assert "Because." in said(device_details(state.workshop, NOW))


def test_no_two_states_look_the_same() -> None:
    """No colour needed: mark and words tell them apart."""
    texts = {line(device_spans(loaded(state=name), NOW)) for name in DeviceState}
    assert len(texts) == len(DeviceState)


def test_memory_is_said_in_one_unit() -> None:
    assert free_memory(device(free_mib=512, total_mib=1024)) == "0.50 of 1.0 GiB free"
    assert free_memory(device(free_mib=2048, total_mib=None)) == "2.0 GiB free"
    assert free_memory(device(free_mib=None)) == "unknown"


# --- backends (A33) ---


def test_a_backend_without_adapters_says_so_in_the_list_in_the_question_and_on_the_pane() -> None:
    """A33: before it is tried, and while it serves."""
    state = after(loaded(adapters=("ab", "cd"), in_flight=3), BackendList(BACKENDS))
    ollama = state.workshop.backends["ollama"]
    rows = {row.key: said([row]) for row in backend_rows(state.workshop, BACKENDS)}
    assert "no adapters" in rows["ollama"] and "no adapters" not in rows["llamacpp"]
    assert "in use" in rows["llamacpp"] and "rune-tui backend install vllm" in rows["vllm"]
    question = switch_question(state.workshop, ollama)
    assert "cannot use adapters" in question and "the 2 that are loaded" in question and "3 requests" in question
    assert "adapters" not in switch_question(state.workshop, state.workshop.backends["scripted"])
    assert adapters_unused(state.workshop) == ""
    switched = after(state, DeviceRead(device(backend=BackendName.OLLAMA)))
    assert "not used: ollama" in adapters_unused(switched.workshop)


def test_a_switch_during_training_says_that_it_waits() -> None:
    state = loaded(state=DeviceState.TRAINING)
    assert "waits for its end" in switch_question(state.workshop, BACKENDS[3])


# --- jobs ---


def test_jobs_of_sessions_are_not_for_here() -> None:
    state = after(loaded(), event(1, "job/rune-1", {"kind": "session", "state": "running"}))
    state = after(state, event(2, "job/rune-1", {"state": "running"}))
    assert state.workshop.jobs == {} and not stale(state)


def test_a_job_comes_whole_changes_by_fields_and_the_places_are_read_again() -> None:
    state = after(loaded(), event(1, "training/t", job("t", position=1).model_dump(mode="json"), kind="created"))
    assert state.workshop.jobs["t"].position == 1 and stale(state).jobs
    state = after(reread(state), event(2, "training/t", {"state": "running", "position": None, "place": 2.5}))
    assert state.workshop.jobs["t"].state is RunState.RUNNING and stale(state).jobs
    state = after(reread(state), event(3, "job/t", {"state": "failed", "reason": "no"}))
    assert state.workshop.jobs["t"].reason == "no"
    assert after(state, JobList((job("u"),))).workshop.jobs.keys() == {"u"}


@pytest.mark.parametrize("payload", [{"state": "asleep"}, {"step": 1, "loss": "low"}])
def test_what_cannot_be_read_is_read_again(payload: dict[str, object]) -> None:
    state = after(loaded(job("t")), event(1, "training/t", payload))
    assert stale(state).jobs and state.workshop.jobs["t"] == job("t")


def test_steps_move_the_progress_and_draw_the_curve_without_another_read() -> None:
    state = loaded(job("t", state=RunState.RUNNING))
    losses = (3.0, 2.0, 1.0)
    items = [
        event(number, "training/t", progress("t", step=number, loss=loss).model_dump(mode="json"))
        for number, loss in enumerate(losses, 1)
    ]
    state = after(state, *items)
    assert not stale(state)
    assert state.workshop.curves["t"].losses == losses
    known = state.workshop.jobs["t"]
    assert known.progress is not None and known.progress.step == 3
    assert job_eta_s(state.workshop, known, NOW + timedelta(seconds=30)) == 50.0
    text = said(job_rows(state.workshop, 120, NOW))
    assert "3/36" in text and "1.000" in text and "█▅▁" in text and "1:20" in text
    activity = line(job_activity(select_training(state, "t").workshop, NOW))
    assert "step 3/36" in activity and "held out 1.500" in activity and "119 tok/s" in activity


def test_a_step_of_an_unknown_job_is_no_error() -> None:
    state = after(loaded(), event(1, "training/t", progress("t").model_dump(mode="json")))
    assert stale(state).jobs and state.workshop.jobs == {}
    assert after(state, JobList((job("t"),))).workshop.curves["t"].losses == (1.234,)


def test_the_running_one_stands_first_then_the_queue_then_the_newest() -> None:
    jobs = (
        job("old", state=RunState.SUCCEEDED, finished_at="2026-01-01"),
        job("new", state=RunState.FAILED, finished_at="2026-01-02"),
        job("second", position=2),
        job("paused", state=RunState.INTERRUPTED, reason="paused"),
        job("first", position=1),
        job("now", state=RunState.RUNNING),
    )
    state = loaded(*jobs)
    assert [one.id for one in state.workshop.ordered_jobs()] == ["now", "first", "second", "paused", "new", "old"]
    assert state.workshop.selected_job == "now"
    assert select_training(state, "old").workshop.selected_job == "old"
    shown = said(job_rows(state.workshop, 120, NOW))
    assert "queued #1" in shown and "paused" in shown


def test_a_selected_job_that_goes_leaves_the_cursor_to_another() -> None:
    state = after(select_training(loaded(job("a"), job("b")), "b"), JobList((job("a"),)))
    assert state.workshop.selected_job == "a"


def test_places_of_the_queue() -> None:
    state = loaded(job("a", position=1), job("b", position=2))
    first, last = state.workshop.jobs["a"], state.workshop.jobs["b"]
    assert [moved_to(state, first, -1), moved_to(state, first, 1)] == [None, 2]
    assert [moved_to(state, last, -1), moved_to(state, last, 1)] == [1, None]


def test_reread_forgets_nothing_else() -> None:
    workshop = loaded(job("a")).workshop
    assert reread_workshop(workshop) == workshop


# --- curves ---


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=40), st.integers(1, 60))
def test_a_sparkline_is_never_wider_and_gaps_never_move_the_others(losses: list[float], width: int) -> None:
    text = sparkline(tuple(losses), width)
    assert len(text) == min(width, len(losses))
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(losses) <= width:
        assert [char == " " for char in text] == [not math.isfinite(loss) for loss in losses]
        clean = sparkline(tuple(finite), width)
        assert "".join(char for char in text if char != " ") == clean


def test_a_curve_goes_down_where_the_loss_does() -> None:
    assert sparkline((4.0, 3.0, 2.0, 1.0), SPARK_WIDTH) == "█▆▃▁"
    assert sparkline((2.0, 2.0), SPARK_WIDTH) == "▁▁"
    shown = chart_rows((1.0, 2.0), 40)
    assert "2.000" in said(shown[:1]) and "1.000" in said(shown[-1:])
    assert "no step" in said(chart_rows((math.nan,), 40))


@given(st.integers(0, 5_000))
def test_a_curve_is_bounded_and_keeps_its_mean(count: int) -> None:
    curve = Curve()
    for number in range(count):
        curve = curve.added(float(number))
    assert len(curve.losses) <= MAX_LOSSES
    whole = [point * curve.stride for point in curve.points] + list(curve.rest)
    assert sum(whole) == pytest.approx(sum(range(count)))


def test_losses_in_words() -> None:
    words = [loss_text(loss) for loss in (1.23456, None, math.nan, math.inf, 123456.0)]
    assert words == ["1.235", "", "NaN", "inf", "123456"]


# --- texts ---


def test_a_preview_says_what_it_takes() -> None:
    text = said(preview_rows(PREVIEW))
    for part in ("90, and 10 held out", "36", "1.5 GiB at its peak", "fits: 12.0 GiB", "llamacpp while it trains"):
        assert part in text
    assert "about 5:45" in text
    tight = said(preview_rows(PREVIEW.model_copy(update={"fits": False, "free_mib": 900, "seconds": None})))
    assert "does not fit now: only 0.88 GiB" in tight and "nothing like it was ever run here" in tight


def test_details_have_all_that_is_known() -> None:
    known = job("t", state=RunState.SUCCEEDED, progress=progress("t"), metrics={"held_out_loss": 0.5}, reason="why")
    text = said(job_details(known, Curve((2.0, 1.0)), 80))
    for part in ("adapter-t", "why", "held out loss", "0.5", "from trajectories", "grad norm"):
        assert part in text
