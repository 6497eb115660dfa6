"""A10, A11: what is read out of a model's numbered lists."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.pipeline.parse import (
    FALLBACK_CHARS,
    Subtask,
    parse_decomposition,
    parse_diagnosis,
    project_label,
    without_duplicates,
)


def only(line: str) -> Subtask:
    parsed = parse_decomposition(line)
    assert not parsed.fallback
    (subtask,) = parsed.subtasks
    return subtask


@pytest.mark.parametrize(
    ("line", "name", "description"),
    [
        ("1. parser — reads the input", "parser", "reads the input"),
        ("1. parser - reads the input", "parser", "reads the input"),
        ("1. parser: reads the input", "parser", "reads the input"),
        ("1) parser : reads", "parser", "reads"),
        ("1. **parser** — reads", "parser", "reads"),
        ("1. **parser**: reads", "parser", "reads"),
        ("1. **parser:** reads", "parser", "reads"),
        ("**1. parser**: reads", "parser", "reads"),
        ("  2.  `parser` - reads", "parser", "reads"),
        # A11: hyphens and colons inside of names survive
        ("1. command-line-parser - reads", "command-line-parser", "reads"),
        ("1. http:client - sends", "http:client", "sends"),
        ("1. std::vector — grows", "std::vector", "grows"),
        ("1. **io: reader** — reads files", "io: reader", "reads files"),
        ("1. re-entrant-lock: keeps others out - always", "re-entrant-lock", "keeps others out - always"),
        # no separator: longer than 3 characters
        ("1. tests", "tests", ""),
        ("1. user_id handling", "user_id handling", ""),
        ("1. __init__ - starts", "__init__", "starts"),
    ],
)
def test_a11_names_and_descriptions(line: str, name: str, description: str) -> None:
    subtask = only(line)
    assert (subtask.name, subtask.description) == (name, description)


@pytest.mark.parametrize(("name", "accepted"), [("abc", False), ("abcd", True)])
def test_a_line_without_separator_needs_more_than_3_characters(name: str, accepted: bool) -> None:
    assert parse_decomposition(f"1. {name}").fallback is not accepted


def test_a11_depends_resolves_numbers_and_names_and_ignores_unknown_ones() -> None:
    text = (
        "1. model - data\n"
        "2. store - keeps [depends: 1]\n"
        "3. view - shows [depends: 1, 2]\n"
        "4. main - runs [Depends on: Store, view, ghost, 9, 0]\n"
        "5. docs - tells [depends: none]\n"
    )
    assert {part.name: part.depends for part in parse_decomposition(text).subtasks} == {
        "model": (),
        "store": ("model",),
        "view": ("model", "store"),
        "main": ("store", "view"),
        "docs": (),
    }


def test_depends_in_the_midst_of_a_line_is_taken_out_of_the_description() -> None:
    assert only("1. a-part [depends: none] - does things").description == "does things"


def test_a10_unparsable_text_becomes_one_fallback_subtask_of_200_characters() -> None:
    text = "I think " + "x" * 500
    parsed = parse_decomposition(text)
    assert parsed.fallback
    assert [part.name for part in parsed.subtasks] == ["implementation"]
    assert parsed.subtasks[0].description == text[:FALLBACK_CHARS]
    assert len(parsed.subtasks[0].description) == 200


def test_duplicates_go_by_lower_cased_name() -> None:
    listed = [Subtask("Parser", "first"), Subtask("parser", "second"), Subtask("store")]
    assert without_duplicates(listed) == [Subtask("Parser", "first"), Subtask("store")]


@given(st.text(alphabet="1.)*_-—:[]depnds, \nab", max_size=200))
def test_parsing_never_fails_and_never_gives_nothing(text: str) -> None:
    parsed = parse_decomposition(text)
    assert parsed.subtasks
    names = {part.name for part in parsed.subtasks}
    assert all(set(part.depends) <= names for part in parsed.subtasks)


def test_a14_diagnosis_matches_exact_names_then_whole_names() -> None:
    names = ["parse", "parse-args", "store"]
    text = (
        "The causes are:\n"
        "1. parse-args - forgets the flag\n"
        "2. The store loses the last item\n"
        "3. storefront is fine\n"
        "4. parser is fine too\n"
    )
    assert parse_diagnosis(text, names) == {
        "parse-args": "forgets the flag",
        "store": "The store loses the last item",
    }
    assert parse_diagnosis("1. **Parse**: off by one", names) == {"parse": "off by one"}


def test_a14_an_answer_without_a_list_names_nobody() -> None:
    assert parse_diagnosis("parse is wrong", ["parse"]) == {}
    assert parse_diagnosis("", ["parse"]) == {}


@pytest.mark.parametrize(
    ("prompt", "label"),
    [
        ("Make an adder. It adds.", "Make an adder"),
        ("Make an adder\nthat adds", "Make an adder"),
        ("Make an\nadder. Now", "Make an adder"),
    ],
)
def test_project_label_is_the_first_sentence_else_the_first_line(prompt: str, label: str) -> None:
    assert project_label(prompt) == label


GAP = " " * 200_000


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(f"{GAP}1.{GAP}core{GAP}—{GAP}adds{GAP}", Subtask("core", "adds"), id="em dash"),
        pytest.param(f"**{GAP}1. core{GAP}:{GAP}adds", Subtask("core", "adds"), id="colon"),
        pytest.param(f"1. core{GAP}-{GAP}adds", Subtask("core", "adds"), id="hyphen"),
        pytest.param(f"1. core - adds{GAP}up", Subtask("core", f"adds{GAP}up"), id="no separator"),
        pytest.param(f"1. core: [depends:{GAP}x", Subtask("core", f"[depends:{GAP}x"), id="open bracket"),
    ],
)
def test_long_runs_of_spaces_freeze_nothing(line: str, expected: Subtask) -> None:
    assert only(line) == expected
    assert parse_diagnosis(line, ["core"]) == {"core": expected.description}


@pytest.mark.timeout(10)
def test_a_long_run_of_spaces_without_a_list_is_no_list() -> None:
    text = f"{GAP}core{GAP}\n**{GAP}core"
    assert parse_decomposition(text).fallback
    assert parse_diagnosis(text, ["core"]) == {}
