"""What counts as a test, what a verdict says of a failure, and what is the judge's own fault (A06, A07)."""
# ruff: noqa: E501 - Python sources as text

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from engine.evaluation import programs
from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength, Verdict
from engine.sandbox.run import Sandbox

CODE = """\
class Odd(ValueError):
    pass


def half(n):
    if n % 2:
        raise Odd(f"{n} is odd")
    return n // 2
"""


async def check(judge: Judge, tests: str, code: str = CODE, **files: str) -> Verdict:
    return await judge.check(Solution(code, {f"{name}.py": text for name, text in files.items()}), Checks(tests=tests))


async def test_failures_carry_what_a_repair_needs(judge: Judge) -> None:
    tests = """\
import unittest

class T(unittest.TestCase):
    def test_got_expected(self):
        self.assertEqual(half(4), 3)
    def test_expected_got(self):
        self.assertEqual(7, half(4))
    def test_raises(self):
        half(3)

assert half(8) == 5
"""
    verdict = await check(judge, tests)
    found = {failure.name: failure for failure in verdict.failures}
    assert (verdict.ran, verdict.failed) == (4, 4)
    assert (found["T.test_got_expected"].expected, found["T.test_got_expected"].got) == ("3", "2")
    assert (found["T.test_expected_got"].expected, found["T.test_expected_got"].got) == ("7", "2")
    raised = found["T.test_raises"]
    assert (raised.kind, raised.message, raised.line) == ("Odd", "3 is odd", 7)
    assert "raise Odd" in raised.source_line
    plain = found["line 11"]
    assert (plain.kind, plain.expected, plain.got) == ("AssertionError", "5", "4")


async def test_skips_and_expected_failures_are_no_evidence(judge: Judge) -> None:
    """A suite in which everything is skipped has not run (A06)."""
    tests = """\
import unittest
import pytest

class T(unittest.TestCase):
    @unittest.skip("later")
    def test_skipped(self): ...
    @unittest.expectedFailure
    def test_expected(self): self.assertEqual(half(2), 5)

@pytest.mark.skip
def test_skipped(): ...

@pytest.mark.xfail
def test_xfail(): assert half(2) == 7
"""
    verdict = await check(judge, tests)
    assert (verdict.passed, verdict.ran, verdict.skipped) == (False, 0, 4), verdict
    assert verdict.error == "no test ran (4 skipped)" and verdict.strength is Strength.NONE
    surprising = tests.replace("half(2), 5", "half(2), 1")
    verdict = await check(judge, surprising)
    assert not verdict.passed and verdict.failed == 1


async def test_fixture_and_setup_errors_fail(judge: Judge) -> None:
    tests = """\
import unittest, pytest

class T(unittest.TestCase):
    @classmethod
    def setUpClass(cls): half(1)
    def test_a(self): ...

@pytest.fixture
def broken(): return half(3)

def test_b(broken): ...
"""
    verdict = await check(judge, tests)
    assert not verdict.passed and (verdict.ran, verdict.failed) == (2, 2), verdict


async def test_module_fixtures_and_hints_find_the_module(judge: Judge) -> None:
    tests = """\
import dataclasses, typing, unittest
ready = []

class Note: ...

@dataclasses.dataclass
class Box:
    note: "Note"

def setUpModule(): ready.append(1)

class T(unittest.TestCase):
    def test_a(self):
        self.assertEqual(ready, [1])
        self.assertIs(typing.get_type_hints(Box)["note"], Note)
        self.assertEqual(half(4), 2)
"""
    verdict = await check(judge, tests)
    assert verdict.passed and verdict.ran == 1, verdict


async def test_tests_that_are_no_python_or_have_unknown_names(judge: Judge) -> None:
    verdict = await check(judge, "def broken(:\n")
    assert not verdict.passed and "not valid Python" in verdict.error
    verdict = await check(judge, "assert nothing_of_that_name(1) == 1\n")
    assert not verdict.passed and verdict.failures[0].kind == "NameError"


async def test_project_files_are_importable(judge: Judge) -> None:
    code = "from helper import twice\n\n\ndef four():\n    return twice(2)\n"
    tests = "import helper\nfrom solution import four\nassert four() == 4 and helper.twice(3) == 6\n"
    verdict = await check(judge, tests, code, helper="def twice(x):\n    return 2 * x\n")
    assert verdict.passed, verdict


