"""Section 3: every budget at its limit and one above; strict variables; a user's overrides."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from engine.errors import ConfigError
from engine.pipeline.prompts import (
    BUDGETS,
    FLAGS,
    PROMPT_KEYS,
    SYSTEM_KEYS,
    TRAJECTORY_KEYS,
    Budget,
    Part,
    Prompts,
    Value,
    clip,
    load_prompts,
    row_of,
)

LISTS = frozenset({"siblings", "prior_repairs", "skeletons", "codes"})

SPECIFIED = [
    ("decompose", "project", 1200),
    ("decompose", "prior", 500),
    ("plan", "project", 300),
    ("plan", "description", 500),
    ("plan", "prior", 300),
    ("code", "project", 300),
    ("code", "description", 300),
    ("code", "plan", 800),
    ("code", "existing_code", 800),
    ("code", "dependencies", 600),
    ("code_retry", "project", 200),
    ("code_retry", "description", 200),
    ("code_retry", "plan", 600),
    ("code_retry", "existing_code", 600),
    ("code_retry", "dependencies", 400),
    ("code_retry", "errors", 300),
    ("code_retry", "failed_tests", 200),
    ("code_continue", "project", 300),
    ("code_continue", "description", 200),
    ("code_continue", "written", 1200),
    ("code_continue", "dependencies", 600),
    ("code_repair", "project", 300),
    ("code_repair", "existing_code", 800),
    ("code_repair", "diagnosis", 300),
    ("code_repair", "siblings", 400),
    ("code_repair", "prior_repairs", 200),
    ("integrate", "project", 800),
    ("integrate", "skeletons", 1000),
    ("integrate", "summary", 1500),
    ("diagnose", "project", 500),
    ("diagnose", "codes", 600),
    ("diagnose", "errors", 500),
]


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return load_prompts()


def values(key: str, **given: Value) -> dict[str, Value]:
    """Every variable of the template, nearly empty, with the ones given."""
    filled: dict[str, Value] = {name: [] if name in LISTS else "" for name in row_of(key)}
    return {**filled, **dict.fromkeys(FLAGS, False), **given}


@pytest.mark.parametrize(("key", "variable", "limit"), SPECIFIED)
@pytest.mark.parametrize("over", [0, 1])
def test_budget_is_exact_at_the_limit_and_cuts_one_above(
    prompts: Prompts, key: str, variable: str, limit: int, over: int
) -> None:
    text = "§" * (limit + over)
    value: Value = [Part("p", text), Part("q", text)] if variable in LISTS else text
    rendered = prompts.trajectory(key, values(key, **{variable: value}))
    assert rendered.count("§") == limit * (2 if variable in LISTS else 1)


def test_the_table_is_the_specified_one() -> None:
    assert {(key, variable, BUDGETS[key][variable].chars) for key, variable, _ in SPECIFIED} == set(SPECIFIED)


@pytest.mark.parametrize("key", PROMPT_KEYS)
def test_every_prompt_renders_within_its_budgets_and_has_a_persona(prompts: Prompts, key: str) -> None:
    long = {name: [Part(name, "§" * 9999)] if name in LISTS else "§" * 9999 for name in row_of(key)}
    prompt = prompts.render(key, {**long, **dict.fromkeys(FLAGS, True)})
    # A variable may stand in the facts and again in the instruction.
    assert prompt.user.count("§") <= 2 * sum(budget.chars for budget in row_of(key).values())
    assert prompt.system.startswith("You ")
    assert "answer with" in prompt.system or "answer in" in prompt.system


def test_the_ten_phase_keys_have_their_system_prompt() -> None:
    ten = (
        "decompose decompose_concise plan code code_retry code_continue diagnose code_repair integrate integrate_retry"
    )
    assert set(ten.split()) <= set(SYSTEM_KEYS)
    assert set(TRAJECTORY_KEYS) == set(ten.split()) - {"decompose_concise", "integrate_retry"}


@pytest.mark.parametrize("key", PROMPT_KEYS)
def test_undefined_variables_are_errors(prompts: Prompts, key: str) -> None:
    complete = values(key)
    without = {name: value for name, value in complete.items() if name != "project"}
    with pytest.raises(UndefinedError):
        prompts.render(key, without)


def test_the_variable_part_comes_before_the_worked_example(prompts: Prompts) -> None:
    text = prompts.trajectory("decompose", values("decompose", project="MY PROJECT", prior="MY PRIOR"))
    assert text.index("MY PROJECT") < text.index("MY PRIOR") < text.index("Example")


def test_shrinking_halves_what_is_variable(prompts: Prompts) -> None:
    full = values("diagnose", project="§" * 500)
    assert prompts.render("diagnose", full).user.count("§") == 500
    assert prompts.render("diagnose", full, shrink=0.5).user.count("§") == 250


def test_errors_keep_their_end_and_everything_else_its_beginning() -> None:
    assert clip("abcdef", Budget(3)) == "abc"
    assert clip("abcdef", Budget(3, "tail")) == "def"
    assert BUDGETS["diagnose"]["errors"].keep == "tail"
    assert BUDGETS["code_continue"]["written"].keep == "tail"
    assert BUDGETS["code"]["plan"].keep == "head"


def override(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    return folder


def test_a_users_template_replaces_one_of_ours(tmp_path: Path) -> None:
    prompts = load_prompts(override(tmp_path, "prompt/plan.j2", "PLAN {{ name }}!"))
    prompt = prompts.render("plan", values("plan", name="parser", project="P"))
    assert prompt.user.endswith("PLAN parser!")
    assert "Project: P" in prompt.user


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("prompt/plan.j2", "{{ ghost }}", "uses ghost"),
        ("prompt/plan.j2", "{% if %}", r"prompt/plan\.j2"),
        ("prompt/plann.j2", "x", "not one of our templates"),
        ("system/plan.j2", "{{ project }}", "uses project"),
        ("plan.j2", "x", "not one of our templates"),
    ],
)
def test_overrides_are_checked_at_start(tmp_path: Path, name: str, text: str, message: str) -> None:
    folder = override(tmp_path / "templates", name, text)
    with pytest.raises(ConfigError, match=message):
        load_prompts(folder)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        load_prompts(tmp_path / "nothing")


def test_hostile_text_is_never_a_template(prompts: Prompts) -> None:
    evil = "{{ 7 * 7 }}{% for x in y %}"
    assert evil in prompts.render("plan", values("plan", project=evil)).user
