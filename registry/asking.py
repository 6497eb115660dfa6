"""What can be asked of the registry: the half of it that writes nothing."""

from __future__ import annotations

from registry import history, queries
from registry.db import Database
from registry.history import Change
from registry.models import Adapter, Champions, Evaluation, Promotion, alias_of
from registry.queries import AdapterQuery, LineageDag, Page


class RegistryReader:
    """Answers from the rows; the files are not looked at."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, adapter_id: str) -> Adapter:
        """The adapter of that id.

        Raises:
            AdapterNotFound: there is none.
        """
        return await self._db.read(lambda reader: queries.get(reader, adapter_id))

    async def retrieve_by_id(self, adapter_id: str) -> Adapter:
        """`get` by its name in the specification."""
        return await self.get(adapter_id)

    async def query_by_task_type(self, task_type: str) -> list[Adapter]:
        """Every adapter of a task type, archived ones included."""
        return await self._db.read(lambda reader: queries.of_task_type(reader, task_type))

    async def list_all(self, query: AdapterQuery | None = None) -> Page:
        """One page of the adapters that the query asks for: by default the newest 50 that are not archived.

        Raises:
            AdapterRejected: the query's limit, search or place is not valid.
        """
        return await self._db.read(lambda reader: queries.page(reader, query or AdapterQuery()))

    async def count(self, query: AdapterQuery | None = None) -> int:
        """How many adapters the query's filters leave, on all pages together."""
        return await self._db.read(lambda reader: queries.count(reader, query or AdapterQuery()))

    async def query_best_for_task(self, task_type: str, top_k: int = 3) -> list[Adapter]:
        """The fittest adapters that may be served for a task type, best first."""
        return await self._db.read(lambda reader: queries.best_for_task(reader, task_type, top_k))

    async def is_task_solved(self, task_hash: str, threshold: float = 0.95) -> bool:
        """Whether some adapter in use was trained on the task and passes at least that share of its tests."""
        return await self._db.read(lambda reader: queries.is_task_solved(reader, task_hash, threshold))

    async def query_unevaluated(self, task_type: str | None = None) -> list[Adapter]:
        """Adapters in use that have no score yet, oldest first."""
        return await self._db.read(lambda reader: queries.unevaluated(reader, task_type))

    async def get_task_types(self) -> list[str]:
        """Every task type that some adapter has, sorted."""
        return await self._db.read(queries.task_types)

    async def get_lineage(self, adapter_id: str) -> list[Adapter]:
        """The adapter, its first parent, that one's first parent, and so on."""
        return await self._db.read(lambda reader: queries.lineage(reader, adapter_id))

    async def get_lineage_dag(self, adapter_id: str) -> LineageDag:
        """All ancestors and descendants as adjacency, breadth first."""
        return await self._db.read(lambda reader: queries.lineage_dag(reader, adapter_id))

    async def get_evaluations(self, adapter_id: str) -> list[Evaluation]:
        """Every score the adapter was ever given, oldest first."""
        return await self._db.read(lambda reader: queries.evaluations(reader, adapter_id))

    async def get_promotions(self, adapter_id: str) -> list[Promotion]:
        """Every move of the adapter between tiers, oldest first."""
        return await self._db.read(lambda reader: queries.promotions(reader, adapter_id))

    async def get_aliases(self) -> dict[str, str]:
        """Adapter id by alias."""
        return await self._db.read(queries.aliases)

    async def get_champions(self, task_type: str) -> Champions:
        """Whom the aliases of a task type name: champion, challenger, previous."""
        return await self._db.read(lambda reader: queries.champions(reader, task_type))

    async def get_history(
        self, limit: int = 50, before: int | None = None, adapter_id: str | None = None
    ) -> list[Change]:
        """Changes numbered below `before`, newest first; of one adapter, if it is named.

        Raises:
            AdapterRejected: the limit is not one of a page.
        """
        subject = None if adapter_id is None else f"adapter/{adapter_id}"
        return await self._db.read(lambda reader: history.page(reader, limit, before, subject))

    async def is_rolled_back(self, adapter: Adapter) -> bool:
        """Whether it was the champion of its task type and was taken back since its last promotion."""
        champion = alias_of(adapter.task_type, "champion")
        return await self._db.read(lambda reader: history.is_rolled_back(reader, adapter.id, champion))

    async def get_next_undo(self) -> Change | None:
        """The change that `undo` would take back."""
        return await self._db.read(history.next_undo)

    async def get_next_redo(self) -> Change | None:
        """The change that `redo` would do again."""
        return await self._db.read(history.next_redo)
