"""What a client asks of the registry's moves: promotions, aliases, the history with undo and redo.

A sibling of `EngineClient`, made on an open one: `RegistryClient(client).undo()`. Errors are those of every call.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from engine.api_evolution import (
    AliasRequest,
    ChampionsRecord,
    Change,
    PromoteRequest,
    PromotionCase,
    PromotionRecord,
    PruneRequest,
    ScoreRecord,
    StepRequest,
    Steps,
    TierName,
)
from engine.api_models import AdapterRecord
from rune_tui.client import EngineClient

_CHANGES = TypeAdapter(tuple[Change, ...])
_PROMOTIONS = TypeAdapter(tuple[PromotionRecord, ...])
_SCORES = TypeAdapter(tuple[ScoreRecord, ...])
_ALIASES = TypeAdapter(dict[str, str])


class RegistryClient:
    """The registry's moves, as one engine offers them."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    # --- promotion ---

    async def promotion_case(
        self, adapter_id: str, *, to_tier: TierName | None = None, evidence: str | None = None
    ) -> PromotionCase:
        """What stands for and against a promotion; nothing is changed."""
        query = {"to_tier": to_tier, "evidence": evidence}
        return PromotionCase.model_validate(await self._engine.call("GET", f"/promote/{adapter_id}", query=query))

    async def promote(self, body: PromoteRequest) -> AdapterRecord:
        """Move it up and make it the champion of its type."""
        answer = await self._engine.call("POST", "/promote", body=body.model_dump(mode="json"))
        return AdapterRecord.model_validate(answer)

    async def rollback(self, task_type: str) -> ChampionsRecord:
        """Put the champion before this one back."""
        return ChampionsRecord.model_validate(await self._engine.call("POST", f"/rollback/{task_type}"))

    async def prune(self, body: PruneRequest) -> AdapterRecord:
        """Archive it, unless something still rests on it."""
        return AdapterRecord.model_validate(
            await self._engine.call("POST", "/prune", body=body.model_dump(mode="json"))
        )

    async def restore(self, adapter_id: str) -> AdapterRecord:
        """Bring an archived one back into use."""
        return await self._engine.restore_adapter(adapter_id)

    async def promotions(self, adapter_id: str) -> tuple[PromotionRecord, ...]:
        """Its moves between tiers, oldest first."""
        return _PROMOTIONS.validate_python(await self._engine.call("GET", f"/adapters/{adapter_id}/promotions"))

    async def scores(self, adapter_id: str) -> tuple[ScoreRecord, ...]:
        """Every score that it was given, oldest first."""
        return _SCORES.validate_python(await self._engine.call("GET", f"/adapters/{adapter_id}/evaluations"))

    # --- aliases ---

    async def aliases(self) -> dict[str, str]:
        """Adapter id by alias."""
        return _ALIASES.validate_python(await self._engine.call("GET", "/aliases"))

    async def set_alias(self, body: AliasRequest) -> dict[str, str]:
        """Point a name at an adapter, or take it away; gives all aliases."""
        return _ALIASES.validate_python(await self._engine.call("POST", "/aliases", body=body.model_dump(mode="json")))

    # --- history ---

    async def history(
        self, *, limit: int = 50, before: int | None = None, adapter_id: str | None = None
    ) -> tuple[Change, ...]:
        """Changes of the registry, newest first."""
        query = {"limit": limit, "before": before, "adapter_id": adapter_id}
        return _CHANGES.validate_python(await self._engine.call("GET", "/history", query=query))

    async def steps(self) -> Steps:
        """What undo and redo would do now."""
        return Steps.model_validate(await self._engine.call("GET", "/history/next"))

    async def undo(self, expected: int | None = None) -> Change:
        """Take back the newest change; with `expected`, only if it is that one."""
        body = StepRequest(expected=expected).model_dump(mode="json")
        return Change.model_validate(await self._engine.call("POST", "/undo", body=body))

    async def redo(self, expected: int | None = None) -> Change:
        """Do the oldest undone change again; with `expected`, only if it is that one."""
        body = StepRequest(expected=expected).model_dump(mode="json")
        return Change.model_validate(await self._engine.call("POST", "/redo", body=body))
