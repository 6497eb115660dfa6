"""What the screen of operations says of each kind and state; no screen."""

from __future__ import annotations

import pytest
from support.evidence_house import evidence
from support.fake_engine import START

from engine.api_learning import Operation, OperationKind, OperationProgress
from engine.api_models import RunState
from rune_tui.registry_state import OperationView
from rune_tui.widgets.operation_rows import MAX_VALUE, operation_details, operation_rows, up_to_date
from rune_tui.widgets.row import Row


def operation(**changes: object) -> Operation:
    fields: dict[str, object] = {
        "id": "improve-0badcafe", "kind": OperationKind.IMPROVE, "state": RunState.RUNNING,
        "request": {"suite": "kit", "limit": None}, "created_at": START,
    }  # fmt: skip
    return Operation.model_validate(fields | changes)


def said(rows: list[Row]) -> list[str]:
    return ["".join(span.text for span in row.spans).rstrip() for row in rows]


def test_a_running_one_says_how_far_it_is_and_when_it_will_be_done() -> None:
    progress = OperationProgress(done=34, total=200, eta_seconds=125.0, note="training: step 3 of 40")
    (line,) = said(operation_rows([operation(progress=progress)], 100))
    assert line.split() == ["▲", "improve-0badcafe", "running", "34/200", "2:05", "training:", "step", "3", "of", "40"]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "begins"),
        ({"state": RunState.QUEUED}, START[:19]),
        ({"state": RunState.INTERRUPTED, "reason": "the engine died while it ran"}, "the engine died while it ran"),
    ],
)
def test_one_that_tells_no_progress_says_what_is_known(changes: dict[str, object], text: str) -> None:
    (line,) = said(operation_rows([operation(**changes)], 100))
    assert line.endswith(text)


def test_on_a_narrow_screen_the_name_and_the_note_stay() -> None:
    progress = OperationProgress(done=34, total=200, eta_seconds=125.0, note="training")
    (line,) = said(operation_rows([operation(progress=progress)], 40))
    assert "improve-0badcafe" in line and "training" in line and "34/200" not in line


def test_what_was_heard_since_it_was_read_counts() -> None:
    known = {"improve-0badcafe": operation(progress=OperationProgress(done=1, total=2)), "other": operation(id="other")}
    heard = {"improve-0badcafe": OperationView("improve-0badcafe", RunState.FAILED, "no room", None)}
    first, second = up_to_date(known, heard)
    assert (first.state, first.reason, second.state) == (RunState.FAILED, "no room", RunState.RUNNING)
    assert first.progress is not None, "what was read is not forgotten"


def test_a_result_is_shown_by_its_kind() -> None:
    found = operation(
        id="evidence-1", kind=OperationKind.EVIDENCE, state=RunState.SUCCEEDED,
        result=evidence("a").model_dump(mode="json"),
    )  # fmt: skip
    assert any("52 won, 1 lost" in line for line in said(operation_details(found)))
    merged = operation(
        id="merge-1", kind=OperationKind.MERGE, state=RunState.SUCCEEDED,
        result={"adapter_id": "m", "retained_energy": 0.987654321, "weights": [0.5] * 500, "note": None},
    )  # fmt: skip
    lines = said(operation_details(merged))
    assert any("adapter id" in line and line.endswith("m") for line in lines)
    assert any(line.endswith("0.987654") for line in lines)
    assert max(map(len, lines)) < MAX_VALUE + 40
    assert not any("note" in line for line in lines)


def test_a_result_of_another_version_is_shown_as_it_is() -> None:
    strange = operation(state=RunState.SUCCEEDED, result={"rounds": "many", "adapter_id": None})
    assert any("rounds" in line and "many" in line for line in said(operation_details(strange)))
