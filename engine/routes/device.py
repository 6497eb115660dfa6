"""/device: who has it and until when, which backends there are, and which one is to serve."""

from __future__ import annotations

from fastapi import APIRouter

from engine.api_device import BackendInfo, BackendSwitch, BackendSwitched, DeviceStatus
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

router = APIRouter(prefix="/device", tags=["device"])


@router.get("", responses=answers())
async def get(engine: EngineOfApp) -> DeviceStatus:
    """Who has the device, why, and in how many seconds requests are admitted."""
    return engine.device.status()


@router.get("/backends", responses=answers())
async def backends(engine: EngineOfApp) -> tuple[BackendInfo, ...]:
    """Every kind of model server: whether it can run here, and what it can do."""
    return await engine.backends()


@router.post("/backend", responses=answers(409, 422))
async def use(body: BackendSwitch, engine: EngineOfApp) -> BackendSwitched:
    """Serve with another backend. Answers once it serves, or once the old one does again, and says why."""
    return await engine.device.use_backend(body.backend)


@router.post("/retry", responses=answers())
async def retry(engine: EngineOfApp) -> DeviceStatus:
    """Look again at a device that could not be used, now instead of within a minute."""
    engine.device.retry()
    return engine.device.status()
