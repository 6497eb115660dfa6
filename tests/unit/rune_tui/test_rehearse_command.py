"""What the options of `rune-tui rehearse` make, what is written, and what is refused before an engine is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.api_learning import RehearsalReport, RehearsalRow, RehearseRequest
from engine.errors import ExitCode, InputError
from rune_tui.cli import run
from rune_tui.commands.rehearse import keep_rows, print_rows, read_request, summary

NOTHING: dict[str, object] = {"suites": ("mine",), "count": 60, "max_tokens": 24, "seed": 0}
ROWS = (
    RehearsalRow(prompt="Why?", completion="bécause\n \x1b[31m", system="Be short.", task="mine/a", cut=True),
    RehearsalRow(prompt="How?", completion="so", system="", task="mine/b", cut=False),
)
REPORT = RehearsalReport(
    suites=("mine", "yours"), seed=0, max_tokens=24, base_model="tiny", backend="llamacpp", base_proven=True, asked=7,
    empty=2, too_long=0, unanswered=3, tokens=99, seconds=1.5, rows=ROWS,
)  # fmt: skip


def test_the_options_are_the_defaults_of_the_request() -> None:
    assert read_request(NOTHING) == RehearseRequest(suites=("mine",))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"suites": ("mine", "mine")}, "--suite: a suite is named twice."),
        ({"suites": ("../x",)}, "--suite '../x': "),
        ({"suites": tuple(f"s{number}" for number in range(9))}, "--suite "),
        ({"count": 0}, "--count 0: "),
        ({"count": 501}, "--count 501: "),
        ({"max_tokens": 7}, "--tokens 7: "),
        ({"max_tokens": 513}, "--tokens 513: "),
        ({"seed": -1}, "--seed -1: "),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        read_request(NOTHING | options)
    assert str(refused.value).startswith(sentence)


def test_rows_are_written_whole_over_what_was_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = REPORT.model_dump(mode="json")
    file = tmp_path / "rows.jsonl"
    file.write_text("of before\n" * 99)
    assert keep_rows(result, file) == ExitCode.OK
    assert [json.loads(line) for line in file.read_text().splitlines()] == [row.model_dump() for row in ROWS]
    assert capsys.readouterr().out == ""
    print_rows(result)
    assert capsys.readouterr().out == file.read_text()
    assert list(tmp_path.iterdir()) == [file]


def test_what_became_no_row_is_said() -> None:
    said = summary(REPORT)
    assert said.startswith("2 rows (1 cut) of 7 prompts of mine, yours, 2 empty, 3 unanswered; tiny without an adapter")
    assert said.endswith("proven by the server") and "too long" not in said
    assert "not proven" in summary(REPORT.model_copy(update={"base_proven": False}))


def test_a_file_that_cannot_be_written_is_refused_before_the_model_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    arguments = ["--home", str(home), "rehearse", "--suite", "mine", "--to", str(tmp_path / "none" / "rows")]
    assert run(arguments) == ExitCode.USAGE
    assert capsys.readouterr().err.startswith("rune-tui: --to ") and not home.exists()
