"""What an adapter learned from: the rows of its training job, and of every ancestor's.

A merged child learned what its parents learned, and a job that began with another adapter's weights has those rows in
it too. One ancestor of which nothing is known makes the whole unknown: a contamination report that leaves rows out
would say "clean" of what was never looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.api_learning import REHEARSAL
from engine.errors import NotFoundError
from engine.evaluation.overlap import Document, learned_document
from engine.training.dataset import DataStore
from engine.training.spec import parse_row
from registry.db import Database, Reader
from registry.files import run_to_end
from registry.registry import Registry

_JOBS = """
SELECT id, data_digest FROM training_jobs JOIN jobs USING (id)
WHERE lower(adapter_id) = lower(?) AND state = 'succeeded' ORDER BY finished_at DESC LIMIT 1
"""


class Learned:
    """Reads training rows back by the adapter that they made."""

    def __init__(self, db: Database, registry: Registry, store: DataStore) -> None:
        self._db = db
        self._registry = registry
        self._store = store

    async def job_of(self, adapter_id: str) -> str:
        """The training job that made it.

        Raises:
            NotFoundError: it was not trained here.
        """
        return (await self._job(adapter_id))[0]

    async def documents(self, adapter_id: str) -> tuple[Document, ...] | None:
        """Every row that it or an ancestor was trained or held out on; None where that is not known.

        What it rehearsed is there without the answers, which are the base model's own: nothing that it learned.

        Raises:
            AdapterNotFound: there is no such adapter.
        """
        digests = await self._digests(adapter_id)
        return None if digests is None else await run_to_end(lambda: self._read(digests, rehearsed=True))

    async def taught(self, adapter_id: str) -> tuple[Document, ...] | None:
        """As `documents`, without what it rehearsed: that is where it was to stay as the base model is.

        Raises:
            AdapterNotFound: there is no such adapter.
        """
        digests = await self._digests(adapter_id)
        return None if digests is None else await run_to_end(lambda: self._read(digests, rehearsed=False))

    async def _digests(self, adapter_id: str) -> list[str] | None:
        parents = (await self._registry.get_lineage_dag(adapter_id)).parents
        digests: dict[str, None] = {}
        for member, its_parents in parents.items():
            try:
                digests[(await self._job(member))[1]] = None
            except NotFoundError:
                if not its_parents:
                    return None
        return list(digests)

    async def _job(self, adapter_id: str) -> tuple[str, str]:
        def read(reader: Reader) -> tuple[str, str] | None:
            row = reader.execute(_JOBS, (adapter_id,)).fetchone()
            return None if row is None else (str(row["id"]), str(row["data_digest"]))

        found = await self._db.read(read)
        if found is None:
            raise NotFoundError(f"No training job of this home made {adapter_id}.")
        return found

    def _read(self, digests: Sequence[str], *, rehearsed: bool) -> tuple[Document, ...] | None:
        if not all(self._store.is_whole(digest) for digest in digests):
            return None
        return tuple(document for digest in digests for document in self._rows(digest, rehearsed=rehearsed))

    def _rows(self, digest: str, *, rehearsed: bool) -> Iterator[Document]:
        with self._store.path(digest).open("rb") as file:
            for number, line in enumerate(file, start=1):
                row = parse_row(line, number)
                kept = row.keep or row.task.startswith(REHEARSAL)
                if kept and not rehearsed:
                    continue
                asked = "\n".join(turn.content for turn in row.messages if turn.role == "user")
                yield learned_document(f"{digest[:12]}:{number}", asked, "" if kept else row.completion)
