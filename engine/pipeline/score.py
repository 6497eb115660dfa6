"""How good the result of a phase is, as a number from 0 to 1. Pure; the constants are the specification's."""

from __future__ import annotations

from collections.abc import Sequence

from engine.evaluation.verdict import Verdict

FALLBACK_SCORE = 0.05
MAX_UNIQUE = 8
"""More subtasks than this are micro-tasks that the model loses track of."""
DECOMPOSE_STOP = 0.6
MIN_PLAN_CHARS = 50
NO_TEST_RAN = "no test ran"
"""How the judge's error begins where everything ran and nothing was a test."""


def unique_names(names: Sequence[str]) -> list[str]:
    """Names without those that differ only in case, in order."""
    return list({name.lower(): name for name in reversed(names)}.values())[::-1]


def decompose_score(names: Sequence[str], *, fallback: bool = False, tests_passed: bool = False) -> float:
    """Score of a decomposition.

    Args:
        names: as listed, duplicates included.
        fallback: nothing could be parsed, the list is the one substitute.
        tests_passed: the program of a single subtask passed its tests.
    """
    if fallback:
        return FALLBACK_SCORE
    unique = len(unique_names(names))
    if 2 <= unique <= MAX_UNIQUE:
        score = min(1.0, unique / 3)
    elif unique == 1 and tests_passed:
        score = 0.5
    elif unique > MAX_UNIQUE:
        score = 0.2
    else:
        score = 0.3
    return score * 0.3 if len(names) > 2 * unique else score


def decompose_is_enough(score: float, names: Sequence[str]) -> bool:
    """Whether another decomposition would not be worth its tokens."""
    return score >= DECOMPOSE_STOP and len(unique_names(names)) >= 2


def plan_is_enough(plan: str) -> bool:
    """A plan counts when it is longer than 50 characters."""
    return len(plan.strip()) > MIN_PLAN_CHARS


def plan_score(plans: Sequence[str]) -> float:
    """Fraction of the plans that count."""
    return sum(map(plan_is_enough, plans)) / len(plans) if plans else 0.0


def subtask_fitness(verdict: Verdict) -> float:
    """Fitness of the adapters of one subtask, from its own verdict."""
    if verdict.passed:
        return 1.0
    return max(0.1, 0.8 * verdict.passed_count / verdict.ran) if verdict.ran else 0.1


def integrate_score(verdict: Verdict) -> float:
    """Fraction of the tests that pass; 0.1 for a program that at least runs; else 0."""
    if verdict.ran:
        return verdict.passed_count / verdict.ran
    return 0.1 if ran_without_tests(verdict) else 0.0


def ran_without_tests(verdict: Verdict) -> bool:
    """Whether the code ran to a clean end, only that no test was in it. The judge never calls that a success."""
    clean = verdict.exit_code == 0 or verdict.error.startswith(NO_TEST_RAN)
    return verdict.ran == 0 and clean and not verdict.timed_out
