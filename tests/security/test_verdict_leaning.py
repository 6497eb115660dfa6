"""S7: tests lean on names, modules and protocols besides the solution's answer; none of them is the solution's to choose.

Negative control: the honest `solve` passes every one of the suites, so it is the trick alone that is refused.
"""
# ruff: noqa: E501 - Python sources as text

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from engine.config import load_config
from engine.evaluation.judge import Checks, Judge, Solution
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox

HONEST = "def solve(a, b):\n    return a + b\n"
WRONG = "def solve(a, b):\n    return 0\n\n\n"
CASE = "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_it(self):\n        "


@dataclass(frozen=True)
class Trick:
    name: str
    code: str
    tests: str
    honest: str = HONEST
    files: Mapping[str, str] = field(default_factory=dict[str, str])


TRICKS = (
    Trick(
        "star-import-replaces-a-module-of-the-tests",
        WRONG + "class math:\n    isclose = staticmethod(lambda *a, **k: True)\n",
        "import math\nfrom solution import *\nassert math.isclose(solve(2, 3), 5)\n",
    ),
    Trick(
        "star-import-replaces-a-helper-of-the-tests",
        WRONG + "def close(a, b):\n    return True\n",
        "def close(a, b):\n    return abs(a - b) < 1e-6\n\n\nfrom solution import *\nassert close(solve(2, 3), 5)\n",
    ),
    Trick(
        "star-import-replaces-the-recorder-of-asserts",
        WRONG + "class Recorder:\n    def hit(self, number): ...\n    def caught(self, number, error): ...\n"
        "    def failure(self, *a): return Exception()\n\n\nglobals()['@rune'] = Recorder()\n__all__ = ['solve', '@rune']\n",
        "from solution import *\nassert solve(2, 3) == 5\n" + CASE + "self.assertEqual(1, 1)\n",
    ),
    Trick(
        "star-import-replaces-the-builtins",
        WRONG + "globals()['__builtins__'] = {'abs': lambda x: 0}\n__all__ = ['solve', '__builtins__']\n",
        "from solution import *\n\n\ndef check(candidate):\n    assert abs(candidate(2, 3) - 5) < 1e-6\n",
    ),
    Trick(
        "a-class-in-place-of-a-module-that-the-tests-did-not-import",
        WRONG + "class math:\n    isclose = staticmethod(lambda *a, **k: True)\n",
        "assert math.isclose(solve(2, 3), 5)\n",
        honest="import math\n\n\n" + HONEST,
    ),
    Trick(
        "a-file-named-like-a-library-module",
        WRONG,
        "import statistics\nassert statistics.fmean([solve(2, 3), 5]) == 5\n",
        files={"statistics.py": "def fmean(values):\n    return 5\n"},
    ),
    Trick(
        "a-file-named-like-pytest",
        WRONG,
        "import pytest\nassert solve(2, 3) == pytest.approx(5)\n",
        files={"pytest.py": "def approx(value):\n    return 0\n"},
    ),
    Trick(
        "contains-everything",
        "class Anything:\n    def __contains__(self, item):\n        return True\n\n\ndef solve(a, b):\n    return Anything()\n",
        "assert 5 in solve(2, 3)\n",
        honest="def solve(a, b):\n    return [a + b]\n",
    ),
    Trick(
        "contains-everything-and-iterates",
        "class Anything(list):\n    def __contains__(self, item):\n        return True\n\n\ndef solve(a, b):\n    return Anything()\n",
        CASE + "self.assertIn(5, solve(2, 3))\n",
        honest="class Items(list): ...\n\n\ndef solve(a, b):\n    return Items([a + b])\n",
    ),
    Trick(
        "a-named-tuple-that-equals-everything",
        "from collections import namedtuple\n\n\nclass Pair(namedtuple('Pair', 'a b')):\n"
        "    def __eq__(self, other):\n        return True\n\n\ndef solve(a, b):\n    return Pair(0, 0)\n",
        "assert solve(2, 3) == (2, 3)\n",
        honest="from collections import namedtuple\n\n\nPair = namedtuple('Pair', 'a b')\n\n\ndef solve(a, b):\n    return Pair(a, b)\n",
    ),
    Trick(
        "the-difference-of-any-set",
        "class Same:\n    def difference(self, other):\n        self.other = other\n        return set()\n"
        "    def __iter__(self):\n        return iter(self.other)\n\n\ndef solve(a, b):\n    return Same()\n",
        CASE + "self.assertSetEqual(solve(2, 3), {5})\n",
        honest="def solve(a, b):\n    return {a + b}\n",
    ),
)


@pytest.fixture(scope="module")
def judge() -> Judge:
    settings = load_config().sandbox.model_copy(update={"timeout_s": 20.0, "min_level": "none"})
    return Judge(Sandbox(settings, probe(settings)))


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick.name)
async def test_what_tests_lean_on_is_genuine(judge: Judge, trick: Trick) -> None:
    checks = Checks(trick.tests)
    honest, forged = await asyncio.gather(
        judge.check(Solution(trick.honest, {}, "solve"), checks),
        judge.check(Solution(trick.code, trick.files, "solve"), checks),
    )
    assert honest.passed, honest
    assert not forged.passed and not forged.infrastructure, forged
    assert forged.failed > 0


FAULTS = {
    "no-module-after-its-import": ("import sys\n\n\nsys.modules['solution'] = None\n", "solve"),
    "raises-when-asked-for-a-builtin-name": ("def __getattr__(name):\n    raise ValueError(name)\n", "pow"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_solution_cannot_look_like_a_broken_judge(judge: Judge, name: str) -> None:
    """A judge that fails says nothing about the code, so no code may make it seem so."""
    code, entry_point = FAULTS[name]
    verdict = await judge.check(Solution(code, {}, entry_point), Checks("assert pow(2, 3) == 8\n"))
    assert not verdict.passed and not verdict.infrastructure and verdict.failures, verdict


async def test_half_a_surrogate_pair_does_not_reach_a_verdict(judge: Judge) -> None:
    """No UTF-8 can hold it: stored, it would end every reading of the session's attempts and of the journal."""
    code = "def solve(a, b):\n    raise ValueError('\\ud800 is no text')\n"
    verdict = await judge.check(Solution(code), Checks("assert solve(2, 3) == 5\n"))
    assert verdict.failures[0].message == "? is no text"
    str(verdict.to_json()).encode("utf-8")
