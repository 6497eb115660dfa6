"""Aliases and operations in the state, and promotions in words; no screen."""

from __future__ import annotations

import pytest
from support.evidence_house import evidence, rate
from support.fake_engine import adapter, status

from engine.api_evolution import (
    AnchorResult,
    Change,
    Contamination,
    NoiseFloor,
    PartContamination,
    PromotionCase,
    Verdict,
)
from engine.api_models import Event
from rune_tui.promotion_text import Weight, case_lines, change_text
from rune_tui.registry_state import MAX_OPERATIONS, ended_since
from rune_tui.state import Item, Snapshot, State, apply_all, select_adapter
from rune_tui.widgets.adapter_rows import operation_text


def event(number: int, subject: str, payload: dict[str, object], kind: str = "updated") -> Event:
    return Event(
        sequence=number, id=f"e{number}", kind=kind, subject=subject, payload=payload, source="fake",  # type: ignore[arg-type]
        session_id=None, timestamp="then",
    )  # fmt: skip


def loaded(*items: Item, aliases: dict[str, str] | None = None) -> State:
    return apply_all(State(), [Snapshot(status(), (), (adapter("a"), adapter("b")), None, None, aliases), *items])


# --- aliases ---


def test_aliases_follow_their_events() -> None:
    state = loaded(
        event(1, "alias/sort@champion", {"name": "sort@champion", "adapter": "b"}),
        event(2, "alias/sort@previous", {"name": "sort@previous", "adapter": "a"}, "created"),
        event(3, "alias/x@champion", {"name": "x@champion", "adapter": None}, "deleted"),
        aliases={"sort@champion": "a", "x@champion": "a"},
    )
    assert state.registry.served
    assert state.registry.aliases == {"sort@champion": "b", "sort@previous": "a"}
    assert state.registry.roles == {"a": ("previous",), "b": ("champion",)}


def test_an_engine_without_aliases_serves_none() -> None:
    assert not loaded().registry.served


def test_a_batch_that_does_not_concern_them_keeps_the_same_object() -> None:
    state = loaded(aliases={"sort@champion": "a"})
    assert apply_all(state, [event(9, "attempt/1", {})]).registry is state.registry


def test_only_an_adapter_can_be_selected() -> None:
    state = select_adapter(loaded(), "b")
    assert state.selected_adapter is not None
    assert state.selected_adapter.id == "b"
    assert select_adapter(state, "tier/task").selected_adapter is None


# --- operations ---


def test_an_operation_is_followed_from_its_events_to_its_end() -> None:
    state = loaded(event(1, "operation/merge-1", {"id": "merge-1", "state": "queued", "reason": ""}, "created"))
    assert [operation_text(one) for one in state.registry.running] == ["merge-1 queued"]
    going = apply_all(
        state,
        [
            event(2, "operation/merge-1", {"state": "running"}),
            event(3, "operation/merge-1", {"done": 3, "total": 12, "eta_seconds": 75.0, "note": "layer 3"}),
        ],
    )
    assert [operation_text(one) for one in going.registry.running] == ["merge-1 3/12 1:15 left layer 3"]
    assert ended_since(state.registry, going.registry) == ()
    ended = apply_all(going, [event(4, "operation/merge-1", {"state": "failed", "reason": "NaN."})])
    [one] = ended_since(going.registry, ended.registry)
    assert (one.state.value, one.reason, ended.registry.running) == ("failed", "NaN.", ())
    assert ended_since(ended.registry, apply_all(ended, [event(5, "attempt/1", {})]).registry) == ()


def test_an_operation_that_began_before_this_terminal_runs_when_it_says_how_far_it_is() -> None:
    told: dict[str, object] = {"done": 1, "total": 4, "eta_seconds": None, "note": ""}
    state = loaded(event(1, "operation/improve-1", told))
    assert [operation_text(one) for one in state.registry.running] == ["improve-1 1/4"]


