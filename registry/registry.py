"""The adapter registry: the one door to adapter files and rows.

An adapter is published once and never changes; only its tier, scores, archived and quarantined flags do, and every
such change is one event in the change's own transaction.

    (nothing) ──publish──► listed ◄──restore── archived        archived: never routed to, never loaded, never deleted
                             │  └────archive──────►│
                             ▼ digest wrong        ▼
                           quarantined ──publish the same files again, or verify finds them right──► listed

Transitions: publish (id free), archive, restore (idempotent), promote and demote (only listed), verify (any).
Every change but what `verify` finds stands in the history with what was before it, and can be undone and redone.
Files are handled in threads, rows by `registry.db`; a cancelled call is decided first and cancelled then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from registry import queries
from registry.asking import RegistryReader
from registry.blobs import GGUF, Blob, BlobStore, Disk, Staged, file_digest
from registry.changes import Changes, Move, already_exists
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Database, Reader, Transaction
from registry.errors import AdapterArchived, AdapterQuarantined, AdapterRejected
from registry.files import run_to_end
from registry.history import Change
from registry.journal import Recorder
from registry.migrate import REGISTRY as MIGRATIONS
from registry.models import (
    RESERVED_PREFIXES,
    Adapter,
    Champions,
    LoadableAdapter,
    NewAdapter,
    Source,
    Tier,
    check_alias,
    check_id,
    check_score,
)
from registry.queries import AdapterQuery, LineageDag, Page
from registry.safeload import AdapterLimits

__all__ = ["MIGRATIONS", "AdapterLimits", "AdapterQuery", "LineageDag", "Page", "Registry"]

GC_GRACE_SECONDS = 3600.0
"""A blob without a row is kept this long: another process may be between its rename and its commit."""
MAX_PARENTS = 64
"""A merge of more adapters than this has no use."""
MAX_REASON = 1000
"""Characters of a promotion's reason."""


