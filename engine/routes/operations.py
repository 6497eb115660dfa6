"""/operations: what takes longer than a request: list, look at, cancel, resume."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_learning import Operation, OperationKind
from engine.api_models import Identifier, RunState
from engine.routes.dependencies import EngineOfApp, Limit, Offset
from engine.routes.problems import answers

router = APIRouter(prefix="/operations", tags=["learning"])


@router.get("", responses=answers(422))
async def page(
    engine: EngineOfApp,
    kind: OperationKind | None = None,
    state: RunState | None = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> list[Operation]:
    """A page of operations, newest first, without their results."""
    return await engine.learning.operations.page(kind, state, limit, offset)


@router.get("/{operation_id}", responses=answers(404, 422))
async def get(operation_id: Identifier, engine: EngineOfApp) -> Operation:
    """One operation, with how far it is and, once it has ended, what came of it."""
    return await engine.learning.operations.get(operation_id)


@router.post("/{operation_id}/cancel", responses=answers(404, 409, 422))
async def cancel(operation_id: Identifier, engine: EngineOfApp) -> Operation:
    """Stop it: at once when queued, soon when running."""
    return await engine.learning.operations.cancel(operation_id)


@router.post("/{operation_id}/resume", responses=answers(404, 409, 422))
async def resume(operation_id: Identifier, engine: EngineOfApp) -> Operation:
    """Queue it again; what it had done, it finds done."""
    return await engine.learning.operations.resume(operation_id)
