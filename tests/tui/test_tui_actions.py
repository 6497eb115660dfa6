"""What a user does: start, cancel, resume, read, export; every engine failure is one plain sentence (T5)."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from support.fake_engine import FakeEngine, attempt, running, session
from support.screen import attached, picture, shows, until
from textual.pilot import Pilot

from engine.api_models import FINAL_STATES, RunState, TaskMode, TaskSpec
from engine.errors import ConflictError, InputError, RuneError
from rune_tui.actions import ACTIONS
from rune_tui.task_form import TaskForm, read_form


def with_attempts(**options: object) -> FakeEngine:
    engine = FakeEngine((running(),), **options)
    engine.attempts["rune-00000001"] = (attempt(), attempt(number=2, passed=True, diagnosis=""))
    return engine


async def type_in(pilot: Pilot[None], text: str) -> None:
    await pilot.press(*(("space" if char == " " else char) for char in text))


async def test_a_new_task_is_started_and_selected() -> None:
    engine = FakeEngine((session("rune-old", task_id="old"),))
    async with attached(engine) as (app, pilot):
        await pilot.press("n")
        await shows(pilot, "New task: what shall the code do?")
        await type_in(pilot, "Add two numbers")
        await pilot.press("ctrl+s")
        await shows(pilot, "add-two-numbers-")
        created = next(record for record in engine.records.values() if record.id != "rune-old")
        assert created.task.prompt == "Add two numbers" and created.task.mode is TaskMode.PROJECT
        assert app.state.selected == created.id


async def test_a_form_says_what_is_wrong_and_stays() -> None:
    engine = FakeEngine()
    async with attached(engine) as (_, pilot):
        await pilot.press("n", "ctrl+s")
        await shows(pilot, "the prompt is empty")
        await type_in(pilot, "x")
        await pilot.press("tab", "tab")
        await type_in(pilot, "missing.py")
        await pilot.press("ctrl+s")
        await shows(pilot, "cannot be read: No such file")
        await pilot.press("escape")
        await until(pilot, lambda: "New task: what" not in picture(pilot.app))
        assert engine.records == {}


async def test_mode_is_chosen_with_the_keyboard() -> None:
    engine = FakeEngine()
    async with attached(engine) as (_, pilot):
        await pilot.press("n")
        await type_in(pilot, "x")
        await pilot.press("tab", "tab", "tab", "right", "enter", "ctrl+s")
        await until(pilot, lambda: engine.records)
        assert next(iter(engine.records.values())).task.mode is TaskMode.ATTEMPT


def test_tests_come_from_text_or_file(tmp_path: Path) -> None:
    file = tmp_path / "tests.py"
    file.write_text("assert f() == 1\n")
    assert read_form(TaskForm("p", tests_file=str(file))).tests == "assert f() == 1\n"
    assert read_form(TaskForm("p", tests="assert f()")).tests == "assert f()"
    task = read_form(TaskForm("Write f: é [/foo]!", mode=TaskMode.ATTEMPT), suffix="00ff")
    assert (task.id, task.tests) == ("write-f-foo-00ff", None)


@pytest.mark.parametrize(
    ("form", "said"),
    [
        (TaskForm("  "), "prompt is empty"),
        (TaskForm("p", tests="x", tests_file="y"), "not both"),
        (TaskForm("p", tests_file="/proc/self"), "is not a file"),
        (TaskForm("p", tests_file="/dev/null"), "is not a file"),
        (TaskForm("p", tests_file="a\x00b"), "not a path"),
        (TaskForm("p", tests_file="binary"), "not UTF-8"),
        (TaskForm("p", tests_file="empty"), "is empty"),
        (TaskForm("p", tests_file="huge"), "larger than"),
    ],
)
def test_a_bad_form_is_explained(form: TaskForm, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("binary").write_bytes(b"\xff\xfe")
    Path("empty").write_text("\n")
    Path("huge").write_text("x" * 1_000_001)
    with pytest.raises(InputError, match=said):
        read_form(form)


async def test_cancel_asks_and_enter_means_no() -> None:
    engine = with_attempts()
    async with attached(engine) as (_, pilot):
        await pilot.press("c")
        await shows(pilot, "Stop sort-list?")
        await pilot.press("enter", "enter")
        await until(pilot, lambda: "Stop sort-list?" not in picture(pilot.app))
        assert "cancel_session" not in engine.asked
        await pilot.press("escape")
        await pilot.press("c")
        await shows(pilot, "Stop sort-list?")
        await pilot.press("right", "enter")
        await shows(pilot, "cancelled")
        assert engine.records["rune-00000001"].state is RunState.CANCELLED


async def test_resume_a_cancelled_session() -> None:
    engine = FakeEngine((session(state=RunState.CANCELLED),))
    async with attached(engine) as (_, pilot):
        await pilot.press("r")
        await shows(pilot, "queued")
        assert engine.records["rune-00000001"].state is RunState.QUEUED


async def test_what_cannot_be_done_says_why() -> None:
    async with attached(FakeEngine((session(state="succeeded", outcome="failed"),))) as (_, pilot):
        await pilot.press("c")
        await shows(pilot, "Cancel: the session")
        await pilot.press("r")
        await shows(pilot, "Resume: the session")


async def test_details_show_code_verdict_and_diagnosis() -> None:
    async with attached(with_attempts(), (120, 40)) as (_, pilot):
        await pilot.press("enter")
        for text in (
            "✗ attempt 1",
            "def sort(items):",
            "ran 2 · failed 1",
            "expected [1, 2]",
            "diagnosis",
            "✓ attempt 2",
        ):
            await shows(pilot, text)
        await pilot.press("right_square_bracket", "left_square_bracket", "escape")
        await shows(pilot, "1 Tasks")


async def test_export_writes_all_three_formats(tmp_path: Path) -> None:
    async with attached(with_attempts(), export_directory=tmp_path) as (_, pilot):
        for moves, name in (((), "jsonl"), (("right", "enter"), "csv"), (("right", "right", "enter"), "md")):
            await pilot.press("e")
            await shows(pilot, "Export the log of rune-00000001")
            await pilot.press("shift+tab", *moves, "ctrl+s")
            await until(pilot, (tmp_path / f"rune-00000001.{name}").exists)
            await until(pilot, lambda: "Export the log" not in picture(pilot.app))
        rows = [json.loads(line) for line in (tmp_path / "rune-00000001.jsonl").read_text().splitlines()]
        assert [row["number"] for row in rows] == [1, 2]
        assert len(list(csv.DictReader(io.StringIO((tmp_path / "rune-00000001.csv").read_text())))) == 2
        assert "def sort(items):" in (tmp_path / "rune-00000001.md").read_text()
        await pilot.press("e", "ctrl+s")
        await shows(pilot, "is already there; give another name")


async def test_export_to_a_missing_folder_is_refused(tmp_path: Path) -> None:
    async with attached(with_attempts(), export_directory=tmp_path / "none") as (_, pilot):
        await pilot.press("e", "enter")
        await shows(pilot, "is not there.")


FAILURES = (
    RuneError("The engine said no."),
    ConflictError("It is [/foo] in the wrong state."),
    ValueError("not foreseen"),
    RuntimeError("\x1b]52;c;x\x07[bold"),
)


@pytest.mark.parametrize(
    ("keys", "error"),
    list(zip(["c right enter", "d", "e ctrl+s", "n x ctrl+s"], FAILURES, strict=True)),
    ids=["cancel", "details", "export", "create"],
)
async def test_an_engine_that_raises_costs_one_sentence(keys: str, error: Exception, tmp_path: Path) -> None:
    """T5: in each call that the user starts."""
    engine = with_attempts()
    async with attached(engine, export_directory=tmp_path) as (app, pilot):
        *first, last = keys.split()
        await pilot.press(*first)
        await pilot.pause()
        engine.fail_next = error
        await pilot.press(last)
        said = str(error).split("]52")[0].replace("\x1b", "")[:20] or "RuntimeError"
        await shows(pilot, said)
        assert app.is_running
        await pilot.press("escape")


async def test_resume_that_fails_is_said() -> None:
    engine = FakeEngine((session(state=RunState.CANCELLED),))
    async with attached(engine) as (app, pilot):
        engine.fail_next = ConflictError("It is being cancelled.")
        await pilot.press("r")
        await shows(pilot, "It is being cancelled.")
        assert app.is_running


async def test_help_and_palette_know_every_action() -> None:
    async with attached(with_attempts(), (120, 60)) as (app, pilot):
        await pilot.press("question_mark")
        for action in ACTIONS[:10]:
            await shows(pilot, action.title)
        await pilot.press("escape", "ctrl+p")
        await shows(pilot, "New task [n]")
        await type_in(pilot, "lineage")
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.focused is not None and app.screen.focused.id == "lineage-list")


@pytest.mark.parametrize("key", ["q", "ctrl+q"])
async def test_quitting_leaves_the_work_alone(key: str) -> None:
    engine = with_attempts()
    async with attached(engine) as (app, pilot):
        await pilot.press(key)
        await until(pilot, lambda: not app.is_running or app._exit)
    assert engine.records["rune-00000001"].state not in FINAL_STATES
    assert not {"cancel_session", "shutdown"} & set(engine.asked)


async def test_coming_back_shows_the_same() -> None:
    """T2: what a second attachment shows is what the first did."""
    engine = with_attempts()
    async with attached(engine) as (app, _):
        engine.change("rune-00000001", attempts=7, tokens=999)
        first_record = engine.records["rune-00000001"]
        del app
    async with attached(engine) as (app, pilot):
        await shows(pilot, "×7")
        assert app.state.sessions["rune-00000001"] == first_record


async def test_two_terminals_see_the_same() -> None:
    engine = with_attempts()
    async with attached(engine) as (_, one):
        await shows(one, "sort-list")
        engine.records["rune-2"] = session("rune-2", task=TaskSpec(id="from-elsewhere", prompt="x"))
        engine.emit("session/rune-2", {"state": "queued"}, session_id="rune-2")
        await shows(one, "from-elsewhere")  # known by an event that was not whole: read again
