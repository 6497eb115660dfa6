"""Promotions: what stands for and against one, and who may go against it.

    GET /promote/<adapter> ──► case: evidence + objections ──► POST /promote
                                                                  ├─ no objection ──► promoted
                                                                  ├─ objections   ──► refused, with the first of them
                                                                  └─ ... + force  ──► promoted, recorded as forced

The registry keeps what was done; this module decides whether it may be. The evidence is that of an operation which
measured just these files against just this incumbent: if either changed since, it is evidence of something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue, ValidationError

from engine.api_evolution import Evidence, PromoteRequest, PromotionCase, Verdict
from engine.api_learning import BASE, Operation, OperationKind
from engine.api_models import RunState
from engine.errors import ConflictError, NotFoundError
from registry.errors import TransitionRefused
from registry.models import Adapter, Champions, Tier
from registry.registry import Registry

MAX_LOOKED_AT = 200
"""Newest evidence operations that are searched for one of this adapter; older evidence is measured anew."""

MAX_SENTENCES = 3
"""Objections that an error quotes."""


class EvidenceOperations(Protocol):
    """Where evidence is found: `engine.operations.Operations`."""

    async def get(self, operation_id: str) -> Operation:
        """One operation, with its result."""
        ...

    async def page(
        self, kind: OperationKind | None = None, state: RunState | None = None, limit: int = 100, offset: int = 0
    ) -> list[Operation]:
        """The newest first, without their results."""
        ...


@dataclass(frozen=True)
class Found:
    """Evidence, and the operation that it is the result of."""

    operation: str
    evidence: Evidence


@dataclass(frozen=True)
class Wanted:
    """A promotion as it would be now."""

    adapter: Adapter
    champions: Champions
    to: Tier
    found: Found | None
    newer: Found | None = None
    """Measured after `found` for the same move: whoever names evidence must not pick the one that he likes."""

    @property
    def incumbent(self) -> str:
        """Whom the adapter must beat."""
        return incumbent(self.champions, self.adapter.id)


def incumbent(champions: Champions, adapter_id: str) -> str:
    """Whom an adapter must beat: the champion of its type, or the base model where that is nobody or itself."""
    return champions.champion if champions.champion not in (None, adapter_id) else BASE


def target_tier(adapter: Adapter, champions: Champions, to: str | None) -> Tier:
    """The tier that is meant: the one named, else one up; at the top, the top.

    Raises:
        TransitionRefused: that is down, or nothing would change.
    """
    tiers = list(Tier)
    tier = Tier(to) if to is not None else tiers[min(adapter.tier.level + 1, len(tiers) - 1)]
    if tier.level < adapter.tier.level or (tier is adapter.tier and champions.champion == adapter.id):
        raise TransitionRefused(f"{adapter.id} is at {adapter.tier}: {tier} is no way up")
    return tier


def objections(wanted: Wanted) -> tuple[str, ...]:
    """What speaks against it, one sentence each. Pure."""
    if wanted.found is None:
        return (f"Nothing was measured for {wanted.adapter.id} at the tier {wanted.to}: run `rune-tui evidence`.",)
    evidence = wanted.found.evidence
    against: list[str] = []
    if evidence.adapter_digest != wanted.adapter.digest:
        against.append("The evidence is about other files than the adapter has.")
    if evidence.incumbent != wanted.incumbent:
        against.append(f"The evidence is against {evidence.incumbent}; the one to beat is {wanted.incumbent} now.")
    if evidence.to_tier != wanted.to:
        against.append(f"The evidence is for the tier {evidence.to_tier}, not {wanted.to}.")
    if evidence.verdict is not Verdict.PROVEN:
        against.append(f"The evidence says {evidence.verdict}{'.' if evidence.reasons else ', without a reason.'}")
        against.extend(evidence.reasons)
    if wanted.newer is not None and wanted.newer.evidence.verdict is not Verdict.PROVEN:
        against.append(f"The newer {wanted.newer.operation} says {wanted.newer.evidence.verdict}.")
    return tuple(against)


class Promotions:
    """Looks at promotions and makes them."""

    def __init__(self, registry: Registry, operations: EvidenceOperations) -> None:
        self._registry = registry
        self._operations = operations

    async def case(self, adapter_id: str, to: str | None = None, operation_id: str | None = None) -> PromotionCase:
        """What stands for and against it.

        Raises:
            AdapterNotFound, NotFoundError, ConflictError: see `promote`.
            TransitionRefused: there is no way up from where it is.
        """
        wanted = await self._wanted(adapter_id, to, operation_id)
        return PromotionCase(
            adapter_id=adapter_id,
            from_tier=wanted.adapter.tier.value,
            to_tier=wanted.to.value,
            task_type=wanted.adapter.task_type,
            incumbent=wanted.incumbent,
            operation=wanted.found.operation if wanted.found else None,
            evidence=wanted.found.evidence if wanted.found else None,
            objections=objections(wanted),
        )

    async def promote(self, request: PromoteRequest) -> Adapter:
        """Promote it, if the evidence is for it or the request forces it; keeps the evidence with the promotion.

        Raises:
            AdapterNotFound.
            NotFoundError: there is no such operation.
            ConflictError: the evidence is against it, is missing, or the operation is none that gives evidence.
            TransitionRefused: it cannot be moved there, or the champion changed while this was decided.
        """
        wanted = await self._wanted(request.adapter_id, request.to_tier, request.evidence)
        against = objections(wanted)
        if against and not request.force:
            sentences = " ".join(against[:MAX_SENTENCES])
            raise ConflictError(f"{request.adapter_id} is not promoted. {sentences} Force it to do so all the same.")
        return await self._registry.promote(
            request.adapter_id,
            wanted.to,
            _reason(wanted, against),
            evidence=_kept(wanted.found),
            forced=bool(against),
            expected=wanted.champions,
        )

    async def _wanted(self, adapter_id: str, to: str | None, operation_id: str | None) -> Wanted:
        adapter = await self._registry.get(adapter_id)
        champions = await self._registry.get_champions(adapter.task_type)
        tier = target_tier(adapter, champions, to)
        newest = await self._newest(adapter_id, tier)
        if operation_id is None:
            return Wanted(adapter, champions, tier, newest)
        found = _found(await self._operations.get(operation_id))
        if found is None or found.evidence.adapter != adapter_id:
            raise ConflictError(f"{operation_id} is no finished evidence about {adapter_id}.")
        newer = newest if newest is not None and newest.operation != operation_id else None
        return Wanted(adapter, champions, tier, found, newer)

    async def _newest(self, adapter_id: str, tier: Tier) -> Found | None:
        page = await self._operations.page(OperationKind.EVIDENCE, RunState.SUCCEEDED, MAX_LOOKED_AT)
        for operation in page:
            if operation.request.get("adapter") != adapter_id:
                continue
            try:
                found = _found(await self._operations.get(operation.id))
            except NotFoundError:
                continue
            if found is not None and found.evidence.to_tier == tier:
                return found
        return None


def _found(operation: Operation) -> Found | None:
    if operation.kind is not OperationKind.EVIDENCE or operation.result is None:
        return None
    try:
        return Found(operation.id, Evidence.model_validate(operation.result))
    except ValidationError:  # of another version of the program: measured anew rather than misread
        return None


def _kept(found: Found | None) -> Mapping[str, JsonValue] | None:
    return None if found is None else found.evidence.model_dump(mode="json")


def _reason(wanted: Wanted, against: tuple[str, ...]) -> str:
    if against:
        return "Forced. " + " ".join(against)
    evidence = wanted.found.evidence if wanted.found else None
    assert evidence is not None, "without evidence there is an objection"
    return (
        f"Beats {evidence.incumbent} on {evidence.suite}: {evidence.wins} won, {evidence.losses} lost, "
        f"e-value {evidence.e_value:.4g} of {evidence.threshold:g}."
    )
