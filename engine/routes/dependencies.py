"""What the routes share: the engine of the app, and the types of ids and pages."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import Depends, Query, Request

from engine.core import Engine

MAX_OFFSET = 2**31 - 1
"""Far beyond any list; keeps numbers within what SQL takes."""


async def current_engine(request: Request) -> Engine:
    """The engine that this app serves."""
    return cast("Engine", request.app.state.engine)


EngineOfApp = Annotated[Engine, Depends(current_engine)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]
