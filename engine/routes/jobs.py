"""/jobs: the training queue: list, look at, cancel, pause, resume, retry, move."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_models import Identifier, RunState
from engine.api_training import JobMove, TrainJob
from engine.routes.dependencies import EngineOfApp, Limit, Offset
from engine.routes.problems import answers

router = APIRouter(prefix="/jobs", tags=["training"])


@router.get("", responses=answers(422))
async def page(
    engine: EngineOfApp, state: RunState | None = None, limit: Limit = 100, offset: Offset = 0
) -> list[TrainJob]:
    """A page of training jobs: the running one, the queued ones in their order, the others newest first."""
    return await engine.training.jobs.page(state, limit, offset)


@router.get("/{job_id}", responses=answers(404, 422))
async def get(job_id: Identifier, engine: EngineOfApp) -> TrainJob:
    """One job, with its newest step and, once it has ended, its metrics."""
    return await engine.training.jobs.get(job_id)


@router.post("/{job_id}/cancel", responses=answers(404, 409, 422))
async def cancel(job_id: Identifier, engine: EngineOfApp) -> TrainJob:
    """Stop it: at once when queued, after a checkpoint when running."""
    return await engine.training.cancel(job_id)


@router.post("/{job_id}/pause", responses=answers(404, 409, 422))
async def pause(job_id: Identifier, engine: EngineOfApp) -> TrainJob:
    """Take it out of the queue until it is resumed; a running one writes a checkpoint and ends as interrupted."""
    return await engine.training.pause(job_id)


@router.post("/{job_id}/resume", responses=answers(404, 409, 422))
async def resume(job_id: Identifier, engine: EngineOfApp) -> TrainJob:
    """Queue it again, in its old place; it goes on from its last checkpoint."""
    return await engine.training.resume(job_id)


@router.post("/{job_id}/retry", responses=answers(404, 409, 422))
async def retry(job_id: Identifier, engine: EngineOfApp) -> TrainJob:
    """Queue it again, in its old place; it starts over."""
    return await engine.training.resume(job_id, from_scratch=True)


@router.post("/{job_id}/move", responses=answers(404, 409, 422))
async def move(job_id: Identifier, body: JobMove, engine: EngineOfApp) -> TrainJob:
    """Give a queued job another place in the queue."""
    return await engine.training.move(job_id, body.position)
