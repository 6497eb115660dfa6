"""Adapter keys and their dialogs, as a user sees them: evidence before the question, force asked for, undo shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.evidence_house import evidence
from support.fake_engine import FakeEngine, adapter, running
from support.fake_registry import proven
from support.screen import SIZES, attached, lines, picture, raw_controls, shows, until
from textual.pilot import Pilot

from engine.api_evolution import EvidenceRequest, MergeMethod, MergeRequest, Verdict
from engine.api_learning import EvaluateRequest, OperationKind
from engine.errors import InputError
from rune_tui.merge_form import MergeForm, read_merge_form
from rune_tui.screens.promote import PromoteScreen

PICTURES = Path(__file__).parent / "pictures"
AGAINST = ("The evidence says refused.", "It is a memoriser: beyond what it was trained for it gains nothing.")


def registry() -> FakeEngine:
    """Three adapters of one base; the second is champion."""
    engine = FakeEngine(
        adapters=(
            adapter("sort-v1"),
            adapter("sort-v2", tier="domain", fitness_score=0.9),
            adapter("parse-v1", task_type="parse", fitness_score=None),
        )
    )
    engine.alias_map = {"code-gen@champion": "sort-v2"}
    engine.note("adapter/sort-v2", "promoted", {"tier": "task"}, {"tier": "domain"})
    return engine


async def go_to(pilot: Pilot[None], adapter_id: str) -> None:
    """Put the cursor of the tree on that adapter."""
    await pilot.press("2", "home")
    for _ in range(12):
        await pilot.pause()
        if pilot.app.state.registry.selected == adapter_id:  # type: ignore[attr-defined]  # RuneApp
            return
        await pilot.press("down")
    raise AssertionError(f"{adapter_id} is not in the tree:\n{picture(pilot.app)}")


def matches(name: str, shown: str) -> None:
    """Compare with the picture of that name; RUNE_PICTURES=write takes new ones."""
    file = PICTURES / f"{name}.txt"
    if os.environ.get("RUNE_PICTURES") == "write":
        file.write_text(shown + "\n", "utf-8")
    assert shown + "\n" == file.read_text("utf-8"), f"another picture than {file.name}"


# --- the tree ---


@pytest.mark.parametrize("size", SIZES[:2])
async def test_the_tree_says_who_is_champion_and_follows_the_aliases(size: tuple[int, int]) -> None:
    engine = registry()
    async with attached(engine, size) as (app, pilot):
        await pilot.press("2")
        await shows(pilot, "★ sort-v2")
        await shows(pilot, "champion")
        engine.point("code-gen@champion", "sort-v1")
        await shows(pilot, "★ sort-v1")
        engine.point("code-gen@champion", None)
        await until(pilot, lambda: "★" not in picture(app))


async def test_an_engine_without_a_history_says_so() -> None:
    engine = registry()
    engine.old_registry = True
    async with attached(engine) as (_, pilot):
        await pilot.press("2")
        for key, title in (("p", "Promote"), ("z", "Undo"), ("h", "History"), ("m", "Merge")):
            await pilot.press(key)
            await shows(pilot, f"{title}: this engine cannot")


async def test_keys_without_an_adapter_under_the_cursor_say_so() -> None:
    async with attached(registry()) as (_, pilot):
        await pilot.press("2", "home", "p")
        await shows(pilot, "Promote: no adapter is selected")


async def test_the_details_of_an_adapter_have_its_promotions() -> None:
    engine = registry()
    engine.found = proven("sort-v1")
    async with attached(engine, (120, 40)) as (_, pilot):
        await go_to(pilot, "sort-v1")
        await promote(pilot, engine)
        await go_to(pilot, "sort-v1")
        await pilot.press("enter")
        for text in ("in use, champion", "task to domain", "Beats base.", "e-value"):
            await shows(pilot, text)


# --- promotion ---


async def promote(pilot: Pilot[None], engine: FakeEngine) -> None:
    await pilot.press("p")
    await shows(pilot, "Nothing speaks against it.")
    await pilot.press("tab", "tab", "enter")
    await until(pilot, lambda: engine.moves)


@pytest.mark.parametrize("size", SIZES)
async def test_a_promotion_shows_its_evidence_before_it_can_be_agreed_to(size: tuple[int, int]) -> None:
    engine = registry()
    engine.found = proven("sort-v1")
    async with attached(engine, size) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        for text in ("Evidence: proven", "52 won, 1 lost", "e-value", "+85.0% [+75.0%, +93.0%]", "general", "overlap"):
            await shows(pilot, text)
        assert not raw_controls(app)
        matches(f"promote_{size[0]}x{size[1]}", picture(app))
        await pilot.press("enter")  # held down a moment too long: Back has the focus
        await until(pilot, lambda: "Evidence: proven" not in picture(app))
        assert not engine.moves
        await promote(pilot, engine)
        assert [(move.adapter_id, move.forced) for move in engine.moves] == [("sort-v1", False)]
        await shows(pilot, "★ sort-v1")


async def test_against_the_evidence_it_asks_again_and_is_recorded_as_forced() -> None:
    engine = registry()
    engine.found = evidence("sort-v1", verdict=Verdict.REFUSED, memoriser=True, reasons=AGAINST[1:])
    engine.objections = AGAINST
    async with attached(engine) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        await shows(pilot, "Promote anyway")
        await shows(pilot, "a memoriser")
        matches("promote_refused_80x24", picture(app))
        await pilot.press("tab", "tab", "enter")
        await shows(pilot, "It is recorded as forced.")
        matches("promote_force_80x24", picture(app))
        await pilot.press("enter")  # Leave it has the focus
        await until(pilot, lambda: "It is recorded as forced." not in picture(app))
        # A key that comes while the question is being taken down is nobody's.
        await until(pilot, lambda: isinstance(app.screen, PromoteScreen) and getattr(app.focused, "id", "") == "yes")
        await pilot.pause()
        assert not engine.moves
        await pilot.press("enter")
        await shows(pilot, "It is recorded as forced.")
        await pilot.press("tab", "enter")
        await until(pilot, lambda: engine.moves)
        assert [move.forced for move in engine.moves] == [True]


async def test_objections_below_the_edge_are_reached_by_the_arrows() -> None:
    engine = registry()
    engine.found = evidence("sort-v1", verdict=Verdict.REFUSED)
    engine.objections = tuple(f"Objection number {number}." for number in range(12))
    async with attached(engine) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        await shows(pilot, "Evidence: refused")
        assert "Objection number 11." not in picture(app)
        await pilot.press(*["down"] * 20)
        await shows(pilot, "Objection number 11.")


async def test_what_is_missing_can_be_measured_from_the_dialog() -> None:
    engine = registry()
    engine.objections = ("Nothing was measured for sort-v1 at the tier domain.",)
    async with attached(engine) as (_, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        await shows(pilot, "Nothing was measured")
        await pilot.press("tab", "enter")
        await shows(pilot, "Which suite decides about sort-v1?")
        await pilot.press("down", "enter")
        await shows(pilot, "Queued evidence-1")
        expected = EvidenceRequest(adapter="sort-v1", suite="runekit", to_tier="domain")
        assert engine.queued == [(OperationKind.EVIDENCE, expected)]


async def test_a_hostile_reason_cannot_drive_the_terminal() -> None:
    engine = registry()
    engine.objections = ("It \x1b]52;c;eA==\x07says [/bold] \u202eso.",)
    async with attached(engine) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        await shows(pilot, "[/bold]")
        assert not raw_controls(app)


async def test_a_refusal_of_the_engine_is_one_sentence() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("p")
        await shows(pilot, "Nothing speaks against it.")
        engine.objections = ("The one to beat is another now.",)  # between the look and the answer
        await pilot.press("tab", "tab", "enter")
        await shows(pilot, "The one to beat is another now.")
        assert not engine.moves


# --- undo, redo, history, archive, rollback ---


async def test_undo_shows_the_change_and_redo_does_it_again() -> None:
    engine = registry()
    async with attached(engine) as (app, pilot):
        await pilot.press("z")
        await shows(pilot, "Undo change 1: sort-v2 promoted: tier task to domain?")
        matches("undo_80x24", picture(app))
        await pilot.press("enter")
        await until(pilot, lambda: "Undo change 1" not in picture(app))
        assert not engine.changes[0].undone, "Back has the focus"
        await pilot.press("z")
        await shows(pilot, "Undo change 1")
        await pilot.press("tab", "enter")
        await shows(pilot, "Undone: sort-v2 promoted")
        await pilot.press("z")
        await shows(pilot, "There is nothing to undo.")
        await pilot.press("Z")
        await shows(pilot, "Redo change 1")
        await pilot.press("tab", "enter")
        await shows(pilot, "Redone: sort-v2 promoted")
        assert [change.undone for change in engine.changes] == [False]


async def test_only_the_change_that_was_shown_is_undone() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await pilot.press("z")
        await shows(pilot, "Undo change 1")
        engine.note("adapter/sort-v1", "archived", {"is_archived": False}, {"is_archived": True})
        await pilot.press("tab", "enter")
        await shows(pilot, "It is now about change 2")
        assert not any(change.undone for change in engine.changes)


async def test_the_history_says_what_was_forced_and_undone() -> None:
    engine = registry()
    engine.note("adapter/sort-v1", "promoted", {"tier": "task"}, {"tier": "project"}, forced=True, undone=True)
    async with attached(engine, (120, 40)) as (_, pilot):
        await pilot.press("h")
        await shows(pilot, "sort-v1 promoted: tier task to project  forced undone")
        await shows(pilot, "sort-v2 promoted: tier task to domain")


async def test_archive_asks_and_the_same_key_brings_back() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("x")
        await shows(pilot, "Take sort-v1 out of use?")
        await pilot.press("tab", "enter")
        await shows(pilot, "Archived sort-v1")
        await shows(pilot, "× sort-v1")
        await pilot.press("p")
        await shows(pilot, "Promote: sort-v1 is archived")
        await pilot.press("x")
        await shows(pilot, "sort-v1 is in use again.")
        await go_to(pilot, "sort-v2")
        await pilot.press("x", "tab", "enter")
        await shows(pilot, "sort-v2 is kept. It is the champion.")


async def test_rollback_says_who_will_serve() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await go_to(pilot, "parse-v1")
        await pilot.press("R")
        await shows(pilot, "Roll back: parse has no champion")
        await go_to(pilot, "sort-v1")
        await pilot.press("R")
        await shows(pilot, "Let the base model serve code-gen again instead of sort-v2?")
        await pilot.press("tab", "enter")
        await shows(pilot, "The base model serves")
        assert engine.alias_map == {"code-gen@previous": "sort-v2"}


# --- merge and evaluate ---


@pytest.mark.parametrize("size", SIZES[:2])
async def test_merge_marks_adapters_and_takes_the_rule(size: tuple[int, int]) -> None:
    engine = registry()
    async with attached(engine, size) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("m")
        await shows(pilot, "1. sort-v1")
        matches(f"merge_{size[0]}x{size[1]}", picture(app))
        await pilot.press("ctrl+s")
        await shows(pilot, "Choose at least two adapters")
        await pilot.press("down", "enter")
        await shows(pilot, "2. sort-v2")
        await pilot.press("tab", "end", *["backspace"] * 4, *"dare", "ctrl+s")
        await shows(pilot, "Queued merge-1")
        expected = MergeRequest(adapters=("sort-v1", "sort-v2"), method=MergeMethod.DARE)
        assert engine.queued == [(OperationKind.MERGE, expected)]


async def test_merge_offers_what_has_the_same_base_only() -> None:
    engine = registry()
    engine.adapter_list += (adapter("alien", base_model_id="other/base"), adapter("old", is_archived=True))
    async with attached(engine) as (app, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("m")
        await shows(pilot, "parse-v1")
        dialog = [line for line in lines(app) if "rank 16" in line]
        assert len(dialog) == 3
        assert not any("alien" in line or "old" in line for line in dialog)


async def test_evaluate_asks_for_the_suite_and_says_when_it_is_done() -> None:
    engine = registry()
    async with attached(engine) as (_, pilot):
        await go_to(pilot, "sort-v1")
        await pilot.press("v")
        await shows(pilot, "A private API on lists")
        await pilot.press("enter")
        await shows(pilot, "Queued evaluate-1")
        assert engine.queued == [(OperationKind.EVALUATE, EvaluateRequest(adapter="sort-v1", suite="humaneval"))]
        engine.move_operation("evaluate-1", state="running")
        engine.move_operation("evaluate-1", done=3, total=12, eta_seconds=9.0, note="")
        await shows(pilot, "evaluate-1 3/12")
        engine.move_operation("evaluate-1", state="failed", reason="The model server went away.")
        await shows(pilot, "evaluate-1 is failed: The model")


async def test_the_keys_of_sessions_keep_their_meaning_outside_the_tree() -> None:
    engine = registry()
    engine.records = {"rune-00000001": running()}
    async with attached(engine) as (_, pilot):
        await pilot.press("1", "p")
        await pilot.press("c")
        await shows(pilot, "Stop sort-list?")
        assert not engine.moves


# --- the form, without a screen ---


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"adapters": ("a",)}, "Choose at least two"),
        ({"method": "average"}, "method: "),
        ({"density": "half"}, "density: 'half' is not a number."),
        ({"density": "1.5"}, "density: "),
        ({"weights": "1"}, "weights: 2 adapters need as many weights"),
        ({"weights": "1, x"}, "weights: 'x' is not a number."),
        ({"rank": "0"}, "rank: "),
        ({"adapter_id": "../x"}, "name: "),
        ({"method": "cat-learned"}, "suite: "),
    ],
)
def test_a_bad_field_is_named(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_merge_form(MergeForm(**({"adapters": ("a", "b")} | changes)))  # type: ignore[arg-type]
    assert str(refused.value).startswith(sentence)


def test_a_full_form() -> None:
    form = MergeForm(("a", "b"), "cat-learned", "0.25", "2, 1", "8", "c", "runekit")
    assert read_merge_form(form) == MergeRequest(
        adapters=("a", "b"),
        method=MergeMethod.CAT_LEARNED,
        density=0.25,
        weights=(2.0, 1.0),
        rank=8,
        adapter_id="c",
        suite="runekit",
    )
