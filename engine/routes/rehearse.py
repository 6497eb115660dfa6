"""/rehearse: what the base model says on other domains, as rows for an adapter to learn along with its own."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_learning import Operation, OperationKind, RehearseRequest
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/rehearse", tags=["learning"])


@router.post("", status_code=202, responses=answers(404, 422))
async def rehearse(body: RehearseRequest, engine: EngineOfApp) -> Operation:
    """Queue the asking; the rows are the operation's result."""
    await engine.learning.rehearser.check(body)
    return await engine.learning.operations.create(OperationKind.REHEARSE, body)
