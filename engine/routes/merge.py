"""/merge: make one adapter of several."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_evolution import MergeRequest
from engine.api_learning import Operation, OperationKind
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/merge", tags=["learning"])


@router.post("", status_code=202, responses=answers(404, 409, 422))
async def merge(body: MergeRequest, engine: EngineOfApp) -> Operation:
    """Queue the merge; its report is the operation's result. The adapter is published without any evidence."""
    return await engine.learning.operations.create(OperationKind.MERGE, body)
