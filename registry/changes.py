"""What is changed in the adapter rows. Every function runs inside one `Database.write`, and records one event."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from registry import queries
from registry.blobs import Blob
from registry.clock import Clock, timestamp
from registry.crash import crash_point
from registry.db import Transaction
from registry.errors import AdapterAlreadyExists, AdapterNotFound, TransitionRefused
from registry.journal import Recorder
from registry.models import Adapter, NewAdapter, Tier


@dataclass(frozen=True, slots=True)
class Changes:
    """The writes of the registry; the pair of time and recorder that each of them needs."""

    clock: Clock
    recorder: Recorder

    def insert(self, tx: Transaction, new: NewAdapter, blob: Blob) -> Adapter:
        """Add the row of a published blob.

        Raises:
            AdapterAlreadyExists: the id is taken, in whatever case.
            AdapterNotFound: a parent is not in the registry.
        """
        if tx.execute("SELECT 1 FROM adapters WHERE lower(id) = lower(?)", (new.id,)).fetchone() is not None:
            raise already_exists(new.id)
        generation = self._generation(tx, new)
        now = timestamp(self.clock.now())
        tx.execute(
            "INSERT INTO adapters (id, version, task_type, base_model_id, rank, alpha, target_modules, created_at, "
            "digest, file_hash, file_size_bytes, tier, source, session_id, agent_id, training_task_hash, generation, "
            "verified_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(new.id, new.version, new.task_type, blob.base_model_id, blob.config.rank, blob.config.alpha),
                *(json.dumps(blob.config.target_modules), now, blob.digest, blob.weights.sha256),
                *(blob.weights.size_bytes, new.tier, new.source, new.session_id, new.agent_id),
                *(new.training_task_hash, generation, now),
            ),
        )
        tx.executemany(
            "INSERT INTO adapter_parents (child_id, position, parent_id) VALUES (?, ?, ?)",
            [(new.id, position, parent) for position, parent in enumerate(new.parent_ids)],
        )
        adapter = self._record(tx, new.id, "published", kind="created", session_id=new.session_id)
        crash_point("publish.in_transaction")
        return adapter

    def _generation(self, tx: Transaction, new: NewAdapter) -> int:
        parents = [queries.find(tx, parent) for parent in new.parent_ids]
        for name, parent in zip(new.parent_ids, parents, strict=True):
            if parent is None:
                raise AdapterNotFound(f"the parent {name[:100]!r} is not in the registry")
        highest = max((parent.generation for parent in parents if parent is not None), default=-1)
        return highest + 1 if new.generation is None else new.generation

    def score(
        self, tx: Transaction, adapter_id: str, fitness: float, pass_rate: float | None, session_id: str | None
    ) -> Adapter:
        """Give an adapter its newest score; an omitted pass rate keeps the one it has."""
        queries.get(tx, adapter_id)
        tx.execute(
            "INSERT INTO adapter_evaluations (adapter_id, fitness_score, pass_rate, session_id, recorded_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (adapter_id, fitness, pass_rate, session_id, timestamp(self.clock.now())),
        )
        tx.execute(
            "UPDATE adapters SET fitness_score = ?, pass_rate = ifnull(?, pass_rate) WHERE id = ?",
            (fitness, pass_rate, adapter_id),
        )
        return self._record(tx, adapter_id, "evaluated", session_id=session_id)

    def set_archived(self, tx: Transaction, adapter_id: str, *, archived: bool) -> Adapter:
        """Archive or restore; what is already so stays so, without an event."""
        adapter = queries.get(tx, adapter_id)
        if adapter.is_archived == archived:
            return adapter
        tx.execute("UPDATE adapters SET is_archived = ? WHERE id = ?", (int(archived), adapter_id))
        return self._record(tx, adapter_id, "archived" if archived else "restored")

    def move(self, tx: Transaction, adapter_id: str, reason: str, target: Callable[[Adapter], Tier]) -> Adapter:
        """Move an adapter to the tier that `target` names, and note it in its history.

        Raises:
            TransitionRefused: it is archived or quarantined.
        """
        adapter = queries.get(tx, adapter_id)
        if adapter.is_archived or adapter.is_quarantined:
            raise TransitionRefused(f"{adapter_id} is {'archived' if adapter.is_archived else 'quarantined'}")
        tier = target(adapter)
        tx.execute("UPDATE adapters SET tier = ? WHERE id = ?", (tier, adapter_id))
        tx.execute(
            "INSERT INTO adapter_promotions (adapter_id, from_tier, to_tier, reason, recorded_at) "
            "VALUES (?, ?, ?, ?, ?)",
            (adapter_id, adapter.tier, tier, reason, timestamp(self.clock.now())),
        )
        return self._record(tx, adapter_id, "promoted" if tier.level > adapter.tier.level else "demoted")

    def set_verified(self, tx: Transaction, digest: str, *, whole: bool) -> None:
        """Note what a check of a blob found, in every adapter that it is the files of."""
        for adapter in queries.of_digest(tx, digest):
            tx.execute(
                "UPDATE adapters SET is_quarantined = ?, verified_at = CASE WHEN ? THEN ? ELSE verified_at END "
                "WHERE id = ?",
                (int(not whole), whole, timestamp(self.clock.now()), adapter.id),
            )
            self._record(tx, adapter.id, "verified" if whole else "quarantined")

    def set_alias(self, tx: Transaction, name: str, adapter_id: str, expected: str | None) -> None:
        """Point an alias at an adapter, if it points at `expected` now.

        Raises:
            TransitionRefused: it points elsewhere.
        """
        queries.get(tx, adapter_id)
        present = queries.aliases(tx).get(name)
        if present != expected:
            raise TransitionRefused(f"{name} is {present or 'not set'}, not {expected or 'not set'}: look again")
        tx.execute(
            "INSERT INTO adapter_aliases (name, adapter_id, updated_at) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET adapter_id = excluded.adapter_id, updated_at = excluded.updated_at",
            (name, adapter_id, timestamp(self.clock.now())),
        )
        payload = {"action": "aliased", "name": name, "adapter": adapter_id, "previous": present}
        self.recorder.record(tx, kind="updated", subject=f"alias/{name}", payload=payload)

    def set_derived(self, tx: Transaction, digest: str, name: str, file_hash: str, size_bytes: int) -> None:
        """Note the digest of a file that was made from a blob."""
        tx.execute(
            "INSERT INTO derived_files (digest, name, file_hash, file_size_bytes) VALUES (?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET file_hash = excluded.file_hash, file_size_bytes = excluded.file_size_bytes",
            (digest, name, file_hash, size_bytes),
        )
        payload = {"action": "derived", "name": name, "file_hash": file_hash, "file_size_bytes": size_bytes}
        self.recorder.record(tx, kind="updated", subject=f"blob/{digest}", payload=payload)

    def forget_unreferenced(self, tx: Transaction, digests: list[str]) -> list[str]:
        """Of these blobs, those that no adapter names; their derived files are forgotten."""
        orphans = [
            digest
            for digest in digests
            if tx.execute("SELECT 1 FROM adapters WHERE digest = ? LIMIT 1", (digest,)).fetchone() is None
        ]
        if orphans:
            tx.executemany("DELETE FROM derived_files WHERE digest = ?", [(digest,) for digest in orphans])
            payload = {"action": "collected", "digests": orphans}
            self.recorder.record(tx, kind="deleted", subject="registry/blobs", payload=payload)
        return orphans

    def _record(
        self, tx: Transaction, adapter_id: str, action: str, *, kind: str = "updated", session_id: str | None = None
    ) -> Adapter:
        adapter = queries.get(tx, adapter_id)
        payload = {"action": action, **adapter.as_json()}
        self.recorder.record(tx, kind=kind, subject=f"adapter/{adapter_id}", payload=payload, session_id=session_id)
        return adapter


def already_exists(adapter_id: str) -> AdapterAlreadyExists:
    """The error for a taken id."""
    return AdapterAlreadyExists(f"adapter {adapter_id} is already published and adapters never change; choose another")
