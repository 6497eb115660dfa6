"""The registry's moves: promote, roll back, prune, aliases; and the history of them all, with undo and redo."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

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
from engine.api_models import AdapterRecord, Identifier
from engine.errors import ConflictError
from engine.evolution.pruning import reasons_to_keep
from engine.routes.dependencies import MAX_OFFSET, EngineOfApp
from engine.routes.problems import answers
from registry import history
from registry.models import Adapter, Champions

router = APIRouter(tags=["registry"])

BY_EVIDENCE = ("@champion", "@previous")
"""Names that only a promotion or a roll back moves: set by hand, they would go round the evidence, and a weak
incumbent set so would make the next promotion easy."""

HistoryLimit = Annotated[int, Query(ge=1, le=history.MAX_HISTORY)]
Before = Annotated[int | None, Query(ge=1, le=MAX_OFFSET, description="only changes with a lower sequence")]


# --- promotion -----------------------------------------------------------------------------------------------


@router.get("/promote/{adapter_id}", responses=answers(404, 409, 422))
async def case(
    adapter_id: Identifier, engine: EngineOfApp, to_tier: TierName | None = None, evidence: Identifier | None = None
) -> PromotionCase:
    """What stands for and against a promotion; nothing is changed."""
    return await engine.learning.promotions.case(adapter_id, to_tier, evidence)


@router.post("/promote", responses=answers(404, 409, 422))
async def promote(body: PromoteRequest, engine: EngineOfApp) -> AdapterRecord:
    """Move an adapter up and make it the champion of its type, by its evidence or by force."""
    return _adapter(await engine.learning.promotions.promote(body))


@router.post("/rollback/{task_type}", responses=answers(404, 409, 422))
async def rollback(task_type: Identifier, engine: EngineOfApp) -> ChampionsRecord:
    """Put the champion before this one back; the two change places."""
    return _champions(task_type, await engine.registry.rollback(task_type))


@router.post("/prune", responses=answers(404, 409, 422))
async def prune(body: PruneRequest, engine: EngineOfApp) -> AdapterRecord:
    """Archive an adapter, unless something still rests on it; nothing is deleted."""
    if not body.force and (reasons := await reasons_to_keep(engine.registry, body.adapter_id)):
        raise ConflictError(f"{body.adapter_id} is kept. {' '.join(reasons)} Force it to archive it all the same.")
    return _adapter(await engine.registry.archive(body.adapter_id))


@router.get("/adapters/{adapter_id}/promotions", responses=answers(404, 422))
async def promotions(adapter_id: Identifier, engine: EngineOfApp) -> list[PromotionRecord]:
    """Every move of the adapter between tiers with what it rested on, oldest first."""
    await engine.registry.get(adapter_id)
    found = await engine.registry.get_promotions(adapter_id)
    return [PromotionRecord.model_validate(one, from_attributes=True) for one in found]


@router.get("/adapters/{adapter_id}/evaluations", responses=answers(404, 422))
async def evaluations(adapter_id: Identifier, engine: EngineOfApp) -> list[ScoreRecord]:
    """Every score that the adapter was given, oldest first."""
    await engine.registry.get(adapter_id)
    found = await engine.registry.get_evaluations(adapter_id)
    return [ScoreRecord.model_validate(one, from_attributes=True) for one in found]


# --- aliases -------------------------------------------------------------------------------------------------


@router.get("/aliases", responses=answers())
async def aliases(engine: EngineOfApp) -> dict[str, str]:
    """Adapter id by alias."""
    return await engine.registry.get_aliases()


@router.post("/aliases", responses=answers(404, 409, 422))
async def set_alias(body: AliasRequest, engine: EngineOfApp) -> dict[str, str]:
    """Point a name at an adapter, or take it away, if it is what the client thinks it is; gives all aliases."""
    if body.name.endswith(BY_EVIDENCE):
        raise ConflictError(
            f"{body.name} is not set by hand: `rune-tui promote` moves it by the evidence, or recorded as forced, and "
            "`rune-tui rollback` puts the one before back."
        )
    await engine.registry.set_alias(body.name, body.adapter_id, expected=body.expected)
    return await engine.registry.get_aliases()


# --- history -------------------------------------------------------------------------------------------------


@router.get("/history", responses=answers(422))
async def page(
    engine: EngineOfApp, limit: HistoryLimit = 50, before: Before = None, adapter_id: Identifier | None = None
) -> list[Change]:
    """Changes of the registry, newest first."""
    return [_change(change) for change in await engine.registry.get_history(limit, before, adapter_id)]


@router.get("/history/next", responses=answers())
async def steps(engine: EngineOfApp) -> Steps:
    """What undo and redo would do now."""
    undo, redo = await engine.registry.get_next_undo(), await engine.registry.get_next_redo()
    return Steps(undo=_change(undo) if undo else None, redo=_change(redo) if redo else None)


@router.post("/undo", responses=answers(409, 422))
async def undo(engine: EngineOfApp, body: StepRequest | None = None) -> Change:
    """Take back the newest change of the registry, whoever made it."""
    return _change(await engine.registry.undo(body.expected if body else None))


@router.post("/redo", responses=answers(409, 422))
async def redo(engine: EngineOfApp, body: StepRequest | None = None) -> Change:
    """Do the oldest undone change again."""
    return _change(await engine.registry.redo(body.expected if body else None))


def _adapter(adapter: Adapter) -> AdapterRecord:
    return AdapterRecord.model_validate(adapter.as_json())


def _champions(task_type: str, champions: Champions) -> ChampionsRecord:
    return ChampionsRecord(
        task_type=task_type,
        champion=champions.champion,
        challenger=champions.challenger,
        previous=champions.previous,
    )


def _change(change: history.Change) -> Change:
    return Change(
        sequence=change.number,
        subject=change.subject,
        what=change.what,
        before=dict(change.before),
        after=dict(change.after),
        forced=change.forced,
        undone=change.state is not history.ChangeState.DONE,
        timestamp=change.recorded_at,
    )
