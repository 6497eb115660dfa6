"""What the screen of operations shows: pure functions from operations to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue, ValidationError

from engine.api_evolution import Evidence, ImproveReport
from engine.api_learning import Operation, OperationKind
from engine.api_models import RunState
from rune_tui.improve_text import improve_lines
from rune_tui.promotion_text import Line, Weight, evidence_lines
from rune_tui.registry_state import OperationView
from rune_tui.widgets.job_rows import JOB_MARKS
from rune_tui.widgets.row import Column, Row, Span, Tone, row, tabular
from rune_tui.widgets.session_rows import clock

MAX_VALUE = 300
"""Characters of one value of a result; `rune-tui operations show --json` has it whole."""

WEIGHT_TONES = {
    Weight.PLAIN: Tone.PLAIN,
    Weight.HEADING: Tone.STRONG,
    Weight.GOOD: Tone.GOOD,
    Weight.WARN: Tone.WARN,
    Weight.BAD: Tone.BAD,
}


def up_to_date(known: Mapping[str, Operation], heard: Mapping[str, OperationView]) -> list[Operation]:
    """What was read, with what its events said since; in the order in which it was read."""
    return [_with_news(operation, heard.get(operation.id)) for operation in known.values()]


def _with_news(operation: Operation, news: OperationView | None) -> Operation:
    if news is None:
        return operation
    progress = news.progress or operation.progress
    return operation.model_copy(update={"state": news.state, "reason": news.reason, "progress": progress})


def operation_rows(operations: Sequence[Operation], width: int) -> list[Row]:
    """One row for each: state, how far it is, the time that is left, and what it does or why it ended."""
    return [_operation_row(operation, width) for operation in operations]


def _operation_row(operation: Operation, width: int) -> Row:
    mark, tone = JOB_MARKS[operation.state]
    done, left, note = _how_far(operation)
    columns = (
        Column(f" {mark}", 2, tone),
        Column(operation.id, 21),
        Column(operation.state.value, 11, tone, priority=1),
        Column(done, 9, right=True, priority=3),
        Column(left, 7, Tone.DIM, right=True, priority=2),
        Column(f" {note}", 0, Tone.DIM),
    )
    return tabular(columns, width, operation.id)


def _how_far(operation: Operation) -> tuple[str, str, str]:
    progress = operation.progress
    done = f"{progress.done}/{progress.total}" if progress else ""
    if operation.state is not RunState.RUNNING:
        return done, "", operation.reason or operation.created_at[:19]
    if progress is None:
        return "", "", "begins"
    return done, "" if progress.eta_seconds is None else clock(progress.eta_seconds), progress.note


def operation_details(operation: Operation) -> list[Row]:
    """All that is known of one operation: what it came to first, then what was asked for."""
    mark, tone = JOB_MARKS[operation.state]
    rows = [Row((Span(f" {mark} {operation.state.value}", tone), Span(f"  {operation.id}", Tone.STRONG)))]
    if operation.reason:
        rows.append(Row((Span(f"  {operation.reason}", Tone.WARN),), indent=2))
    if operation.result is not None:
        rows += [row(""), row(" What it came to", Tone.ACCENT), *_result_rows(operation.kind, operation.result)]
    done, left, note = _how_far(operation)
    if operation.state is RunState.RUNNING:
        rows += [row(""), row(" Progress", Tone.ACCENT), *_fields({"done": done, "left": left or "-", "note": note})]
    rows += [row(""), row(" Asked for", Tone.ACCENT), *_fields(operation.request)]
    times = {
        "created": operation.created_at,
        "started": operation.started_at or "-",
        "finished": operation.finished_at or "-",
    }
    return [*rows, row(""), row(" Record", Tone.ACCENT), *_fields(times)]


def _result_rows(kind: OperationKind, result: Mapping[str, JsonValue]) -> list[Row]:
    try:
        match kind:
            case OperationKind.IMPROVE:
                return _said(improve_lines(ImproveReport.model_validate(result)))
            case OperationKind.EVIDENCE:
                return _said(evidence_lines(Evidence.model_validate(result)))
            case _:
                return _fields(result)
    except ValidationError:  # of another version of the program: shown as it is rather than not at all
        return _fields(result)


def _said(lines: Sequence[Line]) -> list[Row]:
    return [Row((Span(f"  {text}", WEIGHT_TONES[weight]),), indent=4) for text, weight in lines]


def _fields(fields: Mapping[str, JsonValue]) -> list[Row]:
    shown = {name.replace("_", " "): _value(value) for name, value in fields.items() if value is not None}
    return [Row((Span(f"  {name:<18} ", Tone.DIM), Span(value)), indent=21) for name, value in shown.items()]


def _value(value: JsonValue) -> str:
    match value:
        case float():
            return f"{value:.6g}"
        case str():
            return value[:MAX_VALUE]
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)[:MAX_VALUE]
        case _:
            return str(value)
