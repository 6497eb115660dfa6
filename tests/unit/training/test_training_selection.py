"""De-duplication, the cap of a task, and the split: pure decisions (A77)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.training.selection import MIN_TASKS_TO_SPLIT, Example, Selection, normal_form, select
from engine.training.spec import Turn


def example(prompt: str, completion: str, task: str = "t") -> Example:
    return Example((Turn(role="user", content=prompt),), completion, task)


def chosen(examples: list[Example], *, per_task: int = 4, held_out: float = 0.0, seed: int = 0) -> Selection:
    return select(examples, per_task=per_task, held_out=held_out, seed=seed)


BASE = "def add(a, b):\n    total = a + b\n    return total\n"


@pytest.mark.parametrize(
    "same",
    [
        "```python\n" + BASE + "```",
        "def add(a,b):\n\n    # the sum\n    total = (a + b)\n    return total",
        'def add(a, b):\n    """Say what it does."""\n    total = a + b\n    return total\n',
        "def add(x, y):\n    z = x + y\n    return z\n",
    ],
)
def test_the_same_program_in_other_clothes_is_the_same(same: str) -> None:
    assert normal_form(same) == normal_form(BASE)
    assert chosen([example("p", BASE), example("p", same)]).repeated == 1


@pytest.mark.parametrize(
    "other",
    [
        "def add(a, b):\n    total = a - b\n    return total\n",
        "def add(a, b):\n    total = a + a\n    return total\n",
        "def sub(a, b):\n    total = a + b\n    return total\n",
        "def add(a, b):\n    global total\n    total = a + b\n    return total\n",
        "def add(a, b):\n    return a + b\n",
    ],
)
def test_control_another_program_is_another(other: str) -> None:
    """Negative control: a normal form that forgets too much would throw away what is to be learned."""
    assert normal_form(other) != normal_form(BASE)
    assert len(chosen([example("p", BASE), example("p", other)]).rows) == 2


def test_answers_that_are_no_code_are_compared_by_their_words() -> None:
    assert normal_form("one,  two\nthree !") == normal_form("one, two three !")
    assert normal_form("one two !") != normal_form("one three !")
    deep = "(" * 5000 + ")" * 5000
    assert normal_form(deep) == deep


def test_a_nested_function_that_shadows_is_not_one_that_does_not() -> None:
    shadows = "def f(x):\n    return lambda x: x\n"
    closes = "def f(x):\n    return lambda y: x\n"
    assert normal_form(shadows) != normal_form(closes)


def test_the_first_of_a_task_are_kept_up_to_the_cap() -> None:
    many = [example(f"p{number}", f"x = {number}", "a") for number in range(6)]
    few = [example("q", "y = 1", "b")]
    selection = chosen([*many, *few], per_task=4)
    assert [row.completion for row in selection.rows] == ["x = 0", "x = 1", "x = 2", "x = 3", "y = 1"]
    assert (selection.repeated, selection.beyond_cap) == (0, 2)


def test_beginnings_are_kept_as_such_and_are_no_repeats_of_each_other() -> None:
    """What the base model says begins alike everywhere; each prompt's row is needed."""
    begun = "```python\ndef f(x):\n    return"
    rows = [
        Example((Turn(role="user", content=f"p{number}"),), begun, f"rehearsal/kit/t{number}", True)
        for number in range(9)
    ]
    selection = chosen([*rows, example("p1", begun)], per_task=1)
    assert [row.cut for row in selection.rows] == [True] * 9 + [False] and selection.beyond_cap == 0
    again = chosen([*rows, *rows])
    assert (len(again.rows), again.repeated) == (9, 9), "negative control: the same prompt with the same beginning"
    unnamed = [Example(row.messages, row.completion, "t", row.cut) for row in rows]
    assert chosen(unnamed, per_task=4).beyond_cap == 5, "negative control: why each has a task of its own"


def test_rows_of_other_domains_are_kept_and_never_held_out() -> None:
    own = [example(f"p{number}", f"x = {number}", f"own{number}") for number in range(10)]
    other = [replace(example(f"q{number}", f"y = {number}", f"other{number}"), keep=True) for number in range(10)]
    rows = chosen([*own, *other], held_out=0.5).rows
    assert [row.keep for row in rows] == [False] * 10 + [True] * 10
    assert [row.held_out for row in rows].count(True) == 5 and not any(row.held_out for row in rows if row.keep)
    learned = [replace(row, keep=False) for row in other]
    assert any(row.held_out for row in chosen([*own, *learned], held_out=0.5).rows[10:]), "negative control"
    assert len(chosen([*learned, *other]).rows) == 20, "to learn an answer and to keep it are two things"


def test_rows_of_other_domains_have_no_say_in_what_is_held_out() -> None:
    """Although one of them asks what is learned, under a name that sorts before."""
    own = [example(f"p{number}", f"x = {number}", f"own{number}") for number in range(10)]
    other = [replace(example(f"p{number}", f"y = {number}", f"a-rehearsal{number}"), keep=True) for number in range(10)]
    alone, beside = (chosen(rows, held_out=0.3).rows for rows in (own, [*own, *other]))
    assert beside[:10] == alone
    assert any(row.held_out for row in alone)


def crossing(selection: Selection) -> set[str]:
    """Tasks and prompts that stand on both sides."""
    sides: tuple[set[str], set[str]] = (set(), set())
    for row in selection.rows:
        sides[row.held_out].update((f"task {row.task}", f"prompt {row.messages[-1].content}"))
    return sides[0] & sides[1]


EXAMPLES = st.lists(
    st.builds(
        example,
        prompt=st.sampled_from([f"p{number}" for number in range(12)]),
        completion=st.sampled_from([f"x = {number}" for number in range(30)]),
        task=st.sampled_from([f"t{number}" for number in range(12)]),
    ),
    max_size=60,
)


@given(EXAMPLES, st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 5))
def test_a77_no_task_and_no_prompt_crosses_the_split(examples: list[Example], share: float, seed: int) -> None:
    selection = chosen(examples, held_out=share, seed=seed)
    assert crossing(selection) == set()
    assert selection == chosen(examples, held_out=share, seed=seed)
    assert len(selection.rows) + selection.repeated + selection.beyond_cap == len(examples)


def test_a77_control_a_split_by_row_leaks() -> None:
    """Negative control: every tenth row instead of every tenth task is seen by the check above."""
    rows = chosen([example(f"p{number}", f"x = {number}", f"t{number // 4}") for number in range(40)]).rows
    by_row = Selection(
        tuple(row.model_copy(update={"held_out": index % 10 == 0}) for index, row in enumerate(rows)), 0, 0
    )
    assert crossing(by_row)


@pytest.mark.parametrize(("tasks", "held"), [(MIN_TASKS_TO_SPLIT - 1, 0), (MIN_TASKS_TO_SPLIT, 1), (40, 4)])
def test_the_share_is_of_the_tasks_and_the_seed_decides_which(tasks: int, held: int) -> None:
    examples = [example(f"p{number}", f"x = {number}", f"t{number}") for number in range(tasks)]
    apart = {
        seed: {row.task for row in chosen(examples, held_out=0.1, seed=seed).rows if row.held_out} for seed in range(8)
    }
    assert {len(found) for found in apart.values()} == {held}
    assert held == 0 or len({frozenset(found) for found in apart.values()}) > 1
    more = [*examples, example("new", "z = 1", "zz")]
    kept = {row.task for row in chosen(more, held_out=0.1, seed=0).rows if row.held_out}
    assert not held or len(apart[0] - kept) <= 1, "one more task reshuffles the rest"
