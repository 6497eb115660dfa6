"""The explorer: a second solver behind the attempt's interface, for tasks whose files document what to compose.

    task ──► grammar ──► search in the sandbox ──► each program found ──► judge ──► recorded ──► the first that passes
                │                 │
                └─────────────────┴ nothing to search with, nothing found: failed, with the reason

Where a model knows nothing of an API, its own tries give nothing to learn from. The explorer finds what works by brute
force, and records it as the model's answer to the prompt that the model would have been given; so a model that learns
from it does at once what took the explorer thousands of programs. It asks no model and costs no tokens.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.api_models import AttemptRecord, PhaseName
from engine.errors import EnvironmentUnfitError
from engine.evaluation.verdict import Verdict
from engine.pipeline import search
from engine.pipeline.attempt import require_judged
from engine.pipeline.files import importable_files
from engine.pipeline.grammar import Grammar, is_of_grammar, read_grammar, solution_source
from engine.pipeline.prompts import Prompt
from engine.pipeline.reflect import reflect
from engine.pipeline.seeds import attempt_seed
from engine.pipeline.single import attempt_ask, program_of
from engine.pipeline.state import PhaseData, SessionState, with_phase
from engine.pipeline.turns import Turn, verdict_json
from engine.pipeline.work import Work
from engine.sandbox.types import Program, SandboxResult
from registry.crash import crash_point

NAME = "explorer"
"""Stands where a model and a backend are named."""
KEY = "explore"
"""Of its one loop: names the steps of its attempts."""
SEARCH_FILE = "_rune_search.py"
SOURCE = Path(search.__file__)
MAX_PROGRAMS = 10_000_000
"""What a sandbox may say that it ran: nobody believes more."""


@dataclass(frozen=True)
class Searched:
    """What one run of the search came to."""

    found: tuple[str, ...]
    """Expressions of the grammar, best first."""
    programs: int
    seconds: float
    problem: str = ""
    """Why there is no result at all."""


async def explore(work: Work, state: SessionState) -> SessionState:
    """Search, then have the judge try what was found until something passes."""
    grammar = read_grammar(work.task)
    if isinstance(grammar, str):
        return _failed(state, grammar, Searched((), 0, 0.0))
    seed = _seed(work)
    searched = await run_search(work, grammar, seed)
    turns: list[Turn] = []
    for expression in searched.found[: work.cap(PhaseName.ATTEMPT)]:
        turns.append(await _attempt(work, grammar, expression, searched, turns))
        if turns[-1]["verdict"]["passed"]:
            break
    if not turns:
        reason = searched.problem or "None of them gives what the visible tests expect."
        return _failed(state, f"{_tried(searched)}. {reason}", searched)
    program = program_of(turns)
    data = PhaseData(iterations=len(turns), score=program["score"], state="done", detail=_tried(searched))
    return {
        "program": program,
        "phases": with_phase(state, PhaseName.ATTEMPT.value, data),
        "explored": {"programs": searched.programs, "seconds": searched.seconds},
    }


async def run_search(work: Work, grammar: Grammar, seed: int) -> Searched:
    """One run of the sandbox that tries up to `explorer_programs` programs on the visible inputs.

    Raises:
        EnvironmentUnfitError: this session was given no sandbox.
        SandboxUnavailableError: the required level of isolation is not there.
    """
    sandbox = work.parts.sandbox
    if sandbox is None:
        raise EnvironmentUnfitError("The explorer needs the sandbox, and there is none.")
    task = _problem(grammar, work.parts.explorer_programs, seed)
    files = {**importable_files(work.task), SEARCH_FILE: await asyncio.to_thread(_source)}
    result = await sandbox.run(Program(files=files, argv=(SEARCH_FILE,), stdin=json.dumps(task).encode()))
    return read_result(result, grammar)


def read_result(result: SandboxResult, grammar: Grammar) -> Searched:
    """What the sandbox sent back, as far as it can be believed: programs of the grammar, a plausible count. Pure."""
    problem = "The search ran out of time." if result.timed_out else "The search did not run to its end."
    try:
        data: Any = json.loads(result.stdout)
        found = [text for text in data["found"] if isinstance(text, str)][: search.MAX_FOUND]
        programs = min(MAX_PROGRAMS, max(0, int(data["programs"])))
    except (ValueError, TypeError, KeyError, RecursionError):
        return Searched((), 0, result.duration_s, f"{problem} {result.stderr.strip()[-200:]}".strip())
    good = tuple(text for text in found if is_of_grammar(grammar, text))
    return Searched(good, programs, result.duration_s, "" if len(good) == len(found) else "Its answer was no program.")


def _problem(grammar: Grammar, budget: int, seed: int) -> Mapping[str, Any]:
    return {
        "calls": [(form.name, form.takes, form.gives, form.places) for form in grammar.forms],
        "modules": {form.name: form.module for form in grammar.forms},
        "parameters": grammar.parameters,
        "constants": repr([(constant.kind, constant.value, constant.place) for constant in grammar.constants]),
        "arguments": repr(tuple(example.arguments for example in grammar.examples)),
        "expected": repr(tuple(example.expected for example in grammar.examples)),
        "budget": budget,
        "seed": seed,
    }


@functools.cache
def _source() -> str:
    return SOURCE.read_text(encoding="utf-8")


def _seed(work: Work) -> int:
    base = work.parts.generation.seed if work.task.seed is None else work.task.seed
    return attempt_seed(base, PhaseName.ATTEMPT, KEY, 0)


async def _attempt(work: Work, grammar: Grammar, expression: str, searched: Searched, turns: list[Turn]) -> Turn:
    """Judge one program and record it as an attempt."""
    code = solution_source(grammar, expression)
    clock = work.parts.clock
    started = clock.monotonic()
    verdict = await work.check(code)
    require_judged(verdict)
    reflection = reflect(verdict, code)
    turn: Turn = {
        "number": len(turns),
        "text": f"```python\n{code}\n```",
        "code": code,
        "finish_reason": "stop",
        "truncated": False,
        "verdict": verdict_json(verdict),
        "diagnosis": reflection.diagnosis,
        "error": reflection.error,
        "failed_tests": reflection.failed_tests,
    }
    ask = attempt_ask(work, [])
    prompt = work.parts.prompts.render(ask.template, ask.values)
    seconds = (searched.seconds if not turns else 0.0, clock.monotonic() - started)
    crash_point("attempt.before_record")
    record, _ = await work.parts.store.append_step(
        f"{KEY}#{turn['number']}", _record(work, turn, verdict, prompt, seconds)
    )
    crash_point("attempt.after_record")
    await work.parts.report.attempt(record)
    return turn


def _record(work: Work, turn: Turn, verdict: Verdict, prompt: Prompt, seconds: tuple[float, float]) -> AttemptRecord:
    return AttemptRecord(
        session_id=work.session_id,
        number=0,
        phase=PhaseName.ATTEMPT,
        prompt=prompt.user,
        system_prompt=prompt.system,
        response=turn["text"],
        code=turn["code"],
        passed=verdict.passed,
        verdict={name: value for name, value in turn["verdict"].items() if name not in ("stdout", "stderr")},
        stdout=verdict.stdout,
        stderr=verdict.stderr,
        exit_code=verdict.exit_code,
        diagnosis=turn["diagnosis"],
        finish_reason=turn["finish_reason"],
        model=NAME,
        backend=NAME,
        seed=_seed(work),
        generate_seconds=seconds[0],
        execute_seconds=seconds[1],
        sandbox_level=verdict.sandbox_level,
        created_at="",
    )


def _failed(state: SessionState, reason: str, searched: Searched) -> SessionState:
    data = PhaseData(iterations=1, score=0.0, state="failed", detail=reason)
    return {
        "failure": reason,
        "phases": with_phase(state, PhaseName.ATTEMPT.value, data),
        "explored": {"programs": searched.programs, "seconds": searched.seconds},
    }


def _tried(searched: Searched) -> str:
    return f"{searched.programs} program{'' if searched.programs == 1 else 's'} tried"
