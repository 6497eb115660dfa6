"""Mutants: one place is another, the program stays a program, what changes nothing is left alone."""

from __future__ import annotations

import ast

import pytest

from engine.evaluation.suites import general, humaneval, ood
from engine.evaluation.suites.mutate import mutants


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("def f(xs): return tumble(gyre(6, xs))", ["tumble(xs)", "gyre(6, xs)", "gyre(7, xs)"]),
        ("def f(a, b): return a < b", ["a >= b"]),
        ("def f(a, b): return a in b and b", ["a not in b", "a in b or b"]),
        ("def f(a): return -a if a < 0 else a + 1.5", ["not a < 0", "a - 1.5", "a + 2.5", "a < 1"]),
        ("def f(): return 'red'", ["'redx'"]),
        ("def f(): return True", ["return False"]),
        ("def f(a):\n    if a:\n        return a", ["if not a"]),
        ("def f(a): return a", ["return None"]),
    ],
)
def test_slips(source: str, changed: list[str]) -> None:
    found = list(mutants(source))
    for text in changed:
        assert any(text in mutant for mutant in found), (text, found)


def test_kinds_come_in_turn_and_returning_nothing_last() -> None:
    found = list(mutants("def f(a): return g(h(a)) + 1"))
    assert "g(h(a)) - 1" in found[0] and "return None" in found[-1]
    first = {mutant.split("return ")[1] for mutant in found[:3]}
    assert first == {"g(h(a)) - 1", "h(a) + 1", "g(h(a)) + 2"}, "of three kinds"


def test_nothing_to_change() -> None:
    assert (
        list(mutants("def f(): return None"))
        == list(mutants("x = y"))
        == list(mutants("def ("))
        == list(mutants('"""Only words."""'))
        == []
    )


def test_every_reference_has_mutants_and_they_are_other_programs() -> None:
    for task in (*humaneval.tasks()[::4], *general.tasks(), *ood.tasks()):
        reference = str(task.reference)
        found = list(mutants(reference))
        assert found, task.id
        assert len({ast.dump(ast.parse(mutant)) for mutant in found} | {ast.dump(ast.parse(reference))}) > 1
        assert all(ast.dump(ast.parse(mutant)) != ast.dump(ast.parse(reference)) for mutant in found), task.id
