"""What is changed in the adapter rows. Every function runs inside one `Database.write`, and records one event."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import cast

from registry import history, queries
from registry.blobs import Blob
from registry.clock import Clock, timestamp
from registry.crash import crash_point
from registry.db import Reader, Transaction
from registry.errors import AdapterAlreadyExists, AdapterNotFound, TransitionRefused
from registry.history import PUBLISHED, Change, ChangeState, History, Value, Values
from registry.journal import Recorder
from registry.models import Adapter, Champions, NewAdapter, Tier, alias_of

COLUMNS = frozenset({"tier", "is_archived", "fitness_score", "pass_rate"})
"""What of an adapter a change may set; the rest of its row never changes, or says what its files were found to be."""


@dataclass(frozen=True, slots=True)
class Move:
    """A wish to move an adapter between tiers."""

    direction: int
    """1 up, -1 down."""
    to: Tier | None
    """None: one step."""
    reason: str
    evidence: Mapping[str, object] | None = None
    forced: bool = False
    expected: Champions | None = None
    """Whom the aliases of the type must name, because the move was decided for that case; None: whomever."""

    def target(self, adapter: Adapter, champions: Champions) -> Tier:
        """The tier that it leads to. Up may also mean to the front of the adapter's own tier: to be its champion.

        Raises:
            TransitionRefused: it leads nowhere.
        """
        tiers = list(Tier)
        level = adapter.tier.level + self.direction if self.to is None else self.to.level
        steps = (level - adapter.tier.level) * self.direction
        to_the_front = self.direction > 0 and steps == 0 and champions.champion != adapter.id
        if not 0 <= level < len(tiers) or (steps <= 0 and not to_the_front):
            way = "up" if self.direction > 0 else "down"
            raise TransitionRefused(f"{adapter.id} is at {adapter.tier}: {self.to or 'there'} is no way {way}")
        return tiers[level]


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
        adapter = self._record(tx, new.id, PUBLISHED, kind="created", session_id=new.session_id)
        self._history.note(tx, f"adapter/{new.id}", PUBLISHED, {}, {"is_archived": False})
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
        values: dict[str, float | None] = {"fitness_score": fitness}
        if pass_rate is not None:
            values["pass_rate"] = pass_rate
        number = self._change(tx, f"adapter/{adapter_id}", "evaluated", values, session_id=session_id)
        tx.execute(
            "INSERT INTO adapter_evaluations (adapter_id, fitness_score, pass_rate, session_id, recorded_at, change) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (adapter_id, fitness, pass_rate, session_id, timestamp(self.clock.now()), number),
        )
        return queries.get(tx, adapter_id)

    def set_archived(self, tx: Transaction, adapter_id: str, *, archived: bool) -> Adapter:
        """Archive or restore; what is already so stays so, without an event. No alias names an archived adapter."""
        adapter = queries.get(tx, adapter_id)
        if adapter.is_archived == archived:
            return adapter
        names = [name for name, target in queries.aliases(tx).items() if target == adapter_id]
        values: dict[str, bool | None] = {"is_archived": archived, **dict.fromkeys(names)}
        self._change(tx, f"adapter/{adapter_id}", "archived" if archived else "restored", values)
        return queries.get(tx, adapter_id)

    def move(self, tx: Transaction, adapter_id: str, move: Move) -> Adapter:
        """Move an adapter between tiers, note it in its history, and make one that moved up the champion of its type.

        Raises:
            TransitionRefused: it is archived or quarantined, or the move leads nowhere.
        """
        adapter = queries.get(tx, adapter_id)
        check_in_use(adapter)
        champions = queries.champions(tx, adapter.task_type)
        if move.expected not in (None, champions):
            raise TransitionRefused(f"the champion of {adapter.task_type} is not who it was a moment ago: look again")
        tier = move.target(adapter, champions)
        values: dict[str, str | None] = {"tier": tier}
        if move.direction > 0:
            values |= crown(adapter.task_type, champions, adapter_id)
        what = "promoted" if move.direction > 0 else "demoted"
        number = self._change(tx, f"adapter/{adapter_id}", what, values, forced=move.forced)
        evidence = None if move.evidence is None else json.dumps(move.evidence, allow_nan=False)
        tx.execute(
            "INSERT INTO adapter_promotions (adapter_id, from_tier, to_tier, reason, recorded_at, evidence, forced, "
            "change) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(adapter_id, adapter.tier, tier, move.reason, timestamp(self.clock.now())),
                *(evidence, move.forced, number),
            ),
        )
        crash_point("promotion.in_transaction")
        return queries.get(tx, adapter_id)

    def set_alias(self, tx: Transaction, name: str, adapter_id: str | None, expected: str | None) -> None:
        """Point an alias at an adapter (None: at nothing), if it points at `expected` now.

        Raises:
            TransitionRefused: it points elsewhere, or that adapter is archived or quarantined.
        """
        if adapter_id is not None:
            check_in_use(queries.get(tx, adapter_id))
        present = queries.aliases(tx).get(name)
        if present != expected:
            raise TransitionRefused(f"{name} is {present or 'not set'}, not {expected or 'not set'}: look again")
        if present != adapter_id:
            what = "alias removed" if adapter_id is None else "alias moved"
            self._change(tx, f"alias/{name}", what, {name: adapter_id})

    def rollback(self, tx: Transaction, task_type: str) -> Champions:
        """Let the champion of a task type and the one before it change places; without one before, base serves.

        Raises:
            TransitionRefused: the task type has neither, or the one before is quarantined.
        """
        now = queries.champions(tx, task_type)
        if now.champion is None and now.previous is None:
            raise TransitionRefused(f"{task_type} has no champion and none before it: there is nothing to go back to")
        if now.previous is not None:
            check_in_use(queries.get(tx, now.previous))
        champion, previous = alias_of(task_type, "champion"), alias_of(task_type, "previous")
        values = {champion: now.previous, previous: now.champion}
        if now.previous is not None and now.previous == now.challenger:
            values[alias_of(task_type, "challenger")] = None
        self._change(tx, f"alias/{champion}", "rolled back", values)
        return queries.champions(tx, task_type)

    # --- undo and redo ---------------------------------------------------------------------------------------

    def undo(self, tx: Transaction, expected: int | None) -> Change:
        """Take back the newest change that is done.

        Raises:
            TransitionRefused: there is none, it is not number `expected`, or what it left is no longer there.
        """
        change = _the_change(history.next_undo(tx), expected, "undo")
        self._step(tx, change, change.after, change.way_back, ChangeState.UNDONE)
        return replace(change, state=ChangeState.UNDONE)

    def redo(self, tx: Transaction, expected: int | None) -> Change:
        """Do the oldest undone change again.

        Raises:
            TransitionRefused: as `undo`.
        """
        change = _the_change(history.next_redo(tx), expected, "redo")
        self._step(tx, change, change.way_back, change.after, ChangeState.DONE)
        return replace(change, state=ChangeState.DONE)

    def _step(self, tx: Transaction, change: Change, there: Values, wanted: Values, state: ChangeState) -> None:
        if present(tx, change.subject, there) != there:
            raise TransitionRefused(f"{change.sentence}: its values were changed past the history; nothing was done")
        self._write(tx, change.subject, wanted, "redone" if state is ChangeState.DONE else "undone", None)
        self._history.mark(tx, change.number, state)

    # --- what every change is made of ------------------------------------------------------------------------

    @property
    def _history(self) -> History:
        return History(self.clock, self.recorder)

    def _change(
        self,
        tx: Transaction,
        subject: str,
        what: str,
        values: Values,
        *,
        forced: bool = False,
        session_id: str | None = None,
    ) -> int:
        """Write the values and note them with those they replace; gives the number of the change."""
        before = present(tx, subject, values)
        self._write(tx, subject, values, what, session_id)
        return self._history.note(tx, subject, what, before, values, forced=forced)

    def _write(self, tx: Transaction, subject: str, values: Values, action: str, session_id: str | None) -> None:
        owner, adapter_id = subject.split("/", 1)
        columns = {name: value for name, value in values.items() if "@" not in name}
        assert columns.keys() <= COLUMNS, f"{columns.keys() - COLUMNS} never change"
        if columns:
            assignments = ", ".join(f"{name} = ?" for name in columns)
            tx.execute(f"UPDATE adapters SET {assignments} WHERE id = ?", (*columns.values(), adapter_id))
        if owner == "adapter":
            self._record(tx, adapter_id, action, session_id=session_id)
        for name, target in values.items():
            if "@" in name:
                assert target is None or isinstance(target, str)
                self._point(tx, name, target)

    def _point(self, tx: Transaction, name: str, target: str | None) -> None:
        previous = queries.aliases(tx).get(name)
        if previous == target:
            return
        payload: dict[str, object] = {"action": "aliased", "name": name, "adapter": target, "previous": previous}
        if target is None:
            tx.execute("DELETE FROM adapter_aliases WHERE name = ?", (name,))
            self.recorder.record(tx, kind="deleted", subject=f"alias/{name}", payload=payload)
            return
        tx.execute(
            "INSERT INTO adapter_aliases (name, adapter_id, updated_at) VALUES (?, ?, ?) "
            "ON CONFLICT (name) DO UPDATE SET adapter_id = excluded.adapter_id, updated_at = excluded.updated_at",
            (name, target, timestamp(self.clock.now())),
        )
        self.recorder.record(
            tx, kind="updated" if previous is not None else "created", subject=f"alias/{name}", payload=payload
        )

    def set_verified(self, tx: Transaction, digest: str, *, whole: bool) -> None:
        """Note what a check of a blob found, in every adapter that it is the files of."""
        for adapter in queries.of_digest(tx, digest):
            tx.execute(
                "UPDATE adapters SET is_quarantined = ?, verified_at = CASE WHEN ? THEN ? ELSE verified_at END "
                "WHERE id = ?",
                (int(not whole), whole, timestamp(self.clock.now()), adapter.id),
            )
            self._record(tx, adapter.id, "verified" if whole else "quarantined")

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


def present(reader: Reader, subject: str, names: Iterable[str]) -> Values:
    """The values that these columns of the subject, and these aliases, have now."""
    aliases = queries.aliases(reader)
    columns = [name for name in names if "@" not in name]
    row: Mapping[str, object] = queries.get(reader, subject.split("/", 1)[1]).as_json() if columns else {}
    return {name: cast("Value", row[name]) if name in row else aliases.get(name) for name in names}


def crown(task_type: str, champions: Champions, adapter_id: str) -> dict[str, str | None]:
    """The aliases that make an adapter the champion of its type; the one that it takes the place of is `previous`."""
    if champions.champion == adapter_id:
        return {}
    values: dict[str, str | None] = {
        alias_of(task_type, "champion"): adapter_id,
        alias_of(task_type, "previous"): champions.champion,
    }
    if champions.challenger == adapter_id:
        values[alias_of(task_type, "challenger")] = None
    return values


def check_in_use(adapter: Adapter) -> None:
    """Refuse to put an adapter forward that is not served.

    Raises:
        TransitionRefused: it is archived or quarantined.
    """
    if adapter.is_archived or adapter.is_quarantined:
        raise TransitionRefused(f"{adapter.id} is {'archived' if adapter.is_archived else 'quarantined'}")


def _the_change(change: Change | None, expected: int | None, what: str) -> Change:
    if change is None:
        raise TransitionRefused(f"there is nothing to {what}")
    if expected is not None and expected != change.number:
        raise TransitionRefused(f"{what} is now about {change.sentence}, not change {expected}: look again")
    return change


def already_exists(adapter_id: str) -> AdapterAlreadyExists:
    """The error for a taken id."""
    return AdapterAlreadyExists(f"adapter {adapter_id} is already published and adapters never change; choose another")
