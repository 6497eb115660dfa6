"""/evaluate: measure an adapter, or the base model, on a suite."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_learning import EvaluateRequest, GateReport, GateRequest, Operation, OperationKind
from engine.evaluation.gating import ask_gate
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/evaluate", tags=["learning"])


@router.post("", status_code=202, responses=answers(404, 409, 422))
async def evaluate(body: EvaluateRequest, engine: EngineOfApp) -> Operation:
    """Queue the measurement; the report is the operation's result."""
    await engine.learning.evaluator.check(body)
    return await engine.learning.operations.create(OperationKind.EVALUATE, body)


@router.post("/gate", responses=answers(404, 409, 422))
async def gate(body: GateRequest, engine: EngineOfApp) -> GateReport:
    """What a fixed rule says about the newest measurements; nothing is measured."""
    return await ask_gate(engine.learning.reports, body)
