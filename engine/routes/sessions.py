"""/sessions: create, list, look at, cancel, resume."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from engine.api_models import Identifier, RunState, SessionCreate, SessionRecord, Trajectory
from engine.routes.dependencies import EngineOfApp, Limit, Offset
from engine.routes.problems import answers
from engine.sessions import Query as SessionQuery
from registry.clock import timestamp

router = APIRouter(prefix="/sessions", tags=["sessions"])


@router.post("", status_code=201, responses=answers(422))
async def create(body: SessionCreate, engine: EngineOfApp) -> SessionRecord:
    """Queue a task. When this answers, the task is on disk and will not be lost."""
    return await engine.create_session(body)


@router.get("", responses=answers(422))
async def page(
    engine: EngineOfApp,
    state: RunState | None = None,
    run_id: Identifier | None = None,
    since: Annotated[AwareDatetime | None, Query(description="created then or later")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> list[SessionRecord]:
    """A page of sessions, newest first, without their code and summary."""
    created = timestamp(since) if since else None
    return await engine.sessions.page(SessionQuery(state, run_id, created, limit, offset))


@router.get("/{session_id}", responses=answers(404, 422))
async def get(session_id: Identifier, engine: EngineOfApp) -> SessionRecord:
    """One session, whole."""
    return await engine.sessions.get(session_id)


@router.post("/{session_id}/cancel", responses=answers(404, 409, 422))
async def cancel(session_id: Identifier, engine: EngineOfApp) -> SessionRecord:
    """Stop it: at once when queued, at its next step when running."""
    return await engine.cancel_session(session_id)


@router.post("/{session_id}/resume", responses=answers(404, 409, 422))
async def resume(session_id: Identifier, engine: EngineOfApp) -> SessionRecord:
    """Queue a cancelled, failed or interrupted session again; it goes on from its last finished step."""
    return await engine.resume_session(session_id)


@router.get("/{session_id}/trajectory", responses=answers(404, 422))
async def trajectory(session_id: Identifier, engine: EngineOfApp) -> Trajectory:
    """The session with all its attempts."""
    return await engine.trajectory(session_id)
