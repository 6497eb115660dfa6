"""/evidence: measure what a promotion would rest on."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_evolution import EvidenceRequest
from engine.api_learning import Operation, OperationKind
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/evidence", tags=["learning"])


@router.post("", status_code=202, responses=answers(404, 409, 422))
async def evidence(body: EvidenceRequest, engine: EngineOfApp) -> Operation:
    """Queue the measurement; the evidence is the operation's result. Nothing is promoted by it."""
    await engine.registry.get(body.adapter)
    return await engine.learning.operations.create(OperationKind.EVIDENCE, body)
