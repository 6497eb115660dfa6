"""What the task pipeline shows of sessions: pure functions from state to rows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import lru_cache

from engine.api_models import FINAL_STATES, Outcome, PhaseName, PhaseStatus, RunState, SessionRecord
from rune_tui.state import State
from rune_tui.tails import Block
from rune_tui.widgets.row import Column, Row, Span, Tone, row, tabular

OUTPUT_ROWS = 4_000
"""Lines of output whose rows are kept: those of several sessions."""

SILENT_S = 60.0
"""A running session that gave no sign of life for so long is said to be silent: long work looks different."""

PHASE_LETTERS = {
    PhaseName.ATTEMPT: "A",
    PhaseName.DECOMPOSE: "D",
    PhaseName.PLAN: "P",
    PhaseName.CODE: "C",
    PhaseName.INTEGRATE: "I",
    PhaseName.DIAGNOSE: "X",
    PhaseName.REPAIR: "R",
}
PHASE_MARKS = {"waiting": "·", "running": "●", "done": "✓", "failed": "✗", "skipped": "-"}

LEGEND = (
    "D decompose  P plan  C code  I integrate  X diagnose  R repair  A attempt   ● now  ✓ done  ✗ failed  · waiting"
)

_STATE_MARKS: dict[RunState, tuple[str, Tone]] = {
    RunState.QUEUED: ("○", Tone.DIM),
    RunState.RUNNING: ("●", Tone.ACCENT),
    RunState.SUCCEEDED: ("✓", Tone.GOOD),
    RunState.FAILED: ("!", Tone.BAD),
    RunState.CANCELLED: ("■", Tone.DIM),
    RunState.INTERRUPTED: ("‖", Tone.WARN),
}
_OUTCOME_MARKS: dict[Outcome, tuple[str, str, Tone]] = {
    Outcome.VERIFIED: ("✓", "verified", Tone.GOOD),
    Outcome.VERIFIED_IN_PROCESS: ("✓", "verified*", Tone.GOOD),
    Outcome.SELF_CHECKED: ("≈", "self-checked", Tone.WARN),
    Outcome.FAILED: ("✗", "failed", Tone.BAD),
    Outcome.ERROR: ("!", "error", Tone.BAD),
    Outcome.CANCELLED: ("■", "cancelled", Tone.DIM),
}


def standing(record: SessionRecord) -> tuple[str, str, Tone]:
    """Mark, word and tone of where a session stands."""
    if record.state is RunState.SUCCEEDED and record.outcome is not None:
        return _OUTCOME_MARKS[record.outcome]
    mark, tone = _STATE_MARKS[record.state]
    if record.state is RunState.RUNNING and (phase := current_phase(record)) is not None:
        return mark, str(phase.phase), tone
    return mark, str(record.state), tone


def current_phase(record: SessionRecord) -> PhaseStatus | None:
    """The phase at work."""
    return next((phase for phase in record.phases if phase.state == "running"), None)


def phase_chips(record: SessionRecord) -> str:
    """`D✓ P✓ C● I·`: each phase with its state."""
    return " ".join(f"{PHASE_LETTERS[phase.phase]}{PHASE_MARKS[phase.state]}" for phase in record.phases)


def latest_score(record: SessionRecord) -> float | None:
    """Score of the last phase that has one."""
    return next((phase.score for phase in reversed(record.phases) if phase.score is not None), None)


def elapsed_s(record: SessionRecord, now: datetime) -> float:
    """How long it has worked; a running one's clock goes on."""
    if record.state is not RunState.RUNNING or record.started_at is None:
        return record.seconds
    try:
        return max(0.0, (now - datetime.fromisoformat(record.started_at)).total_seconds())
    except (ValueError, TypeError):  # a damaged or naive timestamp
        return record.seconds


def clock(seconds: float) -> str:
    """`0:41`, `12:05`, `3:04:05`, `9 days`."""
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours >= 100:
        return f"{hours // 24} days"
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def short_count(number: int) -> str:
    """`950`, `1.2k`, `3.4M`."""
    if number < 1_000:
        return str(number)
    return f"{number / 1_000:.1f}k" if number < 999_950 else f"{number / 1_000_000:.1f}M"


