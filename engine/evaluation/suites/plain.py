"""Rows of the suites that are written by hand, and the tasks that they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.api_learning import Split, SuiteTask
from engine.api_models import Case, CaseSuite


@dataclass(frozen=True)
class Row:
    """A function that is asked for, with inputs and what they must give, both written down by hand."""

    function: str
    prompt: str
    reference: str
    cases: Sequence[tuple[tuple[Any, ...], Any]]
    """(arguments, expected value)"""


@dataclass(frozen=True)
class Tested:
    """A piece of code that is asked for, with assertions on it."""

    name: str
    prompt: str
    reference: str
    tests: str


def task_of(row: Row | Tested, suite: str, number: int, group: str, split: Split = Split.GATE) -> SuiteTask:
    """The row as a task; each is a template of its own."""
    if isinstance(row, Tested):
        return SuiteTask(
            id=f"{suite}-{number}",
            prompt=row.prompt,
            split=split,
            template=row.name,
            tests=row.tests,
            reference=row.reference,
            group=group,
        )
    items = tuple(Case(args=arguments, expected=expected) for arguments, expected in row.cases)
    return SuiteTask(
        id=f"{suite}-{number}",
        prompt=row.prompt,
        split=split,
        template=row.function.replace("_", "-"),
        entry_point=row.function,
        cases=CaseSuite(function=row.function, items=items),
        reference=row.reference,
        group=group,
    )
