"""S7: code that is wrong never passes, whatever it does to say so. Negative control: a naive runner is fooled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from verdict_tricks import KILLERS, SLEEPERS, TRICKS

from engine.api_models import Case, CaseSuite
from engine.config import load_config
from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength, Verdict
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox

TESTS = """
import unittest
from solution import *
from solution import solve

class T(unittest.TestCase):
    def test_equal(self):
        self.assertEqual(solve(2, 3), 5)
    def test_unequal(self):
        self.assertFalse(solve(2, 3) != 5)
"""

CLOSE = """
def check(candidate):
    assert abs(candidate(2, 3) - 5) < 1e-6
"""

ORDERED = """
import unittest
class T(unittest.TestCase):
    def test_close(self):
        self.assertAlmostEqual(solve(2, 3), 5)
assert 4.5 < solve(2, 3) < 5.5
"""

CASES = CaseSuite(function="solve", items=(Case(args=(2, 3), expected=5), Case(args=(10, -4), expected=6)))
CHECKS = (Checks(tests=TESTS), Checks(tests=CLOSE), Checks(tests=ORDERED), Checks(cases=CASES))
HONEST = "def solve(a, b):\n    return a + b\n"


def make_judge(timeout_s: float) -> Judge:
    settings = load_config().sandbox.model_copy(update={"timeout_s": timeout_s, "min_level": "none"})
    return Judge(Sandbox(settings, probe(settings)))


@pytest.fixture(scope="module")
def judge() -> Judge:
    return make_judge(20.0)


@pytest.fixture(scope="module")
def impatient_judge() -> Judge:
    return make_judge(3.0)


async def verdicts(judge: Judge, code: str, checks: tuple[Checks, ...]) -> list[Verdict]:
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(judge.check(Solution(code, {}, "solve"), one)) for one in checks]
    return [task.result() for task in running]


def assert_refused(verdict: Verdict) -> None:
    assert not verdict.passed, verdict
    assert not verdict.infrastructure, f"a trick must not look like a broken judge: {verdict}"
    assert verdict.failures or verdict.error


async def test_the_right_code_passes_these_checks(judge: Judge) -> None:
    for verdict in await verdicts(judge, HONEST, CHECKS):
        assert verdict.passed and verdict.strength is Strength.VERIFIED, verdict


@pytest.mark.parametrize("name", [*TRICKS, *KILLERS])
async def test_a_trick_does_not_pass(judge: Judge, name: str) -> None:
    """S7, for given tests (equality, closeness, order) and for cases."""
    for verdict in await verdicts(judge, {**TRICKS, **KILLERS}[name], CHECKS):
        assert_refused(verdict)


@pytest.mark.parametrize("name", SLEEPERS)
async def test_a_sleeper_does_not_pass(impatient_judge: Judge, name: str) -> None:
    """S7: sleeping past the deadline is a timeout that names the test."""
    for verdict in await verdicts(impatient_judge, SLEEPERS[name], (CHECKS[0], CHECKS[3])):
        assert_refused(verdict)
        assert verdict.timed_out, verdict


async def test_tricks_do_not_pass_under_pytest(judge: Judge) -> None:
    """S7: the same through the pytest runner."""
    tests = "import pytest\n\n\ndef test_equal():\n    assert solve(2, 3) == 5\n\n\n"
    tests += "def test_close():\n    assert solve(2, 3) == pytest.approx(5)\n"
    chosen = ("patches_pytest", "raises_skip_test", "lying_eq", "lying_arithmetic", "brings_its_own_tests")
    checks = (Checks(tests=tests),)
    (honest,), *found = await asyncio.gather(
        verdicts(judge, HONEST, checks), *(verdicts(judge, TRICKS[name], checks) for name in chosen)
    )
    assert honest.passed and honest.ran == 2, honest
    for name, (verdict,) in zip(chosen, found, strict=True):
        assert_refused(verdict)
        assert (verdict.failed, verdict.skipped) == (2, 0), name


CHEAP = (
    "prints_a_test_summary",
    "exits_0_when_called",
    "exits_0_at_import",
    "sys_exit_0_when_called",
    "sys_exit_0_at_import",
    "patches_unittest",
    "raises_skip_test",
    "atexit",
)


@pytest.mark.parametrize("name", CHEAP)
async def test_cheap_tricks_do_not_pass_in_process(judge: Judge, name: str) -> None:
    """The weaker verdict: code and tests share a process, and still these do not pass."""
    verdict = await judge.check(Solution(TRICKS[name], {}, "solve"), Checks(tests=TESTS, in_process=True))
    assert_refused(verdict)
    assert verdict.strength in (Strength.IN_PROCESS, Strength.NONE)


FOOLING = (
    "exits_0_when_called",
    "exits_0_at_import",
    "sys_exit_0_at_import",
    "lying_eq",
    "lying_eq_of_int",
    "patches_unittest",
    "atexit",
    "raises_skip_test",
    "mock_any",
)


@pytest.mark.parametrize("name", FOOLING)
def test_negative_control_a_naive_runner_is_fooled(tmp_path: Path, name: str) -> None:
    """Code, blank line, tests, exit status: what a judge that trusts the process says of the same tricks."""
    script = f"{TRICKS[name]}\n{TESTS.replace('from solution import *', '').replace('from solution import solve', '')}"
    path = tmp_path / "script.py"
    path.write_text(f"{script}\nunittest.main()\n", encoding="utf-8")
    result = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, timeout=90, check=False)
    assert result.returncode == 0


def test_there_are_enough_tricks() -> None:
    assert len(TRICKS) + len(KILLERS) + len(SLEEPERS) >= 20
