"""What the terminal asks of an engine's registry and of its learning parts."""

from __future__ import annotations

from typing import Protocol

from engine.api_evolution import (
    ChampionsRecord,
    Change,
    EvidenceRequest,
    ImproveRequest,
    MergeRequest,
    PromoteRequest,
    PromotionCase,
    PromotionRecord,
    PruneRequest,
    Steps,
    TierName,
)
from engine.api_learning import EvaluateRequest, Operation, SuiteInfo
from engine.api_models import AdapterRecord
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient
from rune_tui.client_registry import RegistryClient


class RegistryPort(Protocol):
    """`open_port` on an engine, or a fake of it."""

    async def aliases(self) -> dict[str, str]:
        """See RegistryClient."""
        ...

    async def promotion_case(
        self, adapter_id: str, *, to_tier: TierName | None = None, evidence: str | None = None
    ) -> PromotionCase:
        """See RegistryClient."""
        ...

    async def promote(self, body: PromoteRequest) -> AdapterRecord:
        """See RegistryClient."""
        ...

    async def promotions(self, adapter_id: str) -> tuple[PromotionRecord, ...]:
        """See RegistryClient."""
        ...

    async def rollback(self, task_type: str) -> ChampionsRecord:
        """See RegistryClient."""
        ...

    async def prune(self, body: PruneRequest) -> AdapterRecord:
        """See RegistryClient."""
        ...

    async def restore(self, adapter_id: str) -> AdapterRecord:
        """See RegistryClient."""
        ...

    async def steps(self) -> Steps:
        """See RegistryClient."""
        ...

    async def undo(self, expected: int | None = None) -> Change:
        """See RegistryClient."""
        ...

    async def redo(self, expected: int | None = None) -> Change:
        """See RegistryClient."""
        ...

    async def history(
        self, *, limit: int = 50, before: int | None = None, adapter_id: str | None = None
    ) -> tuple[Change, ...]:
        """See RegistryClient."""
        ...

    async def evidence(self, body: EvidenceRequest) -> Operation:
        """See LearningClient."""
        ...

    async def merge(self, body: MergeRequest) -> Operation:
        """See LearningClient."""
        ...

    async def suites(self) -> tuple[SuiteInfo, ...]:
        """See LearningClient."""
        ...

    async def evaluate(self, body: EvaluateRequest) -> Operation:
        """See LearningClient."""
        ...

    async def improve(self, body: ImproveRequest) -> Operation:
        """See LearningClient."""
        ...

    async def operations(self, *, limit: int = 100) -> tuple[Operation, ...]:
        """See LearningClient."""
        ...

    async def operation(self, operation_id: str) -> Operation:
        """See LearningClient."""
        ...

    async def cancel_operation(self, operation_id: str) -> Operation:
        """See LearningClient."""
        ...

    async def resume_operation(self, operation_id: str) -> Operation:
        """See LearningClient."""
        ...


class RegistryDoor(RegistryClient):
    """Both siblings of an open client behind one port."""

    def __init__(self, engine: EngineClient) -> None:
        super().__init__(engine)
        self._learning = LearningClient(engine)

    async def suites(self) -> tuple[SuiteInfo, ...]:
        """Every suite there is."""
        return await self._learning.suites()

    async def evaluate(self, body: EvaluateRequest) -> Operation:
        """Queue a measurement."""
        return await self._learning.evaluate(body)

    async def evidence(self, body: EvidenceRequest) -> Operation:
        """Queue the measurement that a promotion would rest on."""
        return await self._learning.evidence(body)

    async def merge(self, body: MergeRequest) -> Operation:
        """Queue a merge."""
        return await self._learning.merge(body)

    async def improve(self, body: ImproveRequest) -> Operation:
        """Queue rounds of improvement."""
        return await self._learning.improve(body)

    async def operations(self, *, limit: int = 100) -> tuple[Operation, ...]:
        """The newest operations, without their results."""
        return await self._learning.operations(limit=limit)

    async def operation(self, operation_id: str) -> Operation:
        """One operation, whole."""
        return await self._learning.operation(operation_id)

    async def cancel_operation(self, operation_id: str) -> Operation:
        """Stop it."""
        return await self._learning.cancel_operation(operation_id)

    async def resume_operation(self, operation_id: str) -> Operation:
        """Let it go on."""
        return await self._learning.resume_operation(operation_id)


def open_port(engine: EngineClient) -> RegistryPort:
    """The port of an open client."""
    return RegistryDoor(engine)
