"""What a prompt shows of a task's tests, cases and files."""

from __future__ import annotations

import pytest

from engine.api_models import TaskSpec
from engine.pipeline.files import files_text, shown_tests, target_text


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("from solution import f\n\ndef test_it():\n    x = 1\n    assert f(1) == 2\n", "assert f(1) == 2"),
        ("assert f(1) == 2\nassert f(2) == 3\nassert f(1) == 2", "assert f(1) == 2\nassert f(2) == 3"),
        (
            "class T(TestCase):\n    def test(self):\n        self.assertEqual(f(1), 2)\n        self.helper()\n",
            "self.assertEqual(f(1), 2)",
        ),
        ("check(f)", "check(f)"),
        ("not python (", "not python ("),
    ],
)
def test_assertions_are_shown_without_what_surrounds_them(source: str, shown: str) -> None:
    assert shown_tests(TaskSpec(id="t", prompt="p", tests=source)) == shown


def test_the_target_never_shows_hidden_tests() -> None:
    task = TaskSpec(id="t", prompt="p", tests="assert f(1)", hidden_tests="assert secret(1)", entry_point="f")
    assert target_text(task) == "The program must define the function f.\nIt is tested with:\nassert f(1)"
    assert target_text(task, with_tests=False) == "The program must define the function f."


def test_files_are_shown_smallest_first_within_the_limit() -> None:
    files = {"big.py": "x" * 100, "a.py": "a = 1\n"}
    assert files_text(files, 1000) == "# a.py\na = 1\n# big.py\n" + "x" * 100
    assert len(files_text(files, 30)) == 30
    assert files_text(files, 30).startswith("# a.py\na = 1")
    assert files_text({}, 30) == ""


PROMPT = 'def half(x):\n    """Half of x.\n    >>> half(4)\n    2\n    >>> half( 3 )\n    1.5\n    """'


def task(prompt: str, tests: str, **more: str) -> TaskSpec:
    return TaskSpec(id="t", prompt=prompt, tests=tests, entry_point="half", **more)


def test_examples_of_the_docstring_are_not_repeated() -> None:
    assert shown_tests(task(PROMPT, "assert half(4) == 2\nassert half(3) == 1.5")) == ""


def test_an_example_with_other_arguments_is_shown() -> None:
    assert shown_tests(task(PROMPT, "assert half(4) == 2\nassert half(40) == 20")) == "assert half(40) == 20"


def test_a_case_that_needs_several_calls_is_shown_unless_all_of_them_are() -> None:
    assert shown_tests(task(PROMPT, "assert half(half(8)) == 2")) == "assert half(half(8)) == 2"


def test_without_examples_in_the_text_all_tests_and_the_name_are_shown() -> None:
    text = target_text(task("Halve a number.", "assert half(4) == 2"))
    assert text == "The program must define the function half.\nIt is tested with:\nassert half(4) == 2"


def test_a_stub_in_the_text_names_the_function_well_enough() -> None:
    assert target_text(task(PROMPT, "assert half(4) == 2")) == ""
