"""What a prompt shows of a task's tests, cases and files."""

from __future__ import annotations

import pytest

from engine.api_models import TaskSpec
from engine.pipeline import files as module
from engine.pipeline.files import files_text, target_text

examples = module.test_examples  # under a name that pytest does not collect


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
    assert examples(source) == shown


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
