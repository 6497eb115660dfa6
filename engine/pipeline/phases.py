"""The first three phases of a project: decompose, plan, code. Each gives the update of the session's state.

A phase is one node of the session graph. Its loops have checkpoints of their own, so a phase that is run again after a
crash finds its finished loops finished: subtasks that are worked on side by side are thereby durable one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.api_models import PhaseName, TaskSpec
from engine.errors import DependencyCycleError
from engine.pipeline.attempt import will_continue
from engine.pipeline.dependencies import Blackboard, layers
from engine.pipeline.files import files_text, shown_files, target_text
from engine.pipeline.join import required_names
from engine.pipeline.parse import (
    FALLBACK_CHARS,
    FALLBACK_NAME,
    Decomposition,
    Subtask,
    parse_decomposition,
    resolve,
    without_duplicates,
)
from engine.pipeline.prompts import BUDGETS, Value
from engine.pipeline.reflect import guidance
from engine.pipeline.score import (
    MAX_UNIQUE,
    decompose_is_enough,
    decompose_score,
    plan_is_enough,
    plan_score,
    subtask_fitness,
)
from engine.pipeline.state import PhaseData, SessionState, SubtaskCode, SubtaskData, subtask_data, with_phase
from engine.pipeline.turns import Ask, Loop, Turn, best_turn, verdict_of
from engine.pipeline.work import Work, side_by_side

EXAMPLE_NAMES = frozenset({"task-model", "task-store", "command-line"})
"""Of the worked example in the decompose template, which the smallest models like to give back."""

LIST_TOKENS = 400
"""Of a decomposition or a plan: both are cut to a few hundred characters when they are used."""


# --- decompose -----------------------------------------------------------------------------------------------


async def decompose(work: Work, state: SessionState) -> SessionState:
    """Split the project into subtasks whose dependencies have no circle."""
    turns = await work.run(_decompose_loop(work, "decompose", work.cap(PhaseName.DECOMPOSE), ""))
    best = max((read_list(turn["text"], work.task.prompt) for turn in turns), key=score_of)
    iterations = len(turns)
    subtasks = accepted(best if not best.fallback else by_name(best, work.task))
    cycle = cycle_of(subtasks)
    if cycle:
        # Once more, with the circle named; the list that has it is shown as the one to improve.
        again = await work.run(_decompose_loop(work, "decompose/cycle", 1, cycle, prior=_listing(subtasks)))
        best = read_list(again[-1]["text"], work.task.prompt)
        subtasks = accepted(best)
        cycle = cycle_of(subtasks)
        iterations += 1
    score = score_of(best)
    if cycle:
        failure = f"decompose: {cycle} Asking again did not help; state the parts of the task in the prompt."
        data = PhaseData(iterations=iterations, score=score, state="failed", detail=failure)
        return {"failure": failure, "phases": with_phase(state, "decompose", data)}
    data = PhaseData(iterations=iterations, score=score, state="done", detail=f"{len(subtasks)} subtasks")
    return {"subtasks": [subtask_data(part) for part in subtasks], "phases": with_phase(state, "decompose", data)}


def by_name(best: Decomposition, task: TaskSpec) -> Decomposition:
    """Where no list could be had: a subtask for each name that the task asks for, if it names several."""
    names = required_names(task)
    if len(names) < 2:
        return best
    return Decomposition(tuple(Subtask(name, f"Only `{name}`, as the project says.") for name in names), fallback=True)


def read_list(text: str, prompt: str) -> Decomposition:
    """The decomposition that an answer says; one that repeats the prompt's worked example says nothing."""
    if repeats_example(text):
        return Decomposition((Subtask(FALLBACK_NAME, prompt.strip()[:FALLBACK_CHARS]),), fallback=True)
    return parse_decomposition(text)


def repeats_example(text: str) -> bool:
    """Whether most names of the list are those of the worked example."""
    names = [part.name.lower() for part in parse_decomposition(text).subtasks]
    return 2 * sum(name in EXAMPLE_NAMES for name in names) > len(names)


def score_of(decomposition: Decomposition) -> float:
    """Score of a parsed decomposition."""
    return decompose_score([part.name for part in decomposition.subtasks], fallback=decomposition.fallback)


def accepted(decomposition: Decomposition) -> list[Subtask]:
    """Without duplicates, and no more than a project may have; what depended on the rest no longer does."""
    return resolve(without_duplicates(decomposition.subtasks)[:MAX_UNIQUE])


def cycle_of(subtasks: Sequence[Subtask]) -> str:
    """The sentence that names a circle of dependencies; empty when there is none."""
    try:
        layers({part.name: part.depends for part in subtasks})
    except DependencyCycleError as error:
        return str(error)
    return ""


def _decompose_loop(work: Work, key: str, cap: int, cycle: str, prior: str = "") -> Loop:
    template = "decompose_concise" if work.parts.adapter is not None else "decompose"
    task = work.task

    def ask(turns: Sequence[Turn]) -> Ask:
        worth = [turn["text"] for turn in turns if not repeats_example(turn["text"])]
        best = max(worth, key=lambda text: score_of(parse_decomposition(text)), default=prior)
        files = files_text(shown_files(task), BUDGETS["decompose"]["files"].chars)
        values = {
            "project": task.prompt,
            "target": target_text(task),
            "files": files,
            "prior": best,
            "cycle": cycle,
        }
        return Ask(template, values)

    def enough(turn: Turn) -> bool:
        parsed = read_list(turn["text"], task.prompt)
        return decompose_is_enough(score_of(parsed), [part.name for part in parsed.subtasks])

    return Loop(key, PhaseName.DECOMPOSE, cap, ask, enough=enough, max_tokens=LIST_TOKENS)


