"""Device line, training pane and their dialogs, as a user sees them; every call goes to a fake that keeps a queue."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.fake_engine import START, FakeEngine, device, job, progress
from support.screen import SIZES, attached, lines, picture, raw_controls, shows, until

from engine.api_device import BackendName, DeviceState
from engine.api_models import RunState
from engine.errors import InputError, RuneError
from rune_tui.train_form import TrainForm, read_train_form

NOW = datetime(2026, 1, 1, 0, 0, 41, tzinfo=UTC)


def training() -> FakeEngine:
    """One job runs, two wait."""
    engine = FakeEngine()
    engine.device_now = device(
        state=DeviceState.TRAINING, reason="train-1 runs; llamacpp is asleep.", eta_seconds=95.0, waiting=3
    )
    engine.job_list = {
        "train-1": job("train-1", state=RunState.RUNNING, adapter_id="sort-v3", started_at=START),
        "train-2": job("train-2", position=1, adapter_id="second"),
        "train-3": job("train-3", position=2, adapter_id="third"),
    }
    return engine


# --- device line ---


@pytest.mark.parametrize("size", SIZES)
async def test_the_device_line_is_always_in_sight(size: tuple[int, int]) -> None:
    engine = training()
    async with attached(engine, size, now=lambda: NOW) as (app, pilot):
        for key in "1234":
            await pilot.press(key)
            await shows(pilot, "▲ training  llamacpp  ready in 1:35  3 waiting  12.0 of 23.5 GiB free")
            assert lines(app)[1].startswith(" ▲ training")
        engine.set_device(state=DeviceState.WAKING, reason="The model takes its memory back.", eta_seconds=2.0)
        await shows(pilot, "◐ model wakes  llamacpp  ready in 0:02")


async def test_the_eta_counts_down_by_itself() -> None:
    moments = iter(range(10_000))

    def later() -> datetime:
        return datetime.fromtimestamp(next(moments), UTC)

    async with attached(training(), now=later) as (app, pilot):
        await shows(pilot, "ready in 1:3")
        await until(pilot, lambda: "ready in 1:2" in picture(app))


async def test_a_fault_is_loud_and_can_be_looked_at_again() -> None:
    engine = FakeEngine()
    engine.device_now = device(state=DeviceState.FAULT, reason="pid 77 holds 3 GiB; end it.")
    async with attached(engine) as (_, pilot):
        await shows(pilot, "! fault  llamacpp")
        await shows(pilot, "pid 77 holds 3 GiB")
        await pilot.press("ctrl+p")
        await pilot.press(*"retry", "space", *"device", "enter")
        await shows(pilot, "● serving")


async def test_the_details_of_the_device() -> None:
    async with attached(training(), (120, 40)) as (_, pilot):
        await pilot.press("i")
        for text in ("train-1 runs; llamacpp is asleep.", "waiting", "epoch", "Backends", "no adapters"):
            await shows(pilot, text)


# --- an engine that is older than this terminal ---


@pytest.mark.parametrize("size", SIZES)
async def test_an_old_engine_has_neither_and_the_panes_say_so(size: tuple[int, int]) -> None:
    engine = FakeEngine()
    engine.old = True
    async with attached(engine, size) as (app, pilot):
        await shows(pilot, "this engine says nothing of its device")
        await pilot.press("3")
        await shows(pilot, "This engine has no training queue")
        for key, title in (("t", "Train"), ("b", "Backend"), ("i", "Device")):
            await pilot.press(key)
            await shows(pilot, f"{title}: this engine cannot")
        assert "● live" in picture(app)


# --- jobs ---


async def test_steps_show_as_they_come() -> None:
    engine = training()
    async with attached(engine, (200, 60), now=lambda: NOW) as (_, pilot):
        for step, loss in enumerate((3.0, 2.0, 1.0), 1):
            engine.step(progress("train-1", step=step, loss=loss))
        await pilot.press("3")
        for text in ("3/36", "1.000", "█▅▁", "1:20", "119", "1 running · 3/36 · 2 queued · 3 in all"):
            await shows(pilot, text)


async def test_a_job_from_elsewhere_appears() -> None:
    engine = training()
    async with attached(engine) as (_, pilot):
        await pilot.press("3")
        await shows(pilot, "third")
        engine.add_job(job("train-9", adapter_id="from-cli"))
        await shows(pilot, "from-cli")
        await shows(pilot, "queued #3")


async def test_the_queue_is_moved_by_keys() -> None:
    engine = training()
    async with attached(engine) as (app, pilot):
        await pilot.press("3", "down")
        await until(pilot, lambda: app.state.workshop.selected_job == "train-2")
        await pilot.press("J")
        await until(pilot, lambda: app.state.workshop.jobs["train-2"].position == 2)
        assert [one.id for one in app.state.workshop.ordered_jobs()] == ["train-1", "train-3", "train-2"]
        await shows(pilot, "Moved second.")
        await pilot.press("J")
        await shows(pilot, "Move down: it is the last")
        await pilot.press("K")
        await until(pilot, lambda: app.state.workshop.jobs["train-2"].position == 1)
        assert app.state.workshop.selected_job == "train-2"


async def test_cancel_asks_pause_resume_and_retry_do_not() -> None:
    engine = training()
    async with attached(engine) as (app, pilot):
        await pilot.press("3", "p")
        await until(pilot, lambda: engine.job_list["train-1"].state is RunState.INTERRUPTED)
        await shows(pilot, "paused")
        await pilot.press("c")
        await shows(pilot, "Cancel job: the job is interrupted.")
        await until(pilot, lambda: app.state.workshop.selected_job == "train-1")
        await pilot.press("r")
        await until(pilot, lambda: engine.job_list["train-1"].state is RunState.QUEUED)
        await until(pilot, lambda: app.state.workshop.jobs["train-1"].state is RunState.QUEUED)
        await pilot.press("c")
        await shows(pilot, "Stop the training of sort-v3?")
        await pilot.press("enter")
        await until(pilot, lambda: "Stop the training" not in picture(app))
        assert "cancel_job" not in engine.asked
        await pilot.press("c")
        await shows(pilot, "Stop the training of sort-v3?")
        await pilot.press("right", "enter")
        await until(pilot, lambda: app.state.workshop.jobs["train-1"].state is RunState.CANCELLED)
        await pilot.press("a")
        await until(pilot, lambda: engine.job_list["train-1"].state is RunState.QUEUED)
        assert {"pause_job", "resume_job", "cancel_job", "retry_job"} <= set(engine.asked)


async def test_the_keys_of_sessions_mean_jobs_in_this_pane_only() -> None:
    engine = training()
    async with attached(engine) as (app, pilot):
        await pilot.press("c")
        await shows(pilot, "Cancel: no session is selected")
        await pilot.press("3")
        await until(pilot, lambda: "Pause" in lines(app)[-1])
        assert "New task" not in lines(app)[-1] and "q Quit" in lines(app)[-1]
        await pilot.press("1")
        await until(pilot, lambda: "Pause" not in lines(app)[-1])


async def test_details_of_a_job() -> None:
    engine = training()
    engine.job_list["train-1"] = engine.job_list["train-1"].model_copy(update={"reason": "resumed once"})
    async with attached(engine, (120, 60)) as (_, pilot):
        engine.step(progress("train-1", step=1, loss=2.0))
        engine.step(progress("train-1", step=2, loss=1.0))
        await pilot.press("3", "enter")
        for text in ("Training job train-1", "resumed once", "2.000", "learning rate", "from trajectories"):
            await shows(pilot, text)


# --- train dialog ---


async def test_a_job_is_queued_only_after_its_preview_was_seen() -> None:
    engine = FakeEngine()
    async with attached(engine) as (app, pilot):
        await pilot.press("t")
        await shows(pilot, "Train an adapter on")
        await pilot.press("ctrl+s")
        for text in ("90, and 10 held out", "fits: 12.0 GiB are free", "llamacpp while it trains", "about 5:45"):
            await shows(pilot, text)
        await pilot.press("enter")  # Back has the focus
        await until(pilot, lambda: "This is what it would take" not in picture(app))
        assert engine.trained == []
        await shows(pilot, "Train an adapter on")  # with what was typed
        await pilot.press("ctrl+s")
        await shows(pilot, "about 5:45")
        await pilot.press("right", "enter")
        await shows(pilot, "Queued the training of")
        await pilot.press("3")
        await shows(pilot, "made-up-train-1")
        assert [request.from_trajectories for request in engine.trained] == [True]


async def test_a_job_that_does_not_fit_says_so() -> None:
    engine = FakeEngine()
    engine.preview = engine.preview.model_copy(update={"fits": False, "free_mib": 512})
    async with attached(engine) as (_, pilot):
        await pilot.press("t", "ctrl+s")
        await shows(pilot, "does not fit now: only 0.50")
        await shows(pilot, "Queue it anyway")


async def test_what_the_engine_refuses_is_said_and_there_is_no_yes() -> None:
    engine = FakeEngine()
    async with attached(engine) as (app, pilot):
        await pilot.press("t")
        await shows(pilot, "Train an adapter on")
        engine.fail_next = InputError("There is no [/foo] verified attempt to learn from.")
        await pilot.press("ctrl+s")
        await shows(pilot, "There is no [/foo] verified attempt")
        await pilot.press("right", "enter", "escape", "escape")
        assert engine.trained == [] and app.is_running


async def test_a_file_is_checked_before_the_engine_is_asked(tmp_path: Path) -> None:
    engine = FakeEngine()
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    async with attached(engine) as (app, pilot):
        await pilot.press("t", "right", "enter", "ctrl+s")
        await shows(pilot, "Give a file of examples")
        await pilot.press("tab")
        await pilot.press(*(("slash" if char == "/" else char) for char in "/nowhere"), "ctrl+s")
        await shows(pilot, "/nowhere is not a file.")
        app.screen.query_one("#dataset").value = str(file)  # pyright: ignore[reportAttributeAccessIssue]
        await pilot.press("ctrl+s")
        await shows(pilot, "about 5:45")


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (TrainForm(from_trajectories=False), "Give a file"),
        (TrainForm(from_trajectories=False, dataset="/proc"), "is not a file"),
        (TrainForm(from_trajectories=False, dataset="a\x00b"), "is not"),
        (TrainForm(max_steps="many"), "steps: 'many' is not a number"),
        (TrainForm(max_steps="0"), "steps:"),
        (TrainForm(max_steps="9" * 5000), "is not a number"),
        (TrainForm(adapter_id="../x"), "name:"),
        (TrainForm(warm_start="[/b]"), "start from:"),
    ],
)
def test_a_bad_form_is_one_sentence(form: TrainForm, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read_train_form(form)


def test_a_good_form(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("{}\n")
    request = read_train_form(TrainForm(False, str(file), " mine ", "quick", "30", ""))
    assert (request.dataset, request.adapter_id, request.preset, request.max_steps) == (str(file), "mine", "quick", 30)
    assert request.warm_start is None and not request.from_trajectories


# --- backend dialog (A33) ---


async def test_a_backend_that_has_no_adapters_says_so_before_it_is_tried() -> None:
    """A33."""
    engine = FakeEngine()
    async with attached(engine) as (app, pilot):
        await pilot.press("b")
        await shows(pilot, "○ ollama")
        await shows(pilot, "no adapters")
        await pilot.press("down", "down", "enter")
        await shows(pilot, "It cannot use adapters")
        await pilot.press("enter")  # Stay has the focus
        await until(pilot, lambda: "It cannot use adapters" not in picture(app))
        assert "use_backend" not in engine.asked
        await pilot.press("enter")
        await shows(pilot, "It cannot use adapters")
        await pilot.press("right", "enter")
        await shows(pilot, "ollama serves, after 1.5 s.")
        await shows(pilot, "not used: ollama has none")
        assert engine.device_now.backend is BackendName.OLLAMA


async def test_one_that_is_not_available_is_refused_with_its_reason() -> None:
    engine = FakeEngine()
    async with attached(engine) as (_, pilot):
        await pilot.press("b")
        await shows(pilot, "× vllm")
        await pilot.press("down", "enter")
        await shows(pilot, "vllm cannot be used: Not installed; run `rune-tui backend install")
        await pilot.press("up", "enter")  # the one that serves: nothing to do
        await until(pilot, lambda: "What shall serve" not in picture(pilot.app))
        assert "use_backend" not in engine.asked


@pytest.mark.parametrize("keys", ["b", "b down down down enter right enter", "t ctrl+s", "3 p", "3 d", "i"])
async def test_an_engine_that_raises_costs_one_sentence(keys: str) -> None:
    """T5: in each call of device and training, with hostile words."""
    engine = training()
    async with attached(engine) as (app, pilot):
        *first, last = keys.split()
        for key in first:
            await pilot.press(key)
            await pilot.pause()
        engine.fail_next = RuneError("[/foo] \x1b]52;c;eA==\x07 said no")
        await pilot.press(last)
        await shows(pilot, "[/foo]  said no")
        assert app.is_running and raw_controls(app) == []


async def test_hostile_words_of_device_and_jobs() -> None:
    """Reasons, notes and names are foreign: never markup, never control characters."""
    evil = "[/foo] [bold \x1b]52;c;eA==\x07\u202e\x00"
    engine = training()
    engine.device_now = device(reason=evil, id="cpu")
    engine.backend_list = tuple(info.model_copy(update={"reason": evil}) for info in engine.backend_list)
    engine.preview = engine.preview.model_copy(update={"note": evil, "asleep": (evil,)})
    changes = {"reason": evil, "adapter_id": evil, "metrics": {evil: evil}, "data_digest": evil}
    engine.job_list["train-2"] = engine.job_list["train-2"].model_copy(update=changes)
    async with attached(engine, (120, 40)) as (app, pilot):
        for keys in ("3 down", "d", "escape", "c", "escape", "b", "escape", "i", "escape", "t", "ctrl+s"):
            await pilot.press(*keys.split())
            await pilot.pause()
            assert raw_controls(app) == []
        await shows(pilot, "[/foo] [bold")
