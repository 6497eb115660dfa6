"""A task in attempt mode: the attempt loop alone, on the task's own text and tests."""

from __future__ import annotations

from collections.abc import Sequence

from engine.api_models import PhaseName, TaskSpec
from engine.pipeline.attempt import will_continue
from engine.pipeline.files import files_text, shown_files, shown_tests, target_text
from engine.pipeline.parse import project_label
from engine.pipeline.prompts import BUDGETS, Value
from engine.pipeline.score import integrate_score
from engine.pipeline.state import PhaseData, Program, SessionState, with_phase
from engine.pipeline.turns import Ask, Loop, Turn, best_turn, is_progress, verdict_json, verdict_of
from engine.pipeline.work import Work


async def attempt(work: Work, state: SessionState) -> SessionState:
    """Generate, execute, reflect, until it passes or the attempts are used up."""
    cap = work.cap(PhaseName.ATTEMPT)
    turns = await work.run(Loop("attempt", PhaseName.ATTEMPT, cap, lambda turns: attempt_ask(work, turns), work.check))
    program = program_of(turns)
    data = PhaseData(iterations=len(turns), score=program["score"], state="done", detail=program["diagnosis"])
    return {"program": program, "phases": with_phase(state, "attempt", data)}


def attempt_ask(work: Work, turns: Sequence[Turn]) -> Ask:
    """The task with its visible tests; the second attempt also gets what was tried and what came of it.

    So do later ones while the tries get better. Where they do not, the next is a fresh draw: a small model that is
    shown failed code copies it, and draws that know nothing of each other find more (`python -m benchmarks.loop`).
    """
    task = work.task
    facts = attempt_facts(task)
    first = first_key(task)
    if not turns:
        return Ask(first, facts)
    last = turns[-1]
    if will_continue(last):
        return continue_ask(task.prompt, last)
    if len(turns) > 1 and not is_progress(turns):
        return Ask(first, facts, fresh=True)
    verdict = verdict_of(last)
    tried: dict[str, Value] = {
        "existing_code": last["code"],
        "stdout": verdict.stdout.strip(),
        "stderr": verdict.stderr.strip(),
        "exit_code": verdict.exit_code,
        "status": f"{verdict.passed_count} of {verdict.ran} tests pass." if verdict.ran else "",
        "diagnosis": last["diagnosis"],
    }
    return Ask("attempt_retry", {**facts, **tried})


def first_key(task: TaskSpec) -> str:
    """Template of a first attempt.

    Where the task's library is not shown, the model knows it or it does not: nothing but the task is asked then, in as
    few tokens as an adapter can be trained on with a CPU.
    """
    return "attempt" if shown_files(task) == task.files else "attempt_brief"


def attempt_facts(task: TaskSpec) -> dict[str, Value]:
    """What the templates of an attempt are told of a task, before anything was tried."""
    untested = task.tests is None and task.cases is None and task.hidden_tests is None
    return {
        "project": task.prompt,
        "tests": shown_tests(task),
        "target": target_text(task, with_tests=False),
        "files": files_text(shown_files(task), BUDGETS["attempt"]["files"].chars),
        "test_main": untested,
    }


def continue_ask(prompt: str, cut: Turn) -> Ask:
    """Go on with a whole program that was cut: what it is for in one sentence, and the end of what is there."""
    named: dict[str, Value] = {"project": project_label(prompt), "name": "", "description": "", "dependencies": ""}
    return Ask("code_continue", {**named, "written": cut["code"]}, continues=True)


def program_of(turns: Sequence[Turn]) -> Program:
    """The best attempt as the program."""
    best = best_turn(turns)
    assert best is not None, "a loop has at least one turn"
    verdict = verdict_of(best)
    return {
        "code": best["code"],
        "score": integrate_score(verdict) if best["code"].strip() else 0.0,
        "verdict": verdict_json(verdict) if best["verdict"] else {},
        "diagnosis": best["diagnosis"],
        "error": best["error"],
    }
