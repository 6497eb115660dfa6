"""The closed loop as a user of the terminal sees it: begun, watched, stopped, resumed, and its report read."""

from __future__ import annotations

import pytest
from support.evidence_house import evidence
from support.screen import SIZES, attached, lines, picture, raw_controls, shows, until
from test_tui_registry import matches, registry
from textual.pilot import Pilot

from engine.api_evolution import ImproveReport, ImproveRequest, ImproveRound, Verdict
from engine.api_learning import OperationKind, Split, SuiteInfo
from engine.errors import InputError
from rune_tui.improve_form import ImproveForm, read_improve_form, teaching
from rune_tui.improve_text import improve_lines
from rune_tui.screens.operations import OperationsScreen

GOOD = "Promoted: e-value 512 of 20 against base."
BAD = "Not promoted: not-proven. No gain is proven: 2 wins and 1 losses."


def one_round(number: int, *, promoted: bool) -> ImproveRound:
    verdict = Verdict.PROVEN if promoted else Verdict.NOT_PROVEN
    return ImproveRound(
        number=number, tasks=24, solved_by_model=3, solved_by_explorer=20, calls_per_task_before=100.0,
        calls_per_task_after=1.1, job_id=f"train-{number}", adapter_id=f"runekit-1-{number}",
        evidence=evidence(f"runekit-1-{number}", verdict=verdict), promoted=promoted, reason=GOOD if promoted else BAD,
    )  # fmt: skip


REPORT = ImproveReport(rounds=(one_round(1, promoted=True), one_round(2, promoted=False)), adapter_id="runekit-1-1")


async def begin(pilot: Pilot[None]) -> None:
    """From the panes to the list of operations, with an operation begun."""
    await pilot.press("I")
    await shows(pilot, "A private API on lists")
    await pilot.press("enter", "end", "backspace", "2", "tab", "end", *["backspace"] * 8, *"small", "ctrl+s")
    await shows(pilot, "c cancel")
    await shows(pilot, "improve-1")


# --- the dialog ---


@pytest.mark.parametrize("size", SIZES[:2])
async def test_the_dialog_offers_what_can_be_learned_from_and_sends_what_was_typed(size: tuple[int, int]) -> None:
    engine = registry()
    async with attached(engine, size) as (app, pilot):
        await pilot.press("I")
        await shows(pilot, "A private API on lists")
        assert "HumanEval" not in picture(app), "it has no train split"
        matches(f"improve_{size[0]}x{size[1]}", picture(app))
        await pilot.press("escape")
        await until(pilot, lambda: "A private API on lists" not in picture(app))
        assert engine.queued == []
        await begin(pilot)
        assert engine.queued == [(OperationKind.IMPROVE, ImproveRequest(suite="runekit", rounds=2, preset="small"))]


async def test_an_enter_held_down_on_a_suite_begins_nothing() -> None:
    engine = registry()
    async with attached(engine) as (app, pilot):
        await pilot.press("I")
        await shows(pilot, "A private API on lists")
        await pilot.press("enter")
        await until(pilot, lambda: getattr(app.focused, "id", "") == "rounds")
        assert engine.queued == []


async def test_a_field_that_is_not_right_is_named_and_the_dialog_stays() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await pilot.press("I")
        await shows(pilot, "A private API on lists")
        await pilot.press("tab", "end", "backspace", *"99", "ctrl+s")
        await shows(pilot, "rounds: Input should be less than or equal to 20.")
        assert engine.queued == []


async def test_the_palette_has_it() -> None:
    async with attached(registry(), (120, 40)) as (_, pilot):
        await pilot.press("ctrl+p")
        await pilot.press(*"rounds of")
        await shows(pilot, "Improve [I]")


async def test_an_engine_without_it_says_so() -> None:
    engine = registry()
    engine.old_registry = True
    async with attached(engine) as (_, pilot):
        for key, title in (("I", "Improve"), ("w", "Operations")):
            await pilot.press(key)
            await shows(pilot, f"{title}: this engine cannot")


# --- watching ---


async def test_it_is_watched_to_its_end_and_its_report_says_what_each_round_came_to() -> None:
    engine = registry()
    async with attached(engine, (120, 40)) as (app, pilot):
        await begin(pilot)
        engine.move_operation("improve-1", state="running")
        engine.move_operation("improve-1", done=50, total=200, eta_seconds=125.0, note="training: step 12 of 40")
        for text in ("running", "50/200", "2:05", "training: step 12 of 40"):
            await shows(pilot, text)
        engine.move_operation("improve-1", state="succeeded", result=REPORT.model_dump(mode="json"))
        await shows(pilot, "improve-1 is done; w shows what came of it.")
        await pilot.press("enter")
        for text, _ in improve_lines(REPORT):
            await shows(pilot, text)
        assert not raw_controls(app)
        await pilot.press("escape", "escape")
        await shows(pilot, "Adapters")


