"""/adapters: list, look at, import, archive, restore."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query

from engine.api_models import AdapterImport, AdapterRecord, Identifier
from engine.inference.import_check import ImportCheck
from engine.routes.dependencies import EngineOfApp, Limit, Offset
from engine.routes.problems import answers
from registry.models import Adapter, Tier
from registry.queries import MAX_PAGE, AdapterQuery, Sort
from registry.registry import Registry

router = APIRouter(prefix="/adapters", tags=["adapters"])


@router.get("", responses=answers(422))
async def page(
    engine: EngineOfApp,
    task_type: Identifier | None = None,
    archived: Annotated[bool, Query(description="the archived ones instead of those in use")] = False,
    tier: Tier | None = None,
    search: Annotated[str, Query(max_length=100, description="part of an id")] = "",
    sort: Sort = Sort.FITNESS,
    limit: Limit = 100,
    offset: Offset = 0,
) -> list[AdapterRecord]:
    """A page of adapters: the fittest or newest first, or by id."""
    descending = sort is not Sort.ID
    query = AdapterQuery(
        task_type=task_type, tier=tier, archived=archived, search=search, sort=sort, descending=descending
    )
    return [_record(adapter) for adapter in await _slice(engine.registry, query, offset, limit)]


@router.post("", status_code=201, responses=answers(409, 422))
async def import_directory(body: AdapterImport, engine: EngineOfApp) -> AdapterRecord:
    """Check a PEFT directory of this machine and copy it into the registry; it is never changed after that.

    Its shapes are compared with the base model's where it was made for the configured one.
    """
    adapter = await engine.registry.import_directory(
        body.directory,
        body.id,
        task_type=body.task_type,
        base_model_id=body.base_model_id,
        inspect=ImportCheck(engine.config),
    )
    return _record(adapter)


@router.get("/{adapter_id}", responses=answers(404, 422))
async def get(adapter_id: Identifier, engine: EngineOfApp) -> AdapterRecord:
    """One adapter."""
    return _record(await engine.registry.get(adapter_id))


@router.post("/{adapter_id}/archive", responses=answers(404, 422))
async def archive(adapter_id: Identifier, engine: EngineOfApp) -> AdapterRecord:
    """Take it out of use; nothing is deleted."""
    return _record(await engine.registry.archive(adapter_id))


@router.post("/{adapter_id}/restore", responses=answers(404, 422))
async def restore(adapter_id: Identifier, engine: EngineOfApp) -> AdapterRecord:
    """Bring it back into use."""
    return _record(await engine.registry.restore(adapter_id))


async def _slice(registry: Registry, query: AdapterQuery, offset: int, limit: int) -> list[Adapter]:
    """The registry pages by cursor, which stays exact while adapters are added; HTTP clients count."""
    found: list[Adapter] = []
    after: str | None = None
    while True:
        wanted = min(MAX_PAGE, offset + limit - len(found))
        part = await registry.list_all(replace(query, limit=wanted, after=after))
        found.extend(part.items)
        if part.next is None or len(found) >= offset + limit:
            return found[offset : offset + limit]
        after = part.next


def _record(adapter: Adapter) -> AdapterRecord:
    return AdapterRecord.model_validate(adapter.as_json())
