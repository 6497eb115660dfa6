"""/suites: what adapters are measured on: list, look at, add, check."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query

from engine.api_learning import (
    CheckSuiteRequest,
    Operation,
    OperationKind,
    Split,
    SuiteAdd,
    SuiteInfo,
    SuiteName,
    SuiteTask,
)
from engine.errors import RequestRefusedError
from engine.routes.dependencies import EngineOfApp, Limit, Offset
from engine.routes.problems import answers
from registry.files import run_to_end

router = APIRouter(prefix="/suites", tags=["learning"])

Seed = Annotated[int, Query(ge=0, lt=2**31, description="of the hidden inputs, where the suite is seeded")]


@router.get("", responses=answers(422))
async def every(engine: EngineOfApp) -> list[SuiteInfo]:
    """Every suite: those that come with the program, then those that were added."""
    return list(await asyncio.to_thread(engine.learning.suites.infos))


@router.post("", status_code=201, responses=answers(409, 422))
async def add(body: SuiteAdd, engine: EngineOfApp) -> SuiteInfo:
    """Check a JSON Lines file of this machine and copy it into the home; it is never changed after that."""
    return await run_to_end(partial(engine.learning.suites.add, Path(body.file), body.name))


@router.get("/{name}", responses=answers(404, 422))
async def get(name: SuiteName, engine: EngineOfApp) -> SuiteInfo:
    """One suite."""
    return await asyncio.to_thread(engine.learning.suites.info, name)


@router.get("/{name}/tasks", responses=answers(404, 422))
async def tasks(
    name: SuiteName,
    engine: EngineOfApp,
    seed: Seed = 0,
    split: Split | None = None,
    limit: Limit = 1000,
    offset: Offset = 0,
) -> list[SuiteTask]:
    """Its tasks in their order, with references and hidden inputs: for a person, never for a model."""
    found = await asyncio.to_thread(engine.learning.suites.tasks, name, seed, split)
    return list(found[offset : offset + limit])


@router.post("/{name}/check", status_code=202, responses=answers(404, 422))
async def check(name: SuiteName, body: CheckSuiteRequest, engine: EngineOfApp) -> Operation:
    """Queue the check of a suite: references pass, changed references fail, nothing of train is in other splits."""
    if body.suite != name:
        raise RequestRefusedError(f"The body names the suite {body.suite} and the path {name}.")
    await asyncio.to_thread(engine.learning.suites.info, name)
    return await engine.learning.operations.create(OperationKind.CHECK_SUITE, body)
