"""Decides with which adapter a session is worked on, once, and says why.

    decided before (resumed)      as it was
    mode explore                  none: no model is asked
    `base`, or an adapter's id    what its user asked for
    selection off, or a backend   the base model
      that serves no adapters
    otherwise                     adapters in use of its type, and those of the project tier
                                    └─► evidence of their promotions, what they learned from ──► `choose`

Only what was promoted can be picked, with its evidence or by force; for everything else the reason says what is
missing. What an adapter learned from never changes, so its fingerprint is made once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from pydantic import ValidationError

from engine.api_device import BackendName
from engine.api_evolution import Evidence
from engine.api_learning import BASE
from engine.api_models import SessionRecord, TaskMode, TaskSpec
from engine.config import EvolutionSection
from engine.errors import ConflictError
from engine.evolution.learned import Learned
from engine.pipeline.choose import Candidate, Choice, Fingerprint, Wanted, choose, fingerprint
from registry.errors import RegistryError
from registry.files import run_to_end
from registry.models import Adapter, LoadableAdapter, Promotion, Tier
from registry.queries import AdapterQuery, Sort
from registry.registry import Registry

WITHOUT_ADAPTERS = frozenset({BackendName.OLLAMA.value})
"""Backends that cannot serve any; a session that names one fails there, one that names none does not."""
MAX_CANDIDATES = 50
"""Of a task type, the fittest: pruning keeps a population far below that."""
MAX_KEPT = 64
"""Fingerprints in memory: a megabyte each at most."""


@dataclass(frozen=True)
class Picked:
    """What a session is worked on with. `adapter` None is the base model, or no model at all."""

    adapter: LoadableAdapter | None
    reason: str


class Picker:
    """Picks adapters. Owner of the fingerprints."""

    def __init__(self, registry: Registry, learned: Learned, base_model: str, settings: EvolutionSection) -> None:
        self._registry = registry
        self._learned = learned
        self._base_model = base_model
        self._settings = settings
        self._known: OrderedDict[str, Fingerprint | None] = OrderedDict()

    async def decide(self, session: SessionRecord, backend: str) -> Picked:
        """What the session is worked on with.

        Raises:
            ConflictError: an adapter that its user named cannot be used.
        """
        if session.adapter_reason:
            return Picked(await self._named(session.adapter), session.adapter_reason)
        if session.task.mode is TaskMode.EXPLORE:
            return Picked(None, "The explorer asks no model.")
        if session.adapter is not None:
            named = await self._named(session.adapter)
            return Picked(named, "Asked for." if named else "Base model: asked for.")
        if not self._settings.select:
            return Picked(None, "Base model: evolution.select is off.")
        if backend in WITHOUT_ADAPTERS:
            return Picked(None, f"Base model: {backend} serves no adapters.")
        choice = await self.pick(session.task)
        try:
            return Picked(await self._named(choice.adapter_id), choice.reason)
        except ConflictError as error:  # nobody asked for it by name, so the task does not fail for it
            return Picked(None, f"Base model: {error}")

    async def _named(self, adapter_id: str | None) -> LoadableAdapter | None:
        if adapter_id in (None, BASE):
            return None
        try:
            return await self._registry.resolve_for_load(adapter_id)
        except RegistryError as error:
            raise ConflictError(f"Adapter {adapter_id}: {error}") from error

    async def pick(self, task: TaskSpec) -> Choice:
        """The adapter that the evidence speaks for, or the base model, with the reason."""
        aliases = await self._registry.get_aliases()
        champions = {adapter for name, adapter in aliases.items() if name.endswith("@champion")}
        adapters = await self._adapters(task.task_type)
        candidates = [await self._candidate(adapter, adapter.id in champions) for adapter in adapters]
        wanted = Wanted(task.prompt, task.task_type, self._base_model)
        return await run_to_end(lambda: choose(wanted, candidates, self._settings.select_similarity))

    async def _adapters(self, task_type: str) -> list[Adapter]:
        of_type = AdapterQuery(task_type=task_type, sort=Sort.FITNESS, limit=MAX_CANDIDATES)
        of_project = AdapterQuery(tier=Tier.PROJECT, sort=Sort.FITNESS, limit=MAX_CANDIDATES)
        found = [*(await self._registry.list_all(of_type)).items, *(await self._registry.list_all(of_project)).items]
        return [adapter for adapter in {one.id: one for one in found}.values() if not adapter.is_quarantined]

    async def _candidate(self, adapter: Adapter, champion: bool) -> Candidate:
        promotions = await self._registry.get_promotions(adapter.id)
        last = next((one for one in reversed(promotions) if one.to_tier.level >= one.from_tier.level), None)
        evidence = _evidence(last)
        return Candidate(
            adapter_id=adapter.id,
            task_type=adapter.task_type,
            tier=adapter.tier.value,
            verdict=evidence.verdict if evidence is not None else None,
            base_model=adapter.base_model_id,
            fingerprint=await self._fingerprint(adapter) if last is not None else None,
            champion=champion,
            forced=last is not None and last.forced,
            pass_rate=adapter.pass_rate,
            rolled_back=await self._registry.is_rolled_back(adapter),
        )

    async def _fingerprint(self, adapter: Adapter) -> Fingerprint | None:
        if adapter.digest not in self._known:
            documents = await self._learned.taught(adapter.id)
            prompts = None if documents is None else [document.text for document in documents]
            self._known[adapter.digest] = None if prompts is None else await run_to_end(lambda: fingerprint(prompts))
            while len(self._known) > MAX_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(adapter.digest)
        return self._known[adapter.digest]


def _evidence(promotion: Promotion | None) -> Evidence | None:
    """What a promotion rests on; None where it is of another version of the program, or there is none."""
    if promotion is None or promotion.evidence is None:
        return None
    try:
        return Evidence.model_validate(promotion.evidence)
    except ValidationError:
        return None
