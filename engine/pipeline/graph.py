"""The session graph: which phase follows which. LangGraph is imported here and in `attempt`, at first use only.

    START ──► attempt ───────────────────────────────────────────────► verdict ──► END       attempt and explore mode
      └─────► decompose ──► plan ──► code ──► integrate ──► ... ──────────┘                  project mode
                  │ circle of dependencies, twice         (see assemble)
                  └───────────────────────────────────────────────────────┘

Every node ends in a checkpoint (`durability="sync"`: on disk before the next node starts), so a session that was
killed goes on with the phase it was in, and inside of it with the loops that had not ended.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from engine.api_models import PhaseName, PhaseStatus, TaskMode
from engine.evaluation.verdict import Verdict
from engine.pipeline import assemble, explorer, phases, single
from engine.pipeline.attempt import require_judged
from engine.pipeline.state import PhaseData, SessionState
from engine.pipeline.turns import verdict_from, verdict_json
from engine.pipeline.work import Work
from registry.crash import crash_point

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

PhaseFunction = Callable[[Work, SessionState], Awaitable[SessionState]]


async def _attempt(work: Work, state: SessionState) -> SessionState:
    """Whoever the task's mode asks: the model, or the explorer."""
    solver = explorer.explore if work.task.mode is TaskMode.EXPLORE else single.attempt
    return await solver(work, state)


PHASES: dict[PhaseName, PhaseFunction] = {
    PhaseName.ATTEMPT: _attempt,
    PhaseName.DECOMPOSE: phases.decompose,
    PhaseName.PLAN: phases.plan,
    PhaseName.CODE: phases.code,
    PhaseName.INTEGRATE: assemble.integrate,
    PhaseName.DIAGNOSE: assemble.diagnose,
    PhaseName.REPAIR: assemble.repair,
}

RECURSION_SPARE = 20
"""Nodes of a session apart from repair rounds, and some more."""


@functools.cache
def _import_langgraph() -> None:
    """Pay for the import (over a second) once."""
    for module in ("langgraph.graph", "langgraph.checkpoint.sqlite.aio"):
        importlib.import_module(module)


async def prepare() -> None:
    """Import LangGraph without holding up the event loop; later calls cost nothing."""
    await asyncio.to_thread(_import_langgraph)


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncGenerator[BaseCheckpointSaver[str]]:
    """LangGraph's checkpointer on `path`, closed whatever happens: its thread would keep the process alive.

    Values are msgpack of plain data: no pickle, and no class is ever rebuilt from the file. While it is open nothing is
    traced: LangChain would otherwise send prompts and code to a server if some variable of the environment says so.
    """
    await prepare()
    import aiosqlite
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langsmith import tracing_context

    plain = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)
    async with aiosqlite.connect(path) as connection:
        # FULL: a checkpoint that was reported is there after a power loss too. The timeout outlasts a sibling session.
        await connection.execute("PRAGMA busy_timeout = 10000")
        await connection.execute("PRAGMA synchronous = FULL")
        saver = AsyncSqliteSaver(connection, serde=plain)
        await saver.setup()
        with tracing_context(enabled=False):
            yield saver


async def make_checkpoints(path: Path) -> None:
    """Make the file, once, before sessions share it.

    Two connections that turn a fresh file to WAL at once meet "database is locked", which no timeout waits for.
    """
    async with open_checkpoints(path):
        pass


async def run_graph(work: Work) -> SessionState:
    """Run the session to its end, from its last finished phase if it was begun before."""
    graph = _session_graph(work)
    repairs = work.cap(PhaseName.REPAIR)
    config: Any = {
        "configurable": {"thread_id": work.session_id},
        "recursion_limit": 2 * repairs + RECURSION_SPARE,
    }
    begun = await graph.aget_state(config) if work.saver is not None else None
    known = cast("SessionState", begun.values if begun is not None else {})
    if "decided" in known:
        return known
    # Begun is what has values. `begun.next` would not do: it is empty too between a node's end and its checkpoint.
    start: SessionState | None = None if known else {"phases": {}}
    durable = {"durability": "sync"} if work.saver is not None else {}
    return cast("SessionState", await graph.ainvoke(cast("Any", start), config, **cast("Any", durable)))


async def begun_state(work: Work) -> SessionState:
    """What the finished phases of a session left, without running anything."""
    config: Any = {"configurable": {"thread_id": work.session_id}}
    return cast("SessionState", (await _session_graph(work).aget_state(config)).values)


def _session_graph(work: Work) -> CompiledStateGraph[SessionState, None, Any, Any]:
    from langgraph.graph import END, START, StateGraph

    graph = StateGraph(SessionState)
    for phase, function in PHASES.items():
        graph.add_node(phase.value, _node(work, phase, function))
    graph.add_node("verdict", functools.partial(_verdict, work))
    first = PhaseName.DECOMPOSE if work.task.mode is TaskMode.PROJECT else PhaseName.ATTEMPT
    graph.add_edge(START, first.value)
    graph.add_edge("attempt", "verdict")
    graph.add_conditional_edges("decompose", _after_decompose, ["plan", "verdict"])
    graph.add_edge("plan", "code")
    graph.add_edge("code", "integrate")
    after_integrate = functools.partial(assemble.after_integrate, work)
    graph.add_conditional_edges("integrate", after_integrate, ["diagnose", "verdict"])
    graph.add_conditional_edges("diagnose", assemble.after_diagnose, ["repair", "verdict"])
    graph.add_conditional_edges("repair", after_integrate, ["diagnose", "verdict"])
    graph.add_edge("verdict", END)
    return graph.compile(checkpointer=work.saver)


class _Node(Protocol):
    async def __call__(self, state: SessionState) -> SessionState: ...


def _node(work: Work, phase: PhaseName, function: PhaseFunction) -> _Node:
    async def run(state: SessionState) -> SessionState:
        crash_point("session.before_phase")
        await work.parts.gate(phase)
        await work.parts.report.phase(PhaseStatus(phase=phase, state="running"))
        update = await function(work, state)
        await work.parts.report.phase(status_of(phase, update.get("phases", {})[phase.value]))
        crash_point("session.after_phase")
        return update

    return run


async def _verdict(work: Work, state: SessionState) -> SessionState:
    """The verdict that the outcome comes from: the hidden tests' if there are any, else the program's own.

    Raises:
        JudgeFailedError: nothing is decided then, so that a resume judges again.
    """
    program = state.get("program")
    if program is None or not program["code"].strip() or work.task.hidden_tests is None:
        return {"decided": {} if program is None else program["verdict"]}
    verdict = await work.decide(program["code"])
    require_judged(verdict)
    return {"decided": verdict_json(verdict)}


def _after_decompose(state: SessionState) -> Literal["plan", "verdict"]:
    return "verdict" if state.get("failure") else "plan"


def status_of(phase: PhaseName, data: PhaseData) -> PhaseStatus:
    """A phase's data as the API shows it."""
    return PhaseStatus(
        phase=phase,
        state=data["state"],
        iterations=data["iterations"],
        score=data["score"],
        detail=data["detail"],
    )


def decided_verdict(state: SessionState) -> Verdict | None:
    """The deciding verdict of a session that ran to its end; None where there was nothing to judge."""
    data = state.get("decided")
    return verdict_from(data) if data else None
