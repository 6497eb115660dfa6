"""The last phases of a project: integrate, and while the tests fail diagnose and repair.

integrate ──► joined as they are, or by the model: passed, or no round left ──────────────────────────────► end
    │ fails                                                             ▲
    ▼                                                                   │
diagnose ──► nothing named ─────────────────────────────────────────────┤
    │ names guilty subtasks                                             │
    ▼                                                                   │
repair: rewrite only those, test each, integrate again ──► passed, cap ─┘
    └──► still fails: diagnose
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from engine.api_models import PhaseName
from engine.pipeline.attempt import will_continue
from engine.pipeline.files import files_text, shown_files, target_text
from engine.pipeline.interfaces import extract_skeleton
from engine.pipeline.join import join_parts, required_names
from engine.pipeline.parse import parse_diagnosis
from engine.pipeline.phases import subtask_code
from engine.pipeline.prompts import BUDGETS, Part, Value
from engine.pipeline.score import integrate_score
from engine.pipeline.single import continue_ask, program_of
from engine.pipeline.state import PhaseData, Program, Repair, SessionState, SubtaskCode, is_pass, with_phase
from engine.pipeline.turns import Ask, Loop, Turn, verdict_json
from engine.pipeline.work import Work, side_by_side

SUMMARY_PLAN_CHARS = 200
SUMMARY_CODE_CHARS = 300
DIAGNOSE_TOKENS = 200
"""A numbered list of a few names; the rest would not be read."""


async def integrate(work: Work, state: SessionState) -> SessionState:
    """Assemble one program from the subtasks: by joining them where that passes the given tests, else by the model."""
    joined = await _joined(work, state)
    if joined is not None:
        data = PhaseData(iterations=0, score=joined["score"], state="done", detail="the parts joined as they are")
        return {"program": joined, "phases": with_phase(state, "integrate", data)}
    loop = _integrate_loop(work, state, "integrate", work.cap(PhaseName.INTEGRATE))
    turns = await work.run(loop)
    program = program_of(turns)
    data = PhaseData(iterations=len(turns), score=program["score"], state="done", detail=program["diagnosis"])
    return {"program": program, "phases": with_phase(state, "integrate", data)}


async def _joined(work: Work, state: SessionState) -> Program | None:
    codes = [written["code"] for written in state.get("codes", {}).values()]
    code = join_parts(codes, required_names(work.task)) if work.has_tests else None
    if code is None:
        return None
    verdict = await work.check(code)
    if not verdict.passed:
        return None
    score = integrate_score(verdict)
    return {"code": code, "score": score, "verdict": verdict_json(verdict), "diagnosis": "", "error": ""}


def after_integrate(work: Work, state: SessionState) -> Literal["diagnose", "verdict"]:
    """Whether a round of repair is due."""
    rounds = len(state.get("repairs", []))
    done = is_pass(state.get("program")) or rounds >= work.cap(PhaseName.REPAIR)
    return "verdict" if done else "diagnose"


async def diagnose(work: Work, state: SessionState) -> SessionState:
    """Which subtasks are guilty, by name."""
    codes = state.get("codes", {})
    number = len(state.get("repairs", [])) + 1
    program = _program(state)

    def ask(turns: Sequence[Turn]) -> Ask:
        del turns
        parts = [Part(name, written["code"]) for name, written in codes.items()]
        errors = "\n".join(filter(None, (program["diagnosis"], program["error"])))
        return Ask("diagnose", {"project": work.task.prompt, "codes": parts, "errors": errors, "one": False})

    turns = await work.run(Loop(f"diagnose/{number}", PhaseName.DIAGNOSE, 1, ask, max_tokens=DIAGNOSE_TOKENS))
    diagnosed = parse_diagnosis(turns[-1]["text"], list(codes))
    detail = ", ".join(diagnosed) or "no subtask named"
    data = PhaseData(iterations=1, score=1.0 if diagnosed else 0.0, state="done", detail=detail)
    return {"diagnosed": diagnosed, "phases": with_phase(state, "diagnose", data)}


def after_diagnose(state: SessionState) -> Literal["repair", "verdict"]:
    """An empty diagnosis ends the repair."""
    return "repair" if state.get("diagnosed") else "verdict"


async def repair(work: Work, state: SessionState) -> SessionState:
    """Rewrite the guilty subtasks and only those, test each, assemble again; what is not better is thrown away."""
    number = len(state.get("repairs", [])) + 1
    diagnosed = state.get("diagnosed", {})
    codes = state.get("codes", {})
    names = [name for name in codes if name in diagnosed]

    async def one(name: str) -> SubtaskCode:
        return subtask_code(await work.run(_repair_loop(work, state, number, name)))

    written = dict(zip(names, await side_by_side(one, names), strict=True))
    # An empty answer is a failure: the subtask stays as it was.
    tried = {**codes, **{name: new for name, new in written.items() if new["code"].strip()}}
    candidate_state: SessionState = {**state, "codes": tried}
    # A key with one part fewer than `_repair_loop`'s: a subtask may be named "integrate" too.
    turns = await work.run(_integrate_loop(work, candidate_state, f"repair/{number}", 1))
    candidate, before = program_of(turns), _program(state)
    better = is_improvement(candidate, before)
    result = "passed" if is_pass(candidate) else "better" if better else "kept"
    entry: Repair = {
        "iteration": number,
        "diagnosed": names,
        "integration_error": candidate["error"] or candidate["diagnosis"],
        "result": result,
        "score": candidate["score"],
    }
    kept = candidate if better else before
    data = PhaseData(iterations=1, score=kept["score"], state="done", detail=f"round {number}: {result}")
    return {
        "codes": tried if better else codes,
        "program": kept,
        "repairs": [*state.get("repairs", []), entry],
        "notes": _with_notes(state, {name: diagnosed[name] for name in names}),
        "phases": with_phase(state, "repair", data),
    }


def is_improvement(candidate: Program, best: Program) -> bool:
    """Whether `candidate` replaces `best`: a pass beats a failure of equal score; else a higher score; a tie keeps."""
    if not candidate["code"].strip():
        return False
    return (is_pass(candidate), candidate["score"]) > (is_pass(best), best["score"])


def integration_part(code: str) -> str:
    """What the integrate prompt shows of a subtask: its code where that fits the budget, else its skeleton."""
    whole = code.strip()
    return whole if len(whole) <= BUDGETS["integrate"]["skeletons"].chars else extract_skeleton(code)


def subtask_summary(plans: Mapping[str, str], codes: Mapping[str, SubtaskCode]) -> str:
    """A paragraph for each subtask: 200 characters of its plan, 300 of its code, PASSED or FAILED."""
    return "\n".join(
        f"{name}: {'PASSED' if written['passed'] else 'FAILED'}\n"
        f"{plans.get(name, '')[:SUMMARY_PLAN_CHARS]}\n{written['code'][:SUMMARY_CODE_CHARS]}"
        for name, written in codes.items()
    )


def _integrate_loop(work: Work, state: SessionState, key: str, cap: int) -> Loop:
    codes = state.get("codes", {})
    task = work.task

    def ask(turns: Sequence[Turn]) -> Ask:
        last = turns[-1] if turns else None
        if last is not None and will_continue(last):
            return continue_ask(task.prompt, last)
        values: dict[str, Value] = {
            "project": task.prompt,
            "target": target_text(task),
            "files": files_text(shown_files(task), BUDGETS["integrate"]["files"].chars),
            "summary": subtask_summary(state.get("plans", {}), codes),
            "skeletons": [Part(name, integration_part(written["code"])) for name, written in codes.items()],
            "existing_code": last["code"] if last is not None else "",
            "errors": last["error"] if last is not None else "",
            "diagnosis": last["diagnosis"] if last is not None else "",
        }
        return Ask("integrate" if last is None else "integrate_retry", values)

    return Loop(key, PhaseName.INTEGRATE, cap, ask, check=work.check)


def _repair_loop(work: Work, state: SessionState, number: int, name: str) -> Loop:
    codes = state.get("codes", {})

    def ask(turns: Sequence[Turn]) -> Ask:
        del turns
        values: dict[str, Value] = {
            "project": work.task.prompt,
            "name": name,
            "existing_code": codes[name]["code"],
            "diagnosis": state.get("diagnosed", {})[name],
            "siblings": [
                Part(other, extract_skeleton(written["code"])) for other, written in codes.items() if other != name
            ],
            "prior_repairs": [Part(name, note) for note in state.get("notes", {}).get(name, [])],
        }
        return Ask("code_repair", values)

    return Loop(f"repair/{number}/{name}", PhaseName.REPAIR, 1, ask, check=work.self_check, subtask=name)


def _with_notes(state: SessionState, diagnosed: Mapping[str, str]) -> dict[str, list[str]]:
    notes = state.get("notes", {})
    return {**notes, **{name: [*notes.get(name, []), text] for name, text in diagnosed.items()}}


def _program(state: SessionState) -> Program:
    program = state.get("program")
    assert program is not None, "integrate comes first"
    return program
