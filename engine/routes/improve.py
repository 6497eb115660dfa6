"""/improve: run, learn from what was verified, measure, promote, and again."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_evolution import ImproveRequest
from engine.api_learning import Operation, OperationKind, RehearseRequest, Split
from engine.errors import ConfigError, InputError
from engine.evolution.improve import elsewhere
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers
from registry.files import run_to_end

router = APIRouter(prefix="/improve", tags=["learning"])


@router.post("", status_code=202, responses=answers(404, 409, 422))
async def improve(body: ImproveRequest, engine: EngineOfApp) -> Operation:
    """Queue the rounds; what each of them came to is the operation's result."""
    await run_to_end(lambda: engine.learning.suites.tasks(body.suite, body.seed, Split.TRAIN))
    if suites := elsewhere(body):
        await engine.learning.rehearser.check(RehearseRequest(suites=suites, seed=body.seed))
    try:
        engine.config.recipe(body.preset)
    except ConfigError as error:
        raise InputError(str(error)) from error
    return await engine.learning.operations.create(OperationKind.IMPROVE, body)
