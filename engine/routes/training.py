"""/train/lora: queue a training job, or say what it would take."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse, Response

from engine.api_training import TrainJob, TrainPreview, TrainRequest
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/train", tags=["training"])


@router.post(
    "/lora",
    status_code=201,
    response_model=TrainJob,
    responses={
        **answers(404, 409, 422),
        200: {"model": TrainPreview, "description": "With `preview`: what the job would take. Nothing was queued."},
    },
)
async def train_lora(
    body: TrainRequest,
    engine: EngineOfApp,
    preview: Annotated[bool, Query(description="say what it would take, and queue nothing")] = False,
) -> TrainJob | Response:
    """Queue a job. When this answers, the job and its data are on disk and will not be lost."""
    if preview:
        return JSONResponse((await engine.training.preview(body)).model_dump(mode="json"))
    return await engine.training.enqueue(body)
