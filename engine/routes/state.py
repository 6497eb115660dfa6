"""/health, /ready, /shutdown: the engine about itself."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_models import EngineStatus
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(tags=["engine"])


@router.get("/health", responses=answers())
async def health(engine: EngineOfApp) -> EngineStatus:
    """What the engine says about itself."""
    return await engine.status()


@router.get("/ready", responses=answers())
async def ready(engine: EngineOfApp) -> dict[str, bool]:
    """200 while the engine accepts work; 503 when its database fails or it stops."""
    await engine.check_ready()
    return {"ready": True}


@router.post("/shutdown", status_code=202, responses=answers())
async def shutdown(engine: EngineOfApp) -> dict[str, bool]:
    """Stop the engine; running sessions stay resumable. On the Unix socket only."""
    engine.request_shutdown()
    return {"stopping": True}
