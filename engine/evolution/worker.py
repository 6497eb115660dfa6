"""Has a sweep made now and then, where the configuration wants that.

    wait `evolution.every_s` ──► adapters there, and no sweep queued or running? ──► queue one ──► wait ...

A sweep is an operation like one that a user asks for: durable, watched, cancelled and resumed in the same way. The
worker only queues it, so it stops at once whatever a sweep is doing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from engine.api_evolution import EvolveRequest
from engine.api_learning import OperationKind
from engine.api_models import RunState
from engine.config import EvolutionSection
from engine.operations import Operations
from registry.errors import DatabaseError
from registry.registry import Registry

log = logging.getLogger(__name__)


class EvolutionWorker:
    """Queues sweeps.

    Args:
        pause: waits so many seconds.
    """

    def __init__(
        self,
        operations: Operations,
        registry: Registry,
        section: EvolutionSection,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._operations = operations
        self._registry = registry
        self._section = section
        self._pause = pause

    async def run(self) -> None:
        """Queue sweeps until cancelled; returns at once where sweeps by itself are not wanted."""
        while self._section.enabled:
            try:
                await self.tick()
            except DatabaseError as error:  # a full disk ends this round, not the ones after it
                log.error("no sweep was queued: %s", error)
            await self._pause(self._section.every_s)

    async def tick(self) -> bool:
        """Queue one sweep if there is anything to sweep and none is under way; says whether it did."""
        if await self._registry.count() == 0:
            return False
        for state in (RunState.QUEUED, RunState.RUNNING):
            if await self._operations.page(kind=OperationKind.EVOLVE, state=state, limit=1):
                return False
        operation = await self._operations.create(OperationKind.EVOLVE, EvolveRequest())
        log.info("sweep %s queued", operation.id)
        return True
