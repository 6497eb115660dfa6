"""/evolve: one sweep of the populations."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_evolution import EvolveRequest
from engine.api_learning import Operation, OperationKind
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/evolve", tags=["learning"])


@router.post("", status_code=202, responses=answers(409, 422))
async def evolve(body: EvolveRequest, engine: EngineOfApp) -> Operation:
    """Queue a sweep; what it did is the operation's result."""
    return await engine.learning.operations.create(OperationKind.EVOLVE, body)
