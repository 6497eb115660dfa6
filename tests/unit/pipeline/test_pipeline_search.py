"""The explorer's grammar and search, without a sandbox: both are pure."""

from __future__ import annotations

import operator
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.small_api import MODULE, api_task, rotate_then_order

from engine.api_models import Case, CaseSuite, TaskSpec
from engine.pipeline import search as searching
from engine.pipeline.grammar import Grammar, is_of_grammar, read_grammar, solution_source, steps_of
from engine.pipeline.search import MAX_EQUAL, MAX_LEVEL, Call, Constant, Outcome, Problem, TooSlow, fits, search


def namespace() -> dict[str, Callable[..., Any]]:
    found: dict[str, Any] = {}
    exec(compile(MODULE, "runekit", "exec", dont_inherit=True), found)
    return found


def grammar_of(task: TaskSpec) -> Grammar:
    grammar = read_grammar(task)
    assert isinstance(grammar, Grammar), grammar
    return grammar


def always(value: object) -> Callable[[object], object]:
    return lambda _: value


def same(value: object) -> object:
    return value


def problem_of(grammar: Grammar, budget: int = 20_000, seed: int = 0) -> Problem:
    return Problem(
        calls=tuple(Call(form.name, form.takes, form.gives, form.places) for form in grammar.forms),
        parameters=grammar.parameters,
        constants=grammar.constants,
        arguments=tuple(example.arguments for example in grammar.examples),
        expected=tuple(example.expected for example in grammar.examples),
        budget=budget,
        seed=seed,
    )