@pytest.mark.parametrize("payload", [{"done": "many"}, {"state": "dancing"}, {"reason": 3}, {}])
def test_what_a_newer_engine_says_of_an_operation_is_passed_over(payload: dict[str, object]) -> None:
    state = loaded(event(1, "operation/merge-1", {"state": "running"}))
    assert apply_all(state, [event(2, "operation/merge-1", payload)]).registry == state.registry


def test_operations_that_ended_leave_first() -> None:
    items: list[Item] = [event(1, "operation/running-1", {"state": "running"})]
    items += [
        event(number, f"operation/merge-{number}", {"state": "succeeded"}) for number in range(2, MAX_OPERATIONS + 9)
    ]
    kept = loaded(*items).registry.operations
    assert len(kept) == MAX_OPERATIONS
    assert "running-1" in kept
    assert "merge-2" not in kept


# --- words ---


LEARNED_ANCHOR = AnchorResult(
    name="general", adapter=rate(9, 9), reference=rate(9, 9), difference_low=0.0, kept=False, usable=False
)


def part(name: str, exact: int = 0) -> PartContamination:
    return PartContamination(part=name, checked=True, rows=9, exact=exact, near=0)


NOISE = NoiseFloor(seeds=(1, 2, 3), compared=75, disagreed=3, rate=0.04, low=0.014, high=0.111)


def case(**changes: object) -> PromotionCase:
    found = evidence("a", **changes)
    return PromotionCase(
        adapter_id="a", from_tier="task", to_tier="domain", task_type="sort", incumbent="base",
        operation="evidence-1", evidence=found, objections=found.reasons,
    )  # fmt: skip


def test_a_case_in_words_ends_with_what_speaks_against_it() -> None:
    lines = case_lines(case(verdict=Verdict.NOT_PROVEN, e_value=3.0, reasons=("E is 3 of 20.",)))
    assert lines[-2:] == [("What speaks against it", Weight.HEADING), ("! E is 3 of 20.", Weight.BAD)]
    assert ("  e-value      3, needs 20", Weight.WARN) in lines
    assert case_lines(case())[-1] == ("Nothing speaks against it.", Weight.GOOD)


@pytest.mark.parametrize(
    ("changes", "text", "weight"),
    [
        ({"memoriser": True}, "a memoriser", Weight.BAD),
        ({"ood_delta": None, "ood_low": None}, "not measured", Weight.WARN),
        ({"text": None, "text_unmeasured": "No room."}, "not measured: No room.", Weight.WARN),
        ({"earlier_looks": 2, "threshold": 60.0}, "needs 60 at look 3", Weight.GOOD),
        ({"noise": NOISE}, "the incumbent differs from itself by 4.0% [1.4%, 11.1%]", Weight.PLAIN),
        ({}, "perplexity   21.49 was 21.19 (+1.4%), drift 0.017 nats", Weight.PLAIN),
        ({"contamination": Contamination(checked=False, rows=0, exact=0, near=0)}, "not checked", Weight.WARN),
        ({"contamination": Contamination(checked=True, rows=9, exact=2, near=1)}, "2 exact and 1 near", Weight.BAD),
        ({"contaminations": (part("general", 1), part("ood"))}, "general: 1 exact and 0 near copies", Weight.WARN),
        ({"contaminations": (part("general"), part("ood"))}, "overlap      none of general; ood", Weight.PLAIN),
        ({"anchors": (LEARNED_ANCHOR,)}, "not usable, it learned from its tasks", Weight.WARN),
    ],
)
def test_what_is_wrong_is_said_and_weighed(changes: dict[str, object], text: str, weight: Weight) -> None:
    assert [(text in line, said) for line, said in case_lines(case(**changes)) if text in line] == [(True, weight)]


def test_a_change_in_words_names_only_what_changed() -> None:
    change = Change(
        sequence=7, subject="adapter/a", what="promoted", timestamp="then",
        before={"tier": "task", "sort@champion": None, "sort@previous": None},
        after={"tier": "domain", "sort@champion": "a", "sort@previous": None},
    )  # fmt: skip
    assert change_text(change) == "a promoted: tier task to domain, sort@champion - to a"
    published = change.model_copy(update={"what": "published", "before": {}, "after": {"is_archived": False}})
    assert change_text(published) == "a published"
