"""Exports: complete, the same in jsonl and csv, and md that foreign text cannot break out of."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from batch_samples import HOSTILE, attempt, session, trajectory
from hypothesis import given
from hypothesis import strategies as st

from engine.api_models import AttemptRecord, Event, Trajectory
from engine.errors import InputError
from rune_tui.export import (
    ATTEMPT_COLUMNS,
    EVENT_COLUMNS,
    TEXT_COLUMNS,
    Row,
    attempt_rows,
    code_span,
    csv_header,
    csv_rows,
    event_line,
    event_row,
    fenced,
    jsonl,
    parse_since,
    run_card,
)

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def event(**fields: object) -> Event:
    base = {
        "sequence": 1,
        "id": "i",
        "kind": "created",
        "subject": "session/rune-a",
        "payload": {"a": [1, None, HOSTILE]},
    }
    return Event.model_validate(base | {"source": "engine", "timestamp": "2026-11-22T10:00:00+00:00"} | fields)


def read_csv(text: str) -> list[Row]:
    """The rows of a CSV export, by the rule that its module states."""
    records = csv.DictReader(io.StringIO(text, newline=""))
    return [{name: cell if name in TEXT_COLUMNS else json.loads(cell) for name, cell in row.items()} for row in records]


def test_jsonl_and_csv_agree_field_for_field_and_leave_nothing_out() -> None:
    rows = list(attempt_rows(trajectory()))
    from_jsonl = [json.loads(line) for line in "".join(jsonl(rows)).splitlines()]
    from_csv = read_csv(csv_header(ATTEMPT_COLUMNS) + "".join(csv_rows(rows, ATTEMPT_COLUMNS)))
    assert from_csv == from_jsonl == rows and len(rows) == 4
    for row, original in zip(from_jsonl, trajectory().attempts, strict=True):
        fields = {name: row[name] for name in AttemptRecord.model_fields}
        assert AttemptRecord.model_validate(fields) == original
        assert (row["task_id"], row["outcome"], row["run_id"]) == ("a", "verified", "batch-00000000-1")


def test_events_agree_too_with_and_without_a_session() -> None:
    rows = [event_row(event()), event_row(event(session_id="rune-a", subject="null", kind='a,"b"\n'))]
    from_csv = read_csv(csv_header(EVENT_COLUMNS) + "".join(csv_rows(rows, EVENT_COLUMNS)))
    assert from_csv == [json.loads(line) for line in jsonl(rows)] == rows


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")))
def test_any_text_survives_both_forms(text: str) -> None:
    rows = list(attempt_rows(Trajectory(session=session(), attempts=(attempt(stdout=text, verdict={"x": text}),))))
    assert read_csv(csv_header(ATTEMPT_COLUMNS) + "".join(csv_rows(rows, ATTEMPT_COLUMNS))) == rows
    assert "".join(jsonl(rows)).isascii()


def test_golden_bytes_of_jsonl_and_csv() -> None:
    rows = [event_row(event(payload={"state": "queued"}))]
    assert "".join(jsonl(rows)) == (
        '{"sequence": 1, "id": "i", "kind": "created", "subject": "session/rune-a", "payload": {"state": "queued"}, '
        '"source": "engine", "session_id": null, "timestamp": "2026-11-22T10:00:00+00:00", "schema_version": 1}\n'
    )
    assert csv_header(EVENT_COLUMNS) + "".join(csv_rows(rows, EVENT_COLUMNS)) == (
        "sequence,id,kind,subject,payload,source,session_id,timestamp,schema_version\r\n"
        '1,i,created,session/rune-a,"{""state"": ""queued""}",engine,null,2026-11-22T10:00:00+00:00,1\r\n'
    )


GOLDEN_CARD = """\
# a: verified

| | |
|---|---|
| session | rune-a |
| run | batch-00000000-1 |
| attempts | 2 |
| tokens | 50 |
| seconds | 1.2 |
| backend | scripted |
| model | m |
| adapter | - |
| sandbox | strict |
| created | 2026-11-22T10:00:00.000000+00:00 |
| reason | - |

## Task

```text
do it
```

## Attempt 1: attempt, passed

0 + 0 tokens, 0.0 s to generate, 0.0 s to execute

```python
x = 1
```

Output:

````text
```
````

## Final code

```python
x = 1
```
"""


def test_golden_bytes_of_the_run_card() -> None:
    assert run_card(Trajectory(session=session(), attempts=(attempt(stdout="```"),))) == GOLDEN_CARD


def open_fence_at_end(markdown: str) -> bool:
    """Whether a code block is still open, by CommonMark's rule: only as many backticks or more close it."""
    fence = 0
    for line in markdown.split("\n"):
        run = re.fullmatch(r" {0,3}(`{3,})([^`]*)", line)
        if run and not fence:
            fence = len(run[1])
        elif run and len(run[1]) >= fence and not run[2].strip():
            fence = 0
    return bool(fence)


@given(st.text(st.sampled_from("`~x \n\r\t\x1b\u2028"), max_size=60))
def test_no_text_gets_out_of_a_fence_or_a_span(text: str) -> None:
    block = fenced(text, "python")
    assert not open_fence_at_end(block)
    inside = block.split("\n")[1:-2]
    fence = block.split("\n")[-2]
    assert not any(fence in line for line in inside)
    span = code_span(text)
    ticks = re.match("`+", span)
    assert ticks is not None and ticks[0] not in span[len(ticks[0]) : -len(ticks[0])]


def test_a_fixed_fence_would_be_broken_out_of() -> None:
    """Negative control: the check above sees a block that its text closes and opens anew."""
    assert open_fence_at_end("```python\n" + "```\nfree" + "\n```\n")


def test_markdown_has_no_control_characters_and_no_markup_of_strangers() -> None:
    card = run_card(trajectory()) + event_line(event(kind="*x*", subject="<b>[a](b)"))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028]", card)
    assert "\\*x\\*" in card and "\\<b\\>\\[a\\]\\(b\\)" in card
    assert not open_fence_at_end(card)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22T10:30", datetime(2026, 11, 22, 10, 30, tzinfo=UTC)),
        ("2026-11-22T10:30:00+02:00", datetime(2026, 11, 22, 8, 30, tzinfo=UTC)),
        ("90s", NOW - timedelta(seconds=90)),
        (" 2h ", NOW - timedelta(hours=2)),
        ("7d", NOW - timedelta(days=7)),
    ],
)
def test_since_is_a_date_a_time_or_an_age(text: str, expected: datetime) -> None:
    assert parse_since(text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "-2h", "2y", "999999w", "2026-13-01", "\x1b[2J"])
def test_bad_since_is_one_plain_sentence(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_since(text, NOW)
    assert "--since" in str(caught.value) and str(caught.value).isprintable()


def test_since_leaves_out_older_attempts() -> None:
    since = datetime(2026, 11, 22, 10, 3, tzinfo=UTC)
    assert [row["number"] for row in attempt_rows(trajectory(), since)] == [3, 4]
    assert "Attempt 2" not in run_card(trajectory(), since) and "Attempt 3" in run_card(trajectory(), since)