@pytest.fixture(autouse=True)
def hangs_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in the sandbox: a call that hangs is ended by a signal, only sooner."""

    def too_slow(number: int, frame: object) -> None:
        raise TooSlow

    monkeypatch.setattr(searching, "CALL_S", 0.05)
    before = signal.signal(signal.SIGALRM, too_slow)
    yield
    signal.signal(signal.SIGALRM, before)


def find(task: TaskSpec, budget: int = 20_000, seed: int = 0) -> Outcome:
    return search(problem_of(grammar_of(task), budget, seed), namespace())


def test_the_grammar_is_what_the_files_document_and_the_text_names() -> None:
    grammar = grammar_of(rotate_then_order(3))
    assert {form.name for form in grammar.forms} == {"gyre", "tumble", "swell", "lone", "nab", "spin", "hurl"}
    assert [(constant.kind, constant.value) for constant in grammar.constants] == [("int", 2), ("int", 3)]
    assert grammar.parameters == (("xs", "list[int]"),), "the name that the module itself uses"
    assert grammar.examples[0].arguments == ([3, 1, 2, 9, 5],)
    by_name = {form.name: form for form in grammar.forms}
    assert by_name["gyre"].takes == ("int", "list[int]")
    assert len(by_name["tumble"].places) > len(by_name["hurl"].places)
    assert by_name["gyre"].places < by_name["tumble"].places, "as the text names them"


def test_three_calls_are_found_among_calls_that_hang_raise_and_change_their_arguments() -> None:
    outcome = find(rotate_then_order(3))
    assert outcome.found[0] == "tumble(nab(3, gyre(2, xs)))"
    assert outcome.level == 3
    assert outcome.programs > 50


def test_a_budget_that_is_too_small_finds_nothing_and_is_kept() -> None:
    outcome = find(rotate_then_order(3), budget=40)
    assert outcome == Outcome((), 40, outcome.level)


def test_the_same_seed_gives_the_same_programs() -> None:
    assert find(rotate_then_order(3), seed=5) == find(rotate_then_order(3), seed=5)


def test_programs_that_agree_on_every_example_are_built_on_once() -> None:
    """Observational equivalence: without it twice `tumble` alone would double each level."""
    calls = tuple(Call(name, ("list[int]",), "list[int]") for name in ("tumble", "lone"))
    hopeless = Problem(calls, (("xs", "list[int]"),), (), (([1, 2],),), ("nothing gives this",), 20_000, 0)
    # Ordering twice is ordering once and nothing is repeated: two values, each built on as often as is allowed.
    assert search(hopeless, namespace()).programs <= 2 * 2 * MAX_EQUAL
    assert search(hopeless, namespace()).programs < 2**MAX_LEVEL


def test_true_is_not_one_and_a_match_needs_every_example() -> None:
    calls = (Call("gives", ("int",), "int"),)
    ones = Problem(calls, (("n", "int"),), (), ((1,), (2,)), (1, 1), 100, 0)
    assert search(ones, {"gives": always(value=True)}).found == ()
    assert search(ones, {"gives": same}).found == ()
    assert search(ones, {"gives": always(1)}).found == ("gives(n)",)


def test_what_ends_the_process_or_cannot_be_compared_is_no_match() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError

        def __hash__(self) -> int:
            return 0

    def leave(n: int) -> int:
        raise SystemExit(0)

    calls = (Call("leave", ("int",), "int"), Call("odd", ("int",), "int"))
    problem = Problem(calls, (("n", "int"),), (), ((1,),), (7,), 100, 0)
    assert search(problem, {"leave": leave, "odd": always(Odd())}).found == ()


def test_a_type_that_is_said_must_fit() -> None:
    assert fits("list[int]", "list[int]")
    assert fits("list", "list[int]")
    assert fits("any", "str")
    assert not fits("list[str]", "list[int]")
    assert not fits("str", "int")


def test_of_programs_of_one_size_the_one_that_uses_the_texts_constants_comes_first() -> None:
    calls = (Call("plus", ("int", "int"), "int"),)
    constants = (Constant("int", 2, 9), Constant("int", 1))
    problem = Problem(calls, (("n", "int"),), constants, ((1,),), (3,), 1000, 0)
    functions = {"plus": operator.add}
    assert search(problem, functions).found[0] in ("plus(n, 2)", "plus(2, n)")


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ("assert solve([1]) == [2]", [(([1],), [2])]),
        ("assert [2] == solve([1])", [(([1],), [2])]),
        ("def test_it():\n    assert solve('a', 2) == 'aa'", [(("a", 2), "aa")]),
        ("def check(candidate):\n    assert candidate(3) is True", [((3,), True)]),
        ("assert not solve(4)\nassert solve(5)", [((4,), False), ((5,), True)]),
    ],
)
def test_examples_are_read_from_assertions(tests: str, expected: list[tuple[Any, Any]]) -> None:
    grammar = grammar_of(api_task("Do it.", tests))
    assert [(example.arguments, example.expected) for example in grammar.examples] == expected


def test_cases_are_examples_too() -> None:
    suite = CaseSuite(function="solve", items=(Case(args=([1, 2],), expected=[2, 1]),))
    grammar = grammar_of(api_task("Do it.", "", cases=suite))
    assert grammar.examples[0].arguments == ([1, 2],)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tests": "assert solve(open('x')) == 1"}, "no example"),
        ({"tests": "x = 1"}, "no example"),
        ({"files": {}}, "no function"),
        ({"files": {"runekit.py": "def f(:"}}, "no function"),
        ({"tests": "assert solve(1) == 1\nassert solve(1, 2) == 1"}, "different numbers"),
        ({"entry_point": None, "tests": "x = 1"}, "names no function"),
    ],
)
def test_a_task_that_cannot_be_searched_says_why(change: dict[str, Any], reason: str) -> None:
    task = api_task("Do it.", **{"tests": "assert solve([1]) == [1]", **change})
    answer = read_grammar(task)
    assert isinstance(answer, str)
    assert reason in answer


def test_the_solution_imports_what_the_prelude_does_not_bring() -> None:
    task = rotate_then_order(3)
    assert solution_source(grammar_of(task), "tumble(xs)") == "def solve(xs):\n    xs = tumble(xs)\n    return xs"
    bare = grammar_of(task.model_copy(update={"prelude": ""}))
    assert solution_source(bare, "tumble(xs)").startswith("from runekit import tumble\n\n\ndef solve(xs):")


@pytest.mark.parametrize(
    ("expression", "lines"),
    [
        ("tumble(gyre(2, xs))", ["xs = gyre(2, xs)", "xs = tumble(xs)", "return xs"]),
        ("f('q', g(a, b))", ["a = g(a, b)", "a = f('q', a)", "return a"]),
        ("f(xs, g(xs))", None),
        ("f(g(xs), h(xs))", None),
        ("f(3)", None),
        ("xs", None),
    ],
)
def test_a_chain_is_a_step_a_line_and_anything_else_is_not(expression: str, lines: list[str] | None) -> None:
    assert steps_of(expression) == lines


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "tumble(xs).clear()",
        "tumble(xs) or exec('x')",
        "tumble(*xs)",
        "tumble(xs, xs)",
        "_hidden(xs)",
        "tumble(ys)",
        "gyre(4, xs)",
        "lambda: xs",
        "tumble(xs)\nimport os",
        "(" * 5000,
    ],
)
def test_what_a_sandbox_sends_back_is_code_only_if_it_is_of_the_grammar(expression: str) -> None:
    grammar = grammar_of(rotate_then_order(3))
    assert not is_of_grammar(grammar, expression)
    assert is_of_grammar(grammar, "tumble(gyre(2, xs))")
