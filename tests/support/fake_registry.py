"""The part of the fake engine that keeps aliases, promotions and a history, and queues what takes long."""

from __future__ import annotations

from typing import Any

from support.evidence_house import START, evidence

from engine.api_evolution import (
    ChampionsRecord,
    Change,
    Evidence,
    EvidenceRequest,
    ImproveRequest,
    MergeRequest,
    PromoteRequest,
    PromotionCase,
    PromotionRecord,
    PruneRequest,
    Steps,
    TierName,
)
from engine.api_learning import EvaluateRequest, Operation, OperationKind, Split, SuiteInfo
from engine.api_models import AdapterRecord, Event, Frozen, RunState
from engine.errors import ConflictError, NotFoundError

SUITES = (
    SuiteInfo(
        name="humaneval", title="HumanEval", origin="built-in", seeded=False, task_type="code-gen", digest="a" * 64,
        counts={Split.GATE: 164}, templates=164,
    ),
    SuiteInfo(
        name="runekit", title="A private API on lists", origin="built-in", seeded=True, task_type="runekit",
        digest="b" * 64, counts={Split.TRAIN: 240, Split.GATE: 260}, templates=90,
    ),
)  # fmt: skip


class FakeRegistry:
    """`rune_tui.registry_port.RegistryPort` from plain data."""

    def __init__(self) -> None:
        self.adapter_list: tuple[AdapterRecord, ...] = ()
        self.old_registry = False
        """Answers as an engine without a history."""
        self.alias_map: dict[str, str] = {}
        self.changes: list[Change] = []
        self.found: Evidence | None = None
        self.objections: tuple[str, ...] = ()
        self.moves: list[PromotionRecord] = []
        self.queued: list[tuple[OperationKind, Frozen]] = []
        self.operation_map: dict[str, Operation] = {}

    def _answer(self, call: str) -> None:
        raise NotImplementedError

    def emit(
        self, subject: str, payload: dict[str, Any], *, kind: str = "updated", session_id: str | None = None
    ) -> Event:
        raise NotImplementedError

    # --- what a test does to it ---

    def change_adapter(self, adapter_id: str, **changes: Any) -> AdapterRecord:
        """An adapter changes, and says so."""
        record = self._adapter(adapter_id).model_copy(update=changes)
        self.adapter_list = tuple(record if one.id == adapter_id else one for one in self.adapter_list)
        self.emit(f"adapter/{adapter_id}", {"action": "changed", **record.model_dump(mode="json")})
        return record

    def point(self, name: str, target: str | None) -> None:
        """An alias moves, and says so."""
        kind = "updated" if target else "deleted"
        self.alias_map = {key: value for key, value in self.alias_map.items() if key != name}
        if target is not None:
            self.alias_map[name] = target
        self.emit(f"alias/{name}", {"action": "aliased", "name": name, "adapter": target}, kind=kind)

    def note(self, subject: str, what: str, before: dict[str, Any], after: dict[str, Any], **more: Any) -> Change:
        """Add to the history."""
        number = len(self.changes) + 1
        change = Change(
            sequence=number, subject=subject, what=what, before=before, after=after, timestamp=START, **more
        )
        self.changes.append(change)
        return change

    def move_operation(self, operation_id: str, **payload: Any) -> None:
        """An operation goes on, and says so."""
        known = self.operation_map[operation_id]
        whole = {"progress": payload} if "done" in payload else payload
        values = known.model_dump(mode="json") | whole
        self.operation_map[operation_id] = Operation.model_validate(values)
        self.emit(f"operation/{operation_id}", {name: value for name, value in payload.items() if name != "result"})

    # --- RegistryPort ---

    def _registry_answers(self, call: str) -> None:
        self._answer(call)
        if self.old_registry:
            raise NotFoundError("There is nothing of that id.")

    def _adapter(self, adapter_id: str) -> AdapterRecord:
        for one in self.adapter_list:
            if one.id == adapter_id:
                return one
        raise NotFoundError(f"There is no adapter {adapter_id}.")

    async def aliases(self) -> dict[str, str]:
        self._registry_answers("aliases")
        return dict(self.alias_map)

    async def promotion_case(
        self, adapter_id: str, *, to_tier: TierName | None = None, evidence: str | None = None
    ) -> PromotionCase:
        self._registry_answers("promotion_case")
        del evidence
        adapter = self._adapter(adapter_id)
        return PromotionCase(
            adapter_id=adapter_id,
            from_tier="task",
            to_tier=to_tier or "domain",
            task_type=adapter.task_type,
            incumbent=self.alias_map.get(f"{adapter.task_type}@champion", "base"),
            operation="evidence-1" if self.found else None,
            evidence=self.found,
            objections=self.objections,
        )

    async def promote(self, body: PromoteRequest) -> AdapterRecord:
        self._registry_answers("promote")
        if self.objections and not body.force:
            raise ConflictError(self.objections[0])
        assert body.to_tier is not None, "the dialog names the tier that it showed"
        adapter = self._adapter(body.adapter_id)
        name, forced = f"{adapter.task_type}@champion", bool(self.objections)
        before = {"tier": adapter.tier, name: self.alias_map.get(name)}
        self.note(f"adapter/{adapter.id}", "promoted", before, {"tier": body.to_tier, name: adapter.id}, forced=forced)
        self.moves.append(
            PromotionRecord(
                adapter_id=adapter.id,
                from_tier="task",
                to_tier=body.to_tier,
                reason="Forced." if forced else "Beats base.",
                recorded_at=START,
                evidence=self.found.model_dump(mode="json") if self.found else None,
                forced=forced,
            )
        )
        self.point(name, adapter.id)
        return self.change_adapter(adapter.id, tier=body.to_tier)

    async def promotions(self, adapter_id: str) -> tuple[PromotionRecord, ...]:
        self._registry_answers("promotions")
        return tuple(move for move in self.moves if move.adapter_id == adapter_id)

    async def rollback(self, task_type: str) -> ChampionsRecord:
        self._registry_answers("rollback")
        champion, previous = f"{task_type}@champion", f"{task_type}@previous"
        now, before = self.alias_map.get(champion), self.alias_map.get(previous)
        self.point(champion, before)
        self.point(previous, now)
        return ChampionsRecord(task_type=task_type, champion=before, challenger=None, previous=now)

    async def prune(self, body: PruneRequest) -> AdapterRecord:
        self._registry_answers("prune")
        if not body.force and body.adapter_id in self.alias_map.values():
            raise ConflictError(f"{body.adapter_id} is kept. It is the champion.")
        self.note(f"adapter/{body.adapter_id}", "archived", {"is_archived": False}, {"is_archived": True})
        return self.change_adapter(body.adapter_id, is_archived=True)

    async def restore(self, adapter_id: str) -> AdapterRecord:
        self._registry_answers("restore")
        return self.change_adapter(adapter_id, is_archived=False)

    async def steps(self) -> Steps:
        self._registry_answers("steps")
        undo = next((one for one in reversed(self.changes) if not one.undone), None)
        return Steps(undo=undo, redo=next((one for one in self.changes if one.undone), None))

    async def undo(self, expected: int | None = None) -> Change:
        self._registry_answers("undo")
        change = (await self.steps()).undo
        assert change is not None
        return self._step(change, expected, undone=True)

    async def redo(self, expected: int | None = None) -> Change:
        self._registry_answers("redo")
        change = (await self.steps()).redo
        assert change is not None
        return self._step(change, expected, undone=False)

    def _step(self, change: Change, expected: int | None, *, undone: bool) -> Change:
        if expected not in (None, change.sequence):
            raise ConflictError(f"It is now about change {change.sequence}: look again.")
        done = change.model_copy(update={"undone": undone})
        self.changes[change.sequence - 1] = done
        values = change.before if undone else change.after
        columns = {key: value for key, value in values.items() if "@" not in key}
        if columns:
            self.change_adapter(change.subject.partition("/")[2], **columns)
        for name, target in values.items():
            if "@" in name:
                assert target is None or isinstance(target, str)
                self.point(name, target)
        return done

    async def history(
        self, *, limit: int = 50, before: int | None = None, adapter_id: str | None = None
    ) -> tuple[Change, ...]:
        self._registry_answers("history")
        del before, adapter_id
        return tuple(reversed(self.changes))[:limit]

    async def suites(self) -> tuple[SuiteInfo, ...]:
        self._registry_answers("suites")
        return SUITES

    async def evidence(self, body: EvidenceRequest) -> Operation:
        return self._queue(OperationKind.EVIDENCE, body)

    async def merge(self, body: MergeRequest) -> Operation:
        return self._queue(OperationKind.MERGE, body)

    async def evaluate(self, body: EvaluateRequest) -> Operation:
        return self._queue(OperationKind.EVALUATE, body)

    def _queue(self, kind: OperationKind, body: Frozen) -> Operation:
        self._registry_answers(kind)
        self.queued.append((kind, body))
        operation = Operation(
            id=f"{kind}-{len(self.queued)}",
            kind=kind,
            state=RunState.QUEUED,
            request=body.model_dump(mode="json"),
            created_at=START,
        )
        self.operation_map[operation.id] = operation
        self.emit(f"operation/{operation.id}", operation.model_dump(mode="json", exclude={"result"}), kind="created")
        return operation

    async def improve(self, body: ImproveRequest) -> Operation:
        return self._queue(OperationKind.IMPROVE, body)

    async def operations(self, *, limit: int = 100) -> tuple[Operation, ...]:
        self._registry_answers("operations")
        newest = list(reversed(self.operation_map.values()))[:limit]
        return tuple(operation.model_copy(update={"result": None}) for operation in newest)

    async def operation(self, operation_id: str) -> Operation:
        self._registry_answers("operation")
        return self.operation_map[operation_id]

    async def cancel_operation(self, operation_id: str) -> Operation:
        return self._step_operation(operation_id, RunState.CANCELLED)

    async def resume_operation(self, operation_id: str) -> Operation:
        return self._step_operation(operation_id, RunState.QUEUED)

    def _step_operation(self, operation_id: str, state: RunState) -> Operation:
        self._registry_answers("operation")
        self.move_operation(operation_id, state=state.value)
        return self.operation_map[operation_id]


def proven(adapter_id: str) -> Evidence:
    """Evidence for an adapter of `fake_engine.adapter`."""
    return evidence(adapter_id)