async def test_an_operation_of_before_this_terminal_is_listed_and_one_of_another_terminal_appears() -> None:
    engine = registry()
    async with attached(engine, (120, 40)) as (app, pilot):
        await pilot.press("w")
        await shows(pilot, "Nothing that takes long was asked for yet.")
        await engine.improve(ImproveRequest(suite="runekit"))
        await shows(pilot, "improve-1")
        await pilot.press("escape")
        await until(pilot, lambda: "c cancel" not in picture(app))
    async with attached(engine, (120, 40)) as (_, pilot):
        await pilot.press("w")
        await shows(pilot, "improve-1")


async def test_it_is_stopped_after_asking_and_let_go_on() -> None:
    engine = registry()
    async with attached(engine) as (app, pilot):
        await begin(pilot)
        engine.move_operation("improve-1", state="running")
        await shows(pilot, "running")
        await pilot.press("r")
        await shows(pilot, "only one that")
        await pilot.press("c")
        await shows(pilot, "Stop improve-1?")
        await pilot.press("enter")  # held down a moment too long: Let it run has the focus
        # A key that comes while the question is being taken down is nobody's.
        await until(pilot, lambda: isinstance(app.screen, OperationsScreen) and app.focused is not None)
        await pilot.pause()
        assert engine.operation_map["improve-1"].state.value == "running"
        await pilot.press("c")
        await shows(pilot, "Stop improve-1?")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: any("improve-1" in line and "cancelled" in line for line in lines(app)))
        await pilot.press("c")
        await shows(pilot, "improve-1 has already ended")
        await pilot.press("r")
        await until(pilot, lambda: engine.operation_map["improve-1"].state.value == "queued")


async def test_a_hostile_note_cannot_drive_the_terminal() -> None:
    engine = registry()
    async with attached(engine, (120, 40)) as (app, pilot):
        await begin(pilot)
        engine.move_operation("improve-1", done=1, total=2, eta_seconds=None, note="\x1b]52;c;eA==\x07[/bold] \u202eso")
        await shows(pilot, "[/bold]")
        assert not raw_controls(app)


# --- the form, without a screen ---


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"suite": ""}, "No suite has tasks to learn from"),
        ({"rounds": "many"}, "rounds: 'many' is not a number."),
        ({"rounds": "0"}, "rounds: "),
        ({"limit": "-3"}, "tasks: '-3' is not a number."),
        ({"limit": "0"}, "tasks: "),
        ({"limit": "²"}, "tasks: '²' is not a number."),
        ({"rehearse": "../up"}, "answered as before: "),
        ({"rehearse": "general, general"}, "answered as before: a suite is named twice."),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, str], sentence: str) -> None:
    form = ImproveForm(**{"suite": "runekit", **changes})  # type: ignore[arg-type]  # texts alone
    with pytest.raises(InputError) as caught:
        read_improve_form(form)
    assert str(caught.value).startswith(sentence)


def test_a_good_form_is_a_request() -> None:
    form = ImproveForm(suite="kit", rounds=" 3 ", preset="", limit="12", explore=False)
    assert read_improve_form(form) == ImproveRequest(suite="kit", rounds=3, limit=12, explore=False)
    for typed, suites in ((" ", ()), ("inkwell,general", ("inkwell", "general"))):
        assert read_improve_form(ImproveForm(suite="kit", rehearse=typed)).rehearse == suites


def test_a_suite_that_teaches_has_tasks_to_learn_from_and_tasks_that_decide() -> None:
    def suite(name: str, *splits: Split) -> SuiteInfo:
        return SuiteInfo(
            name=name, title=name, origin="file", seeded=False, task_type="t", digest="a" * 64,
            counts=dict.fromkeys(splits, 4), templates=4,
        )  # fmt: skip

    known = [suite("a", Split.TRAIN), suite("b", Split.GATE), suite("c", Split.TRAIN, Split.GATE)]
    assert [one.name for one in teaching(known)] == ["c"]


def test_a_report_says_for_each_round_why_it_promoted_or_not() -> None:
    said = [text for text, _ in improve_lines(REPORT)]
    assert said[0] == "round 1: 23 of 24 tasks verified (3 by the model, 20 by the explorer)"
    assert "  trained runekit-1-1 by train-1" in said
    assert f"  {GOOD}" in said and f"  {BAD}" in said
    assert any("proven" in line and "e-value" in line for line in said)
    assert said[-1] == "in use: runekit-1-1"
    empty = ImproveReport(
        rounds=(REPORT.rounds[0].model_copy(update={"adapter_id": None, "job_id": None, "evidence": None}),),
        adapter_id=None,
    )
    assert improve_lines(empty)[-1][0] == "in use: the base model"