def session_rows(state: State, width: int, now: datetime) -> list[Row]:
    """One row a session."""
    return [_session_row(record, width, now) for record in state.ordered_sessions()]


def _session_row(record: SessionRecord, width: int, now: datetime) -> Row:
    mark, word, tone = standing(record)
    score = latest_score(record)
    time = "" if record.state is RunState.QUEUED else clock(elapsed_s(record, now))
    cells = (
        (f" {mark}", tone),
        (record.task.id, Tone.PLAIN),
        (word, tone),
        (phase_chips(record), Tone.DIM),
        (f"×{record.attempts}" if record.attempts else "", Tone.PLAIN),
        (short_count(record.tokens) if record.tokens else "", Tone.DIM),
        ("" if score is None else f"{score:.2f}", Tone.PLAIN),
        (time, Tone.DIM),
    )
    columns = [replace(column, text=text, tone=tone) for column, (text, tone) in zip(COLUMNS, cells, strict=True)]
    return tabular(columns, width, record.id)


COLUMNS = (
    Column("", 2),
    Column("task", 0),
    Column("state", 12),
    Column("phases", 17, priority=2),
    Column("tries", 5, right=True, priority=1),
    Column("tokens", 6, right=True, priority=4),
    Column("score", 5, right=True, priority=3),
    Column("time", 7, right=True, priority=1),
)
"""With their headings."""


def heading_row(width: int) -> Row:
    """The names of the columns that are shown at that width."""
    return tabular(COLUMNS, width, "")


def summary(state: State) -> str:
    """For the pane's title."""
    if not state.loaded:
        return ""
    running, queued = state.count(RunState.RUNNING), state.count(RunState.QUEUED)
    return f"{running} running · {queued} queued · {len(state.sessions)} in all"


def activity_spans(state: State, now: datetime) -> tuple[Span, ...]:
    """One line about the selected session: what it does now, or how it ended and why."""
    record = state.selected_session
    if record is None:
        return (Span(" output", Tone.DIM),)
    _, word, tone = standing(record)
    reason = "" if record.reason == word else record.reason
    parts = [part for part in (_activity(state, record, now), reason, _circumstances(record)) if part]
    return (Span(f" {record.task.id} ", Tone.STRONG), Span(word, tone), Span("".join(f" · {part}" for part in parts)))


def _activity(state: State, record: SessionRecord, now: datetime) -> str:
    if record.state is not RunState.RUNNING:
        return ""
    phase = current_phase(record)
    detail = f"iteration {phase.iterations}" if phase is not None and phase.iterations else ""
    if phase is not None and phase.detail:
        detail = f"{detail} {phase.detail}".strip()
    heard = state.heard.get(record.id)
    silent = (now - heard).total_seconds() if heard is not None else 0.0
    return " · ".join(part for part in (detail, f"silent for {clock(silent)}" if silent > SILENT_S else "") if part)


def _circumstances(record: SessionRecord) -> str:
    return " · ".join(part for part in (record.model, record.adapter or "", record.sandbox_level) if part)


def output_rows(state: State) -> list[Row]:
    """The streamed output of the selected session."""
    record = state.selected_session
    if record is None:
        return []
    tail = state.tails.get(record.id)
    if tail is None or not tail.blocks:
        return [row(_no_output(record), Tone.DIM)]
    rows: list[Row] = []
    if tail.dropped:
        rows.append(row(f"… {tail.dropped} earlier lines; press d for every attempt", Tone.DIM))
    for block in tail.blocks:
        rows.append(row(f"── {block_title(block)} ──", Tone.ACCENT))
        rows.extend(map(_output_row, block.lines))
    return rows


@lru_cache(maxsize=OUTPUT_ROWS)
def _output_row(line: str) -> Row:
    """The same object for the same line, so that a list finds at once what changed."""
    return row(line)


def block_title(block: Block) -> str:
    """`code · sort · attempt 2`."""
    phase, subtask, attempt = block.origin
    return " · ".join(part for part in (phase, subtask, f"attempt {attempt}") if part)


def _no_output(record: SessionRecord) -> str:
    if record.state is RunState.QUEUED:
        return "Waits for its turn."
    if record.state in FINAL_STATES:
        return "Output is streamed while the model writes; press d to read every attempt."
    return "Waiting for the model ..."
