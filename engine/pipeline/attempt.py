"""The attempt graph: generate -> execute -> reflect -> (generate | save), with its own checkpoints.

Each loop is a thread of its own in LangGraph's checkpointer (`<session>/<loop key>`), so that loops that run side by
side are checkpointed one by one and each resumes where it stood. What must not happen twice happens in `reflect`: the
record is appended under the loop's step, and a step that is in the store already gives back what is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from engine.api_models import AttemptRecord, PhaseName
from engine.errors import PipelineError
from engine.evaluation.verdict import Strength, Verdict
from engine.pipeline.extract import extract_code, extract_continuation, join_continuation
from engine.pipeline.generate import Answer, Call, generate
from engine.pipeline.imports import complete_imports
from engine.pipeline.limits import TokenBudget
from engine.pipeline.parts import Parts
from engine.pipeline.prompts import Part
from engine.pipeline.reflect import Reflection, reflect, short_diagnosis
from engine.pipeline.seeds import attempt_seed, retry_temperature
from engine.pipeline.turns import (
    NO_CODE,
    Ask,
    AttemptState,
    Draft,
    Loop,
    Turn,
    is_enough,
    repeats,
    route,
    verdict_from,
    verdict_json,
)
from registry.crash import crash_point

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.graph.state import CompiledStateGraph

DIAGNOSIS_TOKENS = 80
"""A diagnosis is cut to 150 characters; more tokens would only be paid for."""

MAX_OUTPUT_CHARS = 65536
"""Of stdout and of stderr in a record: the sandbox allows a megabyte each, which no reader of a trajectory wants."""

NODES_PER_TURN = 3
SPARE_STEPS = 5


class JudgeFailedError(PipelineError):
    """The judge could not run the code; see the sandbox level in `rune-tui doctor`."""


class AttemptLoop:
    """One `Loop` on the parts of its session. Its methods are the graph's nodes."""

    def __init__(
        self, session_id: str, task_text: str, base_seed: int, parts: Parts, budget: TokenBudget, loop: Loop
    ) -> None:
        self._session_id = session_id
        self._task_text = task_text
        self._base_seed = base_seed
        self._parts = parts
        self._budget = budget
        self._loop = loop

    async def run(self, saver: BaseCheckpointSaver[str] | None) -> list[Turn]:
        """Run the loop to its end, from its last finished node if it was begun before; all its turns."""
        graph = self._graph(saver)
        config: Any = {
            "configurable": {"thread_id": f"{self._session_id}/{self._loop.key}"},
            "recursion_limit": NODES_PER_TURN * self._loop.cap + SPARE_STEPS,
        }
        begun = await graph.aget_state(config) if saver is not None else None
        known = cast("AttemptState", begun.values if begun is not None else {})
        if "outcome" in known:
            return known.get("turns", [])
        # Begun is what has values. `begun.next` would not do: it is empty too between a node's end and its checkpoint.
        start: AttemptState | None = None if known else {"turns": []}
        durable = {"durability": "sync"} if saver is not None else {}
        final = await graph.ainvoke(cast("Any", start), config, **cast("Any", durable))
        return cast("AttemptState", final).get("turns", [])

    def _graph(self, saver: BaseCheckpointSaver[str] | None) -> CompiledStateGraph[AttemptState, None, Any, Any]:
        from langgraph.graph import END, START, StateGraph

        graph = StateGraph(AttemptState)
        graph.add_node("generate", self.generate)
        graph.add_node("execute", self.execute)
        graph.add_node("reflect", self.reflect)
        graph.add_node("save", self.save)
        graph.add_edge(START, "generate")
        graph.add_conditional_edges("generate", self.after_generate, ["execute", "reflect"])
        graph.add_edge("execute", "reflect")
        graph.add_conditional_edges("reflect", self.after_reflect, ["generate", "save"])
        graph.add_edge("save", END)
        return graph.compile(checkpointer=saver)

    async def generate(self, state: AttemptState) -> AttemptState:
        """Ask the model and take the code out of its answer."""
        turns = state.get("turns", [])
        crash_point("attempt.before_generate")
        ask = self._loop.ask(turns)
        seed = attempt_seed(self._base_seed, self._loop.phase, self._loop.key, len(turns))
        answer = await generate(self._parts, self._budget, ask, self._call(turns, seed, fresh=ask.fresh))
        crash_point("attempt.after_generate")
        return {"draft": self._draft(ask, answer, turns, seed), "verdict": None, "execute_seconds": 0.0}

    async def execute(self, state: AttemptState) -> AttemptState:
        """Have the judge run the code; an answer without code is a failure."""
        assert self._loop.check is not None, "a phase whose text is not code never gets here"
        draft = _draft_of(state)
        started = self._parts.clock.monotonic()
        verdict = await self._loop.check(draft["code"]) if draft["code"].strip() else NO_CODE
        # A judge that fails leaves no record: it says nothing about the code, and the draft waits for a resume.
        require_judged(verdict)
        return {"verdict": verdict_json(verdict), "execute_seconds": self._parts.clock.monotonic() - started}

    async def reflect(self, state: AttemptState) -> AttemptState:
        """Diagnose, record, count: exactly one record for each turn, in a new list."""
        turns = state.get("turns", [])
        draft = _draft_of(state)
        data = state.get("verdict")
        verdict = verdict_from(data) if data else Verdict(False, Strength.NONE)
        reflection = reflect(verdict, draft["code"]) if data else Reflection("", "", "", complete=True)
        turn: Turn = {
            "number": len(turns),
            "text": draft["text"],
            "code": draft["code"],
            "finish_reason": draft["finish_reason"],
            "truncated": draft["truncated"],
            "verdict": data or {},
            "diagnosis": reflection.diagnosis,
            "error": reflection.error,
            "failed_tests": reflection.failed_tests,
        }
        diagnosing = await self._ask_diagnosis(turns, turn, reflection)
        if diagnosing is not None:
            turn["diagnosis"] = short_diagnosis(diagnosing.text, reflection.error) or reflection.diagnosis
        record = await self._record(state, draft, turn, verdict, diagnosing)
        turn["diagnosis"] = record.diagnosis  # of the record that stands, should this be its second making
        return {"turns": [*turns, turn], "draft": None, "verdict": None}

    async def save(self, state: AttemptState) -> AttemptState:
        """Write how the loop ended."""
        turns = state.get("turns", [])
        return {"outcome": "success" if is_enough(self._loop, turns[-1]) else "exhausted"}

    def after_generate(self, state: AttemptState) -> Literal["execute", "reflect"]:
        """Only phases that produce code are executed."""
        del state
        return "reflect" if self._loop.check is None else "execute"

    def after_reflect(self, state: AttemptState) -> Literal["generate", "save"]:
        """Once more, or done."""
        turns = state.get("turns", [])
        return route(is_enough(self._loop, turns[-1]), len(turns), self._loop.cap)

    def _call(self, turns: Sequence[Turn], seed: int, *, fresh: bool) -> Call:
        settings = self._parts.generation
        limit = min(settings.max_tokens, self._loop.max_tokens or settings.max_tokens)
        base = max(settings.temperature, settings.fresh_temperature) if fresh else settings.temperature
        temperature = retry_temperature(base, repeats(turns))
        loop = self._loop
        return Call(self._session_id, loop.phase, loop.subtask, len(turns) + 1, seed, temperature, limit)

    def _draft(self, ask: Ask, answer: Answer, turns: Sequence[Turn], seed: int) -> Draft:
        cut = answer.finish_reason == "length"
        found = extract_continuation(answer.text, cut=cut) if ask.continues else extract_code(answer.text, cut=cut)
        code = join_continuation(turns[-1]["code"], found) if ask.continues else found.code
        code = complete_imports(code, self._task_text)
        return {
            "template": ask.template,
            "prompt": answer.prompt.user,
            "system_prompt": answer.prompt.system,
            "text": answer.text,
            "code": "" if self._loop.check is None else code,
            "truncated": found.truncated,
            "finish_reason": answer.finish_reason,
            "seed": seed,
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "seconds": answer.seconds,
            "backend": answer.backend,
        }

    async def _ask_diagnosis(self, turns: Sequence[Turn], turn: Turn, reflection: Reflection) -> Answer | None:
        """One model call where the failure does not say it all and another attempt will read the answer."""
        last = len(turns) + 1 >= self._loop.cap
        if reflection.complete or last or will_continue(turn):
            return None
        name = self._loop.subtask or "program"
        project = str(self._loop.ask([]).values.get("project", ""))
        values = {"project": project, "codes": [Part(name, turn["code"])], "errors": turn["error"], "one": True}
        seed = attempt_seed(self._base_seed, PhaseName.DIAGNOSE, self._loop.key, len(turns))
        settings = self._parts.generation
        tokens = min(DIAGNOSIS_TOKENS, settings.max_tokens)
        call = Call(
            self._session_id, PhaseName.DIAGNOSE, self._loop.subtask, len(turns) + 1, seed, settings.temperature, tokens
        )
        return await generate(self._parts, self._budget, Ask("diagnose", values), call)

    async def _record(
        self, state: AttemptState, draft: Draft, turn: Turn, verdict: Verdict, diagnosing: Answer | None
    ) -> AttemptRecord:
        crash_point("attempt.before_record")
        extra_prompt, extra_completion, extra_seconds = (
            (diagnosing.prompt_tokens, diagnosing.completion_tokens, diagnosing.seconds) if diagnosing else (0, 0, 0.0)
        )
        draft_record = AttemptRecord(
            session_id=self._session_id,
            number=0,
            phase=self._loop.phase,
            subtask=self._loop.subtask,
            prompt=draft["prompt"],
            system_prompt=draft["system_prompt"],
            response=draft["text"],
            code=draft["code"],
            passed=verdict.passed,
            # The streams are in the record once, not twice.
            verdict={name: value for name, value in turn["verdict"].items() if name not in ("stdout", "stderr")},
            stdout=_bounded(verdict.stdout),
            stderr=_bounded(verdict.stderr),
            exit_code=verdict.exit_code if turn["verdict"] else None,
            diagnosis=turn["diagnosis"],
            finish_reason=draft["finish_reason"],
            model=self._parts.model,
            backend=draft.get("backend") or self._parts.backend,
            adapter_digest=self._parts.adapter_digest,
            seed=draft["seed"],
            prompt_tokens=draft["prompt_tokens"] + extra_prompt,
            completion_tokens=draft["completion_tokens"] + extra_completion,
            generate_seconds=draft["seconds"] + extra_seconds,
            execute_seconds=state.get("execute_seconds", 0.0),
            sandbox_level=verdict.sandbox_level,
            created_at="",
        )
        record, _ = await self._parts.store.append_step(f"{self._loop.key}#{turn['number']}", draft_record)
        crash_point("attempt.after_record")
        # Told again after a crash between recording and telling: better twice than never.
        await self._parts.report.attempt(record)
        return record


def require_judged(verdict: Verdict) -> None:
    """Nothing, if the judge ran the code, whatever it found.

    Raises:
        JudgeFailedError: the verdict is about the judge.
    """
    if verdict.infrastructure:
        raise JudgeFailedError(f"The judge failed: {verdict.error or verdict.stderr[-300:] or 'no reason given'}")


def will_continue(turn: Turn) -> bool:
    """Whether the next attempt goes on from this one's code: the answer hit the token limit inside its code."""
    return turn["finish_reason"] == "length" and turn["truncated"] and bool(turn["code"].strip())


def _draft_of(state: AttemptState) -> Draft:
    draft = state.get("draft")
    assert draft is not None, "generate comes first"
    return draft


def _bounded(text: str) -> str:
    if len(text) <= MAX_OUTPUT_CHARS:
        return text
    return text[:MAX_OUTPUT_CHARS] + f"\n[{len(text) - MAX_OUTPUT_CHARS} characters more]"