def _listing(subtasks: Sequence[Subtask]) -> str:
    return "\n".join(
        f"{number}. {part.name} - {part.description} [depends: {', '.join(part.depends) or 'none'}]"
        for number, part in enumerate(subtasks, start=1)
    )


# --- plan ----------------------------------------------------------------------------------------------------


async def plan(work: Work, state: SessionState) -> SessionState:
    """Plan every subtask, side by side."""
    subtasks = state.get("subtasks", [])

    async def one(subtask: SubtaskData) -> list[Turn]:
        return await work.run(_plan_loop(work, subtask))

    results = await side_by_side(one, subtasks)
    plans = [max((turn["text"].strip() for turn in turns), key=len) for turns in results]
    score = plan_score(plans)
    iterations = max(map(len, results), default=0)
    data = PhaseData(iterations=iterations, score=score, state="done", detail=f"{len(plans)} plans")
    named = {subtask["name"]: text for subtask, text in zip(subtasks, plans, strict=True)}
    return {"plans": named, "phases": with_phase(state, "plan", data)}


def _plan_loop(work: Work, subtask: SubtaskData) -> Loop:
    def ask(turns: Sequence[Turn]) -> Ask:
        values = {
            "project": work.task.prompt,
            "name": subtask["name"],
            "description": subtask["description"],
            "prior": max((turn["text"] for turn in turns), key=len, default=""),
        }
        return Ask("plan", values)

    return Loop(
        f"plan/{subtask['name']}",
        PhaseName.PLAN,
        work.cap(PhaseName.PLAN),
        ask,
        enough=lambda turn: plan_is_enough(turn["text"]),
        subtask=subtask["name"],
        max_tokens=LIST_TOKENS,
    )


# --- code ----------------------------------------------------------------------------------------------------


async def code(work: Work, state: SessionState) -> SessionState:
    """Write the subtasks, layer by layer; what a layer publishes reaches only later layers."""
    subtasks = {subtask["name"]: subtask for subtask in state.get("subtasks", [])}
    depends = {name: subtask["depends"] for name, subtask in subtasks.items()}
    board = Blackboard(depends)
    plans = state.get("plans", {})
    codes: dict[str, SubtaskCode] = {}
    for layer in layers(depends):

        async def one(name: str) -> SubtaskCode:
            loop = _code_loop(work, subtasks[name], plans.get(name, ""), board.dependency_interfaces(name))
            return subtask_code(await work.run(loop))

        for name, written in zip(layer, await side_by_side(one, layer), strict=True):
            codes[name] = written
            board.publish(name, written["code"], tests_passed=written["passed"])
    passed = sum(written["passed"] for written in codes.values())
    score = sum(written["fitness"] for written in codes.values()) / len(codes)
    iterations = max(written["iterations"] for written in codes.values())
    detail = f"{passed} of {len(codes)} subtasks pass their own tests"
    data = PhaseData(iterations=iterations, score=score, state="done", detail=detail)
    return {"codes": codes, "phases": with_phase(state, "code", data)}


def subtask_code(turns: Sequence[Turn]) -> SubtaskCode:
    """The best of a subtask's attempts."""
    best = best_turn(turns)
    assert best is not None, "a loop has at least one turn"
    verdict = verdict_of(best)
    return {
        "code": best["code"],
        "passed": verdict.passed,
        "fitness": subtask_fitness(verdict),
        "iterations": len(turns),
    }


def _code_loop(work: Work, subtask: SubtaskData, plan_text: str, dependencies: str) -> Loop:
    def ask(turns: Sequence[Turn]) -> Ask:
        facts: dict[str, Value] = {
            "project": work.task.prompt,
            "name": subtask["name"],
            "description": subtask["description"],
            "dependencies": dependencies,
        }
        return code_ask(
            facts, {"plan": plan_text, "target": target_text(work.task, with_tests=False), "test_main": True}, turns
        )

    return Loop(
        f"code/{subtask['name']}",
        PhaseName.CODE,
        work.cap(PhaseName.CODE),
        ask,
        check=work.self_check,
        subtask=subtask["name"],
    )


def code_ask(facts: Mapping[str, Value], more: Mapping[str, Value], turns: Sequence[Turn]) -> Ask:
    """First `code`; after a cut answer `code_continue`; after anything else `code_retry` with the diagnosis."""
    if not turns:
        return Ask("code", {**facts, **more, "existing_code": ""})
    last = turns[-1]
    if will_continue(last):
        return Ask("code_continue", {**facts, "written": last["code"]}, continues=True)
    verdict = verdict_of(last)
    retry: dict[str, Value] = {
        "existing_code": last["code"],
        "errors": last["error"],
        "failed_tests": last["failed_tests"],
        "diagnosis": last["diagnosis"],
        "guidance": guidance(verdict),
        "status": f"{verdict.passed_count} of {verdict.ran} tests pass" if verdict.ran else "no test ran",
    }
    shared = {name: value for name, value in more.items() if name != "test_main"}
    return Ask("code_retry", {**facts, **shared, **retry})