class Registry(RegistryReader):
    """Adapters of one home. `db` must have been opened with `MIGRATIONS`."""

    def __init__(
        self,
        db: Database,
        root: Path,
        limits: AdapterLimits,
        clock: Clock,
        recorder: Recorder,
        disk: Disk | None = None,
    ) -> None:
        super().__init__(db)
        self._blobs = BlobStore(root, limits, clock, disk)
        self._changes = Changes(clock, recorder)
        self._publishing = asyncio.Lock()

    async def recover(self) -> int:
        """Delete what a killed process left half-written; gives how many. Once, at start."""
        return await run_to_end(self._blobs.delete_temporary)

    # --- publishing ------------------------------------------------------------------------------------------

    async def publish(
        self,
        directory: Path,
        new: NewAdapter,
        *,
        gguf: Path | None = None,
        inspect: Callable[[Staged], object] | None = None,
        then: Callable[[Transaction, Adapter], object] | None = None,
    ) -> Adapter:
        """Check a PEFT directory, copy it into the registry and list it. The directory itself is left alone.

        Publishing the same files under the same id again heals an adapter whose stored files are damaged.

        Args:
            gguf: the same weights as a GGUF file, listed with them.
            inspect: looks at the checked copy in a thread, before it has a name; an exception changes nothing.
            then: what is to be true together with the adapter's row, in its transaction; an exception lists nothing.

        Raises:
            AdapterRejected: the id, a field, the directory or its files are not acceptable.
            AdapterAlreadyExists: the id is taken; nothing was changed.
            AdapterNotFound: a parent is not in the registry.
        """
        _check_new(new)
        async with self._publishing:  # two writers of one id: the second sees the first's row before it writes
            existing = await self._db.read(lambda reader: queries.find(reader, new.id))
            if existing is not None and await self._is_intact(existing):
                raise already_exists(new.id)
            blob, derived = await run_to_end(lambda: self._store(directory, new, existing, gguf, inspect))

            def list_it(tx: Transaction) -> Adapter:
                if existing is None:
                    adapter = self._changes.insert(tx, new, blob)
                else:
                    self._changes.set_verified(tx, blob.digest, whole=True)
                    adapter = queries.get(tx, new.id)
                if derived is not None:
                    self._changes.set_derived(tx, blob.digest, GGUF, *derived)
                if then is not None:
                    then(tx, adapter)
                return adapter

            adapter = await self._db.write(list_it)
        crash_point("publish.after_commit")
        return adapter

    async def _is_intact(self, adapter: Adapter) -> bool:
        return not adapter.is_quarantined and await run_to_end(lambda: self._blobs.is_whole(adapter.digest))

    def _store(
        self,
        directory: Path,
        new: NewAdapter,
        existing: Adapter | None,
        gguf: Path | None,
        inspect: Callable[[Staged], object] | None,
    ) -> tuple[Blob, tuple[str, int] | None]:
        staged = self._blobs.stage(directory, new.base_model_id)
        try:
            if existing is not None and staged.blob.digest != existing.digest:
                raise already_exists(new.id)
            if inspect is not None:
                inspect(staged)
        except BaseException:
            self._blobs.discard(staged)
            raise
        self._blobs.commit(staged)
        return staged.blob, None if gguf is None else self._blobs.add_gguf(staged.blob.digest, gguf)

    async def import_directory(
        self,
        directory: str,
        adapter_id: str,
        *,
        task_type: str,
        base_model_id: str | None = None,
        inspect: Callable[[Staged], object] | None = None,
    ) -> Adapter:
        """Publish a PEFT directory that a user names.

        Args:
            inspect: as `publish` takes it.

        Raises:
            AdapterRejected, AdapterAlreadyExists: as `publish`; also for an id with a reserved prefix.
        """
        if adapter_id.lower().startswith(RESERVED_PREFIXES):
            raise AdapterRejected(f"ids that begin with {' or '.join(RESERVED_PREFIXES)} are reserved")
        new = NewAdapter(id=adapter_id, task_type=task_type, source=Source.MANUAL, base_model_id=base_model_id)
        return await self.publish(Path(directory), new, inspect=inspect)

    async def add_gguf(self, adapter_id: str, file: Path) -> None:
        """Keep a GGUF file made from this adapter's weights beside them, with its own digest.

        Raises:
            AdapterNotFound, AdapterRejected.
        """
        digest = (await self.get(adapter_id)).digest
        async with self._publishing:
            file_hash, size = await run_to_end(lambda: self._blobs.add_gguf(digest, file))
            await self._db.write(lambda tx: self._changes.set_derived(tx, digest, GGUF, file_hash, size))

    # --- changing --------------------------------------------------------------------------------------------

    async def update_fitness(
        self, adapter_id: str, fitness_score: float, pass_rate: float | None = None, session_id: str | None = None
    ) -> Adapter:
        """Give an adapter its newest score; the ones before stay in its history.

        Raises:
            AdapterNotFound, AdapterRejected: a score outside [0, 1].
        """
        fitness = check_score(fitness_score, "the fitness")
        rate = None if pass_rate is None else check_score(pass_rate, "the pass rate")
        return await self._db.write(lambda tx: self._changes.score(tx, adapter_id, fitness, rate, session_id))

    async def archive(self, adapter_id: str) -> Adapter:
        """Take an adapter out of use; its files and its row stay."""
        return await self._db.write(lambda tx: self._changes.set_archived(tx, adapter_id, archived=True))

    async def restore(self, adapter_id: str) -> Adapter:
        """Put an archived adapter back into use."""
        return await self._db.write(lambda tx: self._changes.set_archived(tx, adapter_id, archived=False))

    async def promote(
        self,
        adapter_id: str,
        to: Tier | None = None,
        reason: str = "",
        *,
        evidence: Mapping[str, object] | None = None,
        forced: bool = False,
        expected: Champions | None = None,
    ) -> Adapter:
        """Move an adapter up, by one tier or to the one named, and make it the champion of its task type.

        In the same transaction the champion so far becomes `previous`, and the adapter is no longer the challenger.
        `to` may be the tier that it is at, if it is not the champion.

        Args:
            evidence: what the promotion rests on, as JSON data: kept with it.
            forced: it is done against the evidence, or without any: kept with it. Whether that may be is decided above.
            expected: whom the aliases of its type must still name; None: whomever.

        Raises:
            AdapterNotFound.
            TransitionRefused: that is not up, it is archived or quarantined, or the aliases moved meanwhile.
        """
        move = Move(1, to, reason[:MAX_REASON], evidence, forced, expected)
        adapter = await self._db.write(lambda tx: self._changes.move(tx, adapter_id, move))
        crash_point("promotion.after_commit")
        return adapter

    async def demote(self, adapter_id: str, to: Tier | None = None, reason: str = "") -> Adapter:
        """Move an adapter down, by one tier or to the one named. Aliases stay: `rollback` is about those.

        Raises:
            AdapterNotFound.
            TransitionRefused: that is not down, or it is archived or quarantined.
        """
        move = Move(-1, to, reason[:MAX_REASON])
        return await self._db.write(lambda tx: self._changes.move(tx, adapter_id, move))

    async def rollback(self, task_type: str) -> Champions:
        """Put the champion before this one back in its place; without one before, the base model serves again.

        The two change places, so that a second rollback takes the first one back.

        Raises:
            TransitionRefused: there is neither, or the one before is quarantined.
        """
        return await self._db.write(lambda tx: self._changes.rollback(tx, task_type))

    async def set_alias(self, name: str, adapter_id: str | None, expected: str | None = None) -> None:
        """Point an alias such as `code-gen@champion` at an adapter, if it points at `expected` now (None: not set).

        `adapter_id` None removes the alias.

        Raises:
            AdapterNotFound, AdapterRejected.
            TransitionRefused: someone moved it meanwhile, or the adapter is archived or quarantined.
        """
        check_alias(name)
        await self._db.write(lambda tx: self._changes.set_alias(tx, name, adapter_id, expected))

    async def undo(self, expected: int | None = None) -> Change:
        """Take back the newest change that is done, whoever made it and before whatever restart.

        Args:
            expected: the number that the change must have: what a person was shown is what is undone.

        Raises:
            TransitionRefused: there is nothing to undo, or it is another change by now.
        """
        return await self._db.write(lambda tx: self._changes.undo(tx, expected))

    async def redo(self, expected: int | None = None) -> Change:
        """Do the oldest undone change again; possible until something else is changed.

        Raises:
            TransitionRefused: as `undo`.
        """
        return await self._db.write(lambda tx: self._changes.redo(tx, expected))

    # --- integrity -------------------------------------------------------------------------------------------

    async def verify(self, adapter_id: str) -> bool:
        """Compare an adapter's files with its digest; a difference quarantines it, equality lifts that.

        Raises:
            AdapterNotFound.
        """
        digest = (await self.get(adapter_id)).digest
        async with self._publishing:
            whole = await run_to_end(lambda: self._blobs.is_whole(digest))
            await self._db.write(lambda tx: self._changes.set_verified(tx, digest, whole=whole))
        return whole

    async def resolve_for_load(self, adapter_id: str) -> LoadableAdapter:
        """The verified files of an adapter, for a model server. Call it before every load.

        Raises:
            AdapterNotFound, AdapterArchived.
            AdapterQuarantined: its files are, or were found now, not those that were published.
        """
        adapter = await self.get(adapter_id)
        if adapter.is_archived:
            raise AdapterArchived(f"{adapter_id} is archived and not served; restore it first")
        if not await self._is_intact(adapter):
            if not adapter.is_quarantined:
                await self._db.write(lambda tx: self._changes.set_verified(tx, adapter.digest, whole=False))
            raise AdapterQuarantined(
                f"{adapter_id}: its files changed after publication; publish them again to heal it"
            )
        return LoadableAdapter(adapter, self._blobs.directory(adapter.digest), *await self._gguf(adapter.digest))

    async def _gguf(self, digest: str) -> tuple[Path | None, str | None]:
        """The GGUF form and its digest if it is whole; a damaged one counts as absent, because it can be made again."""

        def expected(reader: Reader) -> str | None:
            row = reader.execute(
                "SELECT file_hash FROM derived_files WHERE digest = ? AND name = ?", (digest, GGUF)
            ).fetchone()
            return None if row is None else str(row[0])

        wanted = await self._db.read(expected)
        path = self._blobs.directory(digest) / GGUF

        def is_whole() -> bool:
            try:
                return file_digest(path) == wanted
            except AdapterRejected:
                return False

        return (path, wanted) if wanted is not None and await run_to_end(is_whole) else (None, None)

    async def gc(self, grace_seconds: float = GC_GRACE_SECONDS) -> list[str]:
        """Delete blobs that no adapter names and that are older than the grace period; gives their digests."""
        async with self._publishing:
            old = await run_to_end(lambda: self._blobs.older_than(grace_seconds))
            orphans = await self._db.write(lambda tx: self._changes.forget_unreferenced(tx, old)) if old else []
            await run_to_end(lambda: [self._blobs.remove(digest) for digest in orphans])
        return orphans


def _check_new(new: NewAdapter) -> None:
    check_id(new.id)
    check_id(new.task_type, "task type")
    if new.version < 1 or (new.generation is not None and new.generation < 0):
        raise AdapterRejected("the version is at least 1 and the generation at least 0")
    if len(new.parent_ids) > MAX_PARENTS or len(set(new.parent_ids)) != len(new.parent_ids):
        raise AdapterRejected(f"parents are at most {MAX_PARENTS}, each once")
    if new.id in new.parent_ids:
        raise AdapterRejected("an adapter is not its own parent")
    for name, value in (("session id", new.session_id), ("agent id", new.agent_id), ("hash", new.training_task_hash)):
        if value is not None:
            check_id(value, name)
