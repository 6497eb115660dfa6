"""What of the tasks that were measured the adapter learned from. Pure.

Of the tasks that decide none may be: the gain would be of what was learned by heart. Tasks out of distribution, and
anchors, are a sample of what was not learned from. One that was is not of that sample, so it is left out, and the
others are the sample still. A few coincide by chance, for short programs are soon the same (`return n ** 2`). Where
more do, the adapter was trained for what it is asked there, and the others are their neighbours: what it does on them
says nothing of what it does elsewhere.

What an adapter rehearsed counts by its prompts alone. Its answers are the base model's own: they teach no solution,
but an anchor that was rehearsed is kept by heart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.api_evolution import Contamination, PartContamination
from engine.api_learning import EvaluationReport, SuiteTask
from engine.evaluation.overlap import Document, contamination, find_all_overlaps

MAX_SEEN = 0.1
"""Share of the tasks of an anchor, or out of distribution, that may coincide with what was learned from."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What some tasks share with what the adapter learned from."""

    asked: int
    """Tasks that were compared."""
    tasks: frozenset[str]
    """Ids of those that were learned from."""
    contamination: Contamination

    @property
    def tells(self) -> bool:
        """Whether the others may stand for what was not learned from."""
        return len(self.tasks) <= MAX_SEEN * self.asked

    def of_part(self, name: str) -> PartContamination:
        """As evidence has it."""
        return PartContamination(part=name, **self.contamination.model_dump())


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the tasks of a suite's gate, which were measured."""

    suite: Sequence[SuiteTask]
    """All of the gate: it tells what is a phrase of the suite, and no mark of one task."""
    report: EvaluationReport
    """The adapter's."""


def look(parts: Sequence[Part], learned: Iterable[Document] | None) -> tuple[Seen, ...]:
    """What the tasks of each part share with what was learned from; `learned` None: that is not known."""
    documents = [_documents(part) for part in parts]
    found = [None] * len(parts) if learned is None else find_all_overlaps(documents, learned)
    return tuple(
        Seen(len(asked), one.tasks if one else frozenset(), contamination(one))
        for (asked, _), one in zip(documents, found, strict=True)
    )


def _documents(part: Part) -> tuple[list[Document], list[Document]]:
    """Of the tasks that were asked, and of the whole gate."""
    suite = [Document(task.id, task.prompt, task.reference or "", task.template) for task in part.suite]
    asked = {sampled.task for sampled in part.report.sampled}
    return [document for document in suite if document.id in asked], suite
