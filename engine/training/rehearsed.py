"""Rows that are kept while others are learned: what the base model said in a finished rehearsal.

A rehearsal is an operation (`engine.evaluation.rehearsal`), and its rows are its result. They are read when a job is
asked for and go into the job's own data, so that nothing that happens to the operation afterwards changes the job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from pydantic import ValidationError

from engine.api_learning import Operation, OperationKind, RehearsalReport
from engine.api_models import RunState
from engine.errors import InputError, NotFoundError
from engine.operation_rows import read_operation
from engine.training.dataset import asked
from engine.training.selection import Example, words
from registry.db import Database

REMEDY = "`rune-tui operations list --kind rehearse` shows the rehearsals there are, `rune-tui rehearse` makes one."


async def read_rehearsal(db: Database, operation_id: str, base_id: str) -> list[Example]:
    """What was said in that rehearsal, to be kept.

    Args:
        base_id: the base model of this home; what another one said is nothing to keep of it.

    Raises:
        InputError: there is no such rehearsal, it has not succeeded, or another base model was asked.
    """
    try:
        operation = await db.read(partial(read_operation, operation_id=operation_id))
    except NotFoundError as error:
        raise InputError(f"There is no operation {operation_id} to rehearse from; {REMEDY}") from error
    report = _report(operation)
    if report.base_model != base_id:
        raise InputError(
            f"{operation_id} asked {report.base_model}, and the base model here is {base_id}; "
            "make another with `rune-tui rehearse`."
        )
    return kept(report)


def kept(report: RehearsalReport) -> list[Example]:
    """Its rows as examples of which nothing is learned. Pure."""
    return [Example(asked(row.prompt, row.system), row.completion, row.task, row.cut, keep=True) for row in report.rows]


def beside(learned: Sequence[Example], rehearsed: Iterable[Example]) -> list[Example]:
    """What is learned, and then what is rehearsed except where that very prompt is to be answered anew. Pure."""
    taught = {words(example.messages[-1].content) for example in learned if not example.keep}
    return [*learned, *(one for one in rehearsed if words(one.messages[-1].content) not in taught)]


def _report(operation: Operation) -> RehearsalReport:
    if operation.kind is not OperationKind.REHEARSE:
        raise InputError(f"{operation.id} is of the kind {operation.kind.value}, not rehearse; {REMEDY}")
    if operation.state is not RunState.SUCCEEDED or operation.result is None:
        raise InputError(f"{operation.id} is {operation.state.value}, and only one that succeeded has rows; {REMEDY}")
    try:
        return RehearsalReport.model_validate(operation.result)
    except ValidationError as error:
        raise InputError(
            f"{operation.id} was made by another version; make another with `rune-tui rehearse`."
        ) from error
