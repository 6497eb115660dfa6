"""What a client asks of the engine's learning parts: suites, operations, evaluations.

A sibling of `EngineClient`, made on an open one: `LearningClient(client).evaluate(...)`. Errors are those of every
call.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from engine.api_evolution import EvidenceRequest, EvolveRequest, ImproveRequest, MergeRequest
from engine.api_learning import (
    CheckSuiteRequest,
    EvaluateRequest,
    GateReport,
    GateRequest,
    Operation,
    OperationKind,
    RehearseRequest,
    Split,
    SuiteAdd,
    SuiteInfo,
    SuiteTask,
)
from rune_tui.client import EngineClient

_OPERATIONS = TypeAdapter(tuple[Operation, ...])
_SUITES = TypeAdapter(tuple[SuiteInfo, ...])
_TASKS = TypeAdapter(tuple[SuiteTask, ...])


class LearningClient:
    """Learning, as one engine offers it."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine

    # --- operations ---

    async def operations(
        self, *, kind: OperationKind | None = None, state: str | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[Operation, ...]:
        """A page of operations, newest first, without their results."""
        query = {"kind": kind, "state": state, "limit": limit, "offset": offset}
        return _OPERATIONS.validate_python(await self._engine.call("GET", "/operations", query=query))

    async def operation(self, operation_id: str) -> Operation:
        """One operation, whole."""
        return Operation.model_validate(await self._engine.call("GET", f"/operations/{operation_id}"))

    async def cancel_operation(self, operation_id: str) -> Operation:
        """Stop it."""
        return Operation.model_validate(await self._engine.call("POST", f"/operations/{operation_id}/cancel"))

    async def resume_operation(self, operation_id: str) -> Operation:
        """Queue a stopped one again; what it had done, it finds done."""
        return Operation.model_validate(await self._engine.call("POST", f"/operations/{operation_id}/resume"))

    # --- evaluation ---

    async def evaluate(self, body: EvaluateRequest) -> Operation:
        """Queue a measurement; the report is the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/evaluate", body=body.model_dump(mode="json")))

    async def gate(self, body: GateRequest) -> GateReport:
        """What a gate says about what was measured."""
        answer = await self._engine.call("POST", "/evaluate/gate", body=body.model_dump(mode="json"))
        return GateReport.model_validate(answer)

    async def rehearse(self, body: RehearseRequest) -> Operation:
        """Queue the base model's answers to other domains; the rows are the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/rehearse", body=body.model_dump(mode="json")))

    # --- evolution ---

    async def evidence(self, body: EvidenceRequest) -> Operation:
        """Queue the measurement of what a promotion would rest on; the evidence is the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/evidence", body=body.model_dump(mode="json")))

    async def evolve(self, body: EvolveRequest) -> Operation:
        """Queue a sweep; what it did is the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/evolve", body=body.model_dump(mode="json")))

    async def improve(self, body: ImproveRequest) -> Operation:
        """Queue rounds of running, learning and measuring; the report is the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/improve", body=body.model_dump(mode="json")))

    # --- merging ---

    async def merge(self, body: MergeRequest) -> Operation:
        """Queue a merge; its report is the operation's result."""
        return Operation.model_validate(await self._engine.call("POST", "/merge", body=body.model_dump(mode="json")))

    # --- suites ---

    async def suites(self) -> tuple[SuiteInfo, ...]:
        """Every suite there is."""
        return _SUITES.validate_python(await self._engine.call("GET", "/suites"))

    async def suite(self, name: str) -> SuiteInfo:
        """One suite."""
        return SuiteInfo.model_validate(await self._engine.call("GET", f"/suites/{name}"))

    async def suite_tasks(self, name: str, *, seed: int = 0, split: Split | None = None) -> tuple[SuiteTask, ...]:
        """Its tasks, as they are for that seed."""
        query = {"seed": seed, "split": split}
        return _TASKS.validate_python(await self._engine.call("GET", f"/suites/{name}/tasks", query=query))

    async def add_suite(self, body: SuiteAdd) -> SuiteInfo:
        """Take a file of tasks into the home."""
        return SuiteInfo.model_validate(await self._engine.call("POST", "/suites", body=body.model_dump(mode="json")))

    async def check_suite(self, body: CheckSuiteRequest) -> Operation:
        """Queue the check of a suite."""
        answer = await self._engine.call("POST", f"/suites/{body.suite}/check", body=body.model_dump(mode="json"))
        return Operation.model_validate(answer)
