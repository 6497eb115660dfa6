"""The scripted backend's rules, and what it answers to the pipeline's prompts without any script."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from engine.inference.sidecar.backend import BackendError, BadRequestError, Job, Turn
from engine.inference.sidecar.json_instance import instance
from engine.inference.sidecar.script import Rule, Script


def _job(user: str, system: str = "", **fields: Any) -> Job:
    return Job((Turn("system", system), Turn("user", user)), max_tokens=None, **fields)


def _script(*rules: dict[str, Any]) -> Script:
    return Script(tuple(Rule.model_validate(rule) for rule in rules))


def test_the_first_matching_rule_answers() -> None:
    script = _script(
        {"match": "one", "system": "poet", "reply": "verse"},
        {"match": "one (?P<what>[a-z]+)", "reply": "a {{what}} {{unknown}}"},
        {"adapter": "blue.*", "reply": "adapted by {{adapter}}"},
    )
    assert script.answer(_job("one", "a poet")).text == "verse"
    assert script.answer(_job("one fish")).text == "a fish {{unknown}}"
    assert script.answer(_job("x", adapter="blue1")).text == "adapted by blue1"
    assert script.answer(_job("x")).text == "I have no rule for this prompt."


def test_replies_by_occurrence_and_rules_that_run_out() -> None:
    script = _script(
        {"match": "a", "replies": ["1", "2"]}, {"match": "b", "reply": "once", "times": 1}, {"reply": "rest"}
    )
    assert [script.answer(_job(text)).text for text in "aaabb"] == ["1", "2", "2", "once", "rest"]


@pytest.mark.parametrize("text", ["{", '{"rules": [{"match": "("}]}', '{"rules": [{"rply": "x"}]}', '{"rule": []}'])
def test_a_script_that_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "script.json"
    path.write_text(text)
    with pytest.raises(BackendError, match=r"script\.json"):
        Script.read(path)


@pytest.mark.parametrize(
    ("system", "user", "begins"),
    [
        ("You split a programming project into small parts.", "A calculator", "1. "),
        ("You are a software architect. You answer with a short plan.", "A calculator", "Approach"),
        ("You find the cause of failing tests.", "def add(a, b): ...", "1. "),
        ("You are a Python programmer.", "Write is_prime(n).", "```python"),
        ("You are a Python programmer.", "def frobnicate(x):\n    '''...'''", "```python"),
        ("You are a Python programmer who puts parts together into one program.", "Project: anything", "```python"),
    ],
)
def test_the_built_in_rules_answer_every_phase(system: str, user: str, begins: str) -> None:
    answer = Script.read(None).answer(_job(user, system)).text
    assert answer.startswith(begins)
    if begins == "```python":
        ast.parse(answer.removeprefix("```python\n").rstrip().removesuffix("```"))


def test_a_json_schema_gets_json_whatever_the_rule_says() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3}}}
    script = _script({"match": "good", "reply": '{"n": 9}'}, {"reply": "prose"})
    assert json.loads(script.answer(_job("bad", json_schema=schema)).text) == {"n": 3}
    assert json.loads(script.answer(_job("good", json_schema=schema)).text) == {"n": 9}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"const": 4}, 4),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": ["null", "string"]}, None),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, 1),
        ({"$ref": "#/$defs/N", "$defs": {"N": {"type": "number", "maximum": 0.25}}}, 0.25),
    ],
)
def test_an_instance_conforms(schema: dict[str, Any], value: object) -> None:
    assert instance(schema) == value


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"$ref": "#/nowhere"}, {"type": "tuple"}])
def test_a_schema_without_an_instance_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError):
        instance(schema)