async def test_objects_of_the_tests_need_in_process(judge: Judge) -> None:
    """Subclassing works where the task says in_process, and is recorded as weaker."""
    tests = "import solution\n\n\nclass Mine(solution.Odd):\n    pass\n\n\nassert issubclass(Mine, ValueError)\n"
    apart = await check(judge, tests)
    assert not apart.passed and "in_process: true" in apart.failures[0].message
    together = await judge.check(Solution(CODE), Checks(tests=tests, in_process=True))
    assert together.passed and together.strength is Strength.IN_PROCESS, together


async def test_syntax_error_starts_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_program: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(sandbox, "start", start)
    judge = Judge(sandbox)
    for verdict in (
        await judge.check(Solution("x = 1\ndef f(:\n"), Checks(tests="assert x == 1")),
        await judge.self_check(Solution("x = 1\ndef f(:\n")),
    ):
        assert not verdict.passed and verdict.failures[0].kind == "SyntaxError" and verdict.failures[0].line == 2


async def test_no_checks_is_no_pass(judge: Judge) -> None:
    assert not (await judge.check(Solution(CODE), Checks())).passed


async def test_a_broken_judge_is_infrastructure(judge: Judge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A81: neither a pass nor a wrong answer. Negative control: a crash of the code is a wrong answer."""
    crash = await check(judge, "assert half(2) == 1\n", "import os\nos._exit(97)\n")
    assert not crash.infrastructure
    monkeypatch.setattr(programs, "INSIDE", tmp_path)
    verdict = await check(judge, "assert half(2) == 1\n")
    assert verdict.infrastructure and not verdict.passed and verdict.failed == 0, verdict


async def test_tests_that_end_the_judge_are_infrastructure(judge: Judge) -> None:
    verdict = await check(judge, "import os\nassert half(2) == 1\nos._exit(0)\n")
    assert verdict.infrastructure and not verdict.passed


# --- tests that the model wrote itself ----------------------------------------------------------------------------


SELF = {
    "unittest-without-runner": CODE
    + "\nimport unittest\n\n\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(half(4), 2)\n",
    "asserts": CODE + "\nassert half(4) == 2\nprint('fine')\n",
    "functions": CODE + "\n\ndef test_a():\n    assert half(4) == 2\n",
    "main-guard": CODE + "\nif __name__ == '__main__':\n    assert half(4) == 2\n",
}
SELF["unittest-with-runner"] = SELF["unittest-without-runner"] + "\n\nif __name__ == '__main__':\n    unittest.main()\n"
SELF["unittest-with-bare-runner"] = SELF["unittest-without-runner"] + "\n\nunittest.main()\n"


@pytest.mark.parametrize("name", SELF)
async def test_own_tests_run_once(judge: Judge, name: str) -> None:
    """A07: a TestCase without a runner gets one, an existing one does not run twice."""
    verdict = await judge.self_check(Solution(SELF[name]))
    assert verdict.passed and (verdict.ran, verdict.strength) == (1, Strength.SELF_CHECKED), verdict
    wrong = await judge.self_check(Solution(SELF[name].replace("n // 2", "n // 3")))
    assert not wrong.passed and (wrong.ran, wrong.failed) == (1, 1), wrong


async def test_code_without_own_tests_is_not_self_checked(judge: Judge) -> None:
    """A06: printing a summary, or an assert inside of a function that is no test, is nothing."""
    for code in (CODE, "print('Ran 5 tests OK')\n", "def f(x):\n    assert x\n    return x\n\n\nf(1)\n"):
        verdict = await judge.self_check(Solution(code))
        assert (verdict.passed, verdict.ran, verdict.strength) == (False, 0, Strength.NONE), verdict


# --- resources ----------------------------------------------------------------------------------------------------


async def test_a_hang_is_a_timeout_that_names_the_test(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "limits", dataclasses.replace(sandbox.limits, timeout_s=3.0))
    tests = "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_hang(self):\n        half(2)\n"
    verdict = await check(Judge(sandbox), tests, "def half(n):\n    print('begun', flush=True)\n    while True: pass\n")
    assert verdict.timed_out and not verdict.passed and verdict.failures[0].name == "T.test_hang", verdict
    assert verdict.stdout == "begun\n", "partial output is kept"


async def test_cancellation_leaves_nothing_open(judge: Judge) -> None:
    """C6: the descriptors of a cancelled judgement are closed."""
    before = len(list(await asyncio.to_thread(lambda: list(Path("/proc/self/fd").iterdir()))))
    task = asyncio.ensure_future(check(judge, "half(2)", "import time\ntime.sleep(60)\n"))
    done, _ = await asyncio.wait([task], timeout=0.7)
    assert not done
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    after = len(list(await asyncio.to_thread(lambda: list(Path("/proc/self/fd").iterdir()))))
    assert after <= before + 1
