"""Writes attempts and events out: JSON Lines and CSV for programs, Markdown for people.

JSON Lines and CSV are complete and say the same, column for column. In CSV a text column holds the text and any
other column its JSON, so that `null`, numbers and nested values come back as they were. Markdown leaves out control
characters, and puts code into fences that nothing inside can close.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from engine.api_models import AttemptRecord, Event, SessionRecord, Trajectory
from engine.errors import InputError
from rune_tui.terminal_text import visible, visible_line

Row = Mapping[str, object]


class Format(StrEnum):
    """How to write."""

    JSONL = "jsonl"
    CSV = "csv"
    MARKDOWN = "md"


SESSION_COLUMNS = ("task_id", "run_id", "outcome")
"""What an attempt's row says of its session, before the attempt's own fields."""

ATTEMPT_COLUMNS = (*SESSION_COLUMNS, *AttemptRecord.model_fields)
EVENT_COLUMNS = tuple(Event.model_fields)

TEXT_COLUMNS = frozenset(
    {"task_id", "session_id", "phase", "subtask", "prompt", "system_prompt", "response", "code", "stdout", "stderr"}
    | {"diagnosis", "finish_reason", "model", "backend", "sandbox_level", "created_at"}
    | {"id", "kind", "subject", "source", "timestamp"}
) - {"session_id"}
"""Columns that are always text. `session_id` is not: an event may have none, so CSV quotes it as JSON."""

_FENCE_RUN = re.compile(r"`+")
_AGE = re.compile(r"(\d{1,6})\s*([smhdw])")
_AGE_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def attempt_rows(trajectory: Trajectory, since: datetime | None = None) -> Iterator[Row]:
    """The attempts of a session as flat rows with `ATTEMPT_COLUMNS`, oldest first."""
    session = trajectory.session
    about = {
        "task_id": session.task.id,
        "run_id": session.run_id,
        "outcome": session.outcome.value if session.outcome else None,
    }
    for attempt in trajectory.attempts:
        if since is None or moment(attempt.created_at) >= since:
            yield {**about, **attempt.model_dump(mode="json")}


def event_row(event: Event) -> Row:
    """An event as a row with `EVENT_COLUMNS`."""
    return event.model_dump(mode="json")


def jsonl(rows: Iterable[Row]) -> Iterator[str]:
    """One line a row, ASCII only: no text in it can drive a terminal."""
    for row in rows:
        yield json.dumps(row, ensure_ascii=True) + "\n"


def csv_header(columns: tuple[str, ...]) -> str:
    """The first record of a CSV file."""
    return _csv_record(columns)


def csv_rows(rows: Iterable[Row], columns: tuple[str, ...]) -> Iterator[str]:
    """One record a row, without the header."""
    for row in rows:
        assert set(row) == set(columns), "a row has exactly the columns of its table"
        yield _csv_record([_cell(name, row[name]) for name in columns])


def _csv_record(cells: Iterable[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(cells)
    return buffer.getvalue()


def _cell(name: str, value: object) -> str:
    if name in TEXT_COLUMNS:
        assert isinstance(value, str), f"column {name} holds text"
        return value
    return json.dumps(value, ensure_ascii=True)


# --- Markdown ------------------------------------------------------------------------------------------------


def run_card(trajectory: Trajectory, since: datetime | None = None) -> str:
    """A session as a readable page."""
    session = trajectory.session
    attempts = [one for one in trajectory.attempts if since is None or moment(one.created_at) >= since]
    parts = [f"# {_inline(session.task.id)}: {_inline(_ending(session))}\n", _facts(session)]
    parts.append(f"## Task\n\n{fenced(session.task.prompt, 'text')}")
    parts.extend(_attempt_card(attempt) for attempt in attempts)
    if session.code is not None:
        parts.append(f"## Final code\n\n{fenced(session.code, 'python')}")
    return "\n".join(parts)


def event_line(event: Event) -> str:
    """An event as one item of a Markdown list."""
    payload = json.dumps(event.payload, ensure_ascii=True)
    when = _inline(event.timestamp)
    return f"- {event.sequence} {when} **{_inline(event.kind)}** {_inline(event.subject)} {code_span(payload)}\n"


def fenced(text: str, language: str) -> str:
    """A code block whose fence is longer than any run of backticks in the text."""
    body = visible(text)
    longest = max((len(run) for run in _FENCE_RUN.findall(body)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{body.removesuffix(chr(10))}\n{fence}\n"


def code_span(text: str) -> str:
    """Inline code that no backtick inside can close."""
    body = visible_line(text, 2000)
    longest = max((len(run) for run in _FENCE_RUN.findall(body)), default=0)
    ticks = "`" * (longest + 1)
    return f"{ticks} {body} {ticks}"


def _ending(session: SessionRecord) -> str:
    return session.outcome.value if session.outcome else session.state.value


def _facts(session: SessionRecord) -> str:
    facts = {
        "session": session.id,
        "run": session.run_id or "-",
        "attempts": str(session.attempts),
        "tokens": str(session.tokens),
        "seconds": f"{session.seconds:.1f}",
        "backend": session.backend,
        "model": session.model,
        "adapter": session.adapter or "-",
        "sandbox": session.sandbox_level,
        "created": session.created_at,
        "reason": session.reason or "-",
    }
    lines = [f"| {name} | {_inline(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *lines, ""])


def _attempt_card(attempt: AttemptRecord) -> str:
    subtask = f", {_inline(attempt.subtask)}" if attempt.subtask else ""
    mark = "passed" if attempt.passed else "not passed"
    parts = [f"## Attempt {attempt.number}: {attempt.phase.value}{subtask}, {mark}\n"]
    parts.append(
        f"{attempt.prompt_tokens} + {attempt.completion_tokens} tokens, {attempt.generate_seconds:.1f} s to generate, "
        f"{attempt.execute_seconds:.1f} s to execute\n"
    )
    body = attempt.code or attempt.response
    parts.append(fenced(body, "python" if attempt.code else "text"))
    for title, text in (("Diagnosis", attempt.diagnosis), ("Output", attempt.stdout), ("Errors", attempt.stderr)):
        if text.strip():
            parts.append(f"{title}:\n\n{fenced(text, 'text')}")
    return "\n".join(parts)


def _inline(text: str) -> str:
    """One line on which no character has a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()|~])", r"\\\1", visible_line(text))


# --- when ----------------------------------------------------------------------------------------------------


def parse_since(text: str, now: datetime) -> datetime:
    """`2026-11-22`, `2026-11-22T10:30` (UTC where no zone is given), or an age: `90s`, `30m`, `2h`, `7d`, `4w`.

    Raises:
        InputError: it is neither.
    """
    age = _AGE.fullmatch(text.strip())
    try:
        return now - timedelta(**{_AGE_UNITS[age[2]]: int(age[1])}) if age else moment(text.strip())
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"--since {visible_line(text, 60)}: give a date (2026-11-22), a time (2026-11-22T10:30) or an age (2h)."
        ) from error


def moment(text: str) -> datetime:
    """The ISO 8601 time, in UTC where it names no zone.

    Raises:
        ValueError: it is not one.
    """
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
