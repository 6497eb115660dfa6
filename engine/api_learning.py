"""Plain data about learning: suites, operations, evaluations; what is made of them is in `api_evolution`.

Whatever takes longer than a request is an operation: a durable job that can be watched, cancelled and resumed. What
it was asked for and what came of it are its `request` and `result`, models of this module as JSON.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from engine.api_models import CaseSuite, Frozen, Identifier, RunState, check_project_path

BASE = "base"
"""Where an adapter is named: the base model without any."""
AUTO = "auto"
"""Where an adapter is named: the engine picks one, or the base model, by the evidence."""

SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,49}$")]

# --- suites --------------------------------------------------------------------------------------------------


class Split(StrEnum):
    """What a task of a suite may be used for. Nothing that was learned from may decide."""

    TRAIN = "train"
    """To learn from."""
    SELECTION = "selection"
    """To choose between candidates."""
    GATE = "gate"
    """To decide about promotion."""
    AUDIT = "audit"
    """Sealed: looked at once per release."""


class SuiteTask(Frozen):
    """One line of a suite file: a task whose answer can be checked by running it."""

    id: Identifier
    prompt: str = Field(min_length=1)
    split: Split
    template: Identifier
    """The cluster: tasks made alike. Templates of `train` appear in no other split."""
    entry_point: str | None = None
    """Function that the task asks for."""
    cases: CaseSuite | None = None
    tests: str | None = None
    visible_tests: str | None = None
    """What a solver may see and run: the explorer searches with them, the model is shown them."""
    reference: str | None = None
    """A solution that passes; `suite check` proves it, and never shows it to a model."""
    prelude: str = ""
    """Python source put before every solution: the imports of a private API, for instance."""
    files: dict[str, str] = Field(default_factory=dict)
    """Relative path -> text: modules that the solution may use; a prompt shows them only where asked to."""
    task_type: Identifier = "code-gen"
    group: Identifier = "in"
    """What the task probes: `in` (as trained), `deeper`, `paraphrase`, `other`, `anchor`, or a word of one's own."""

    @model_validator(mode="after")
    def _can_be_checked(self) -> SuiteTask:
        if self.cases is None and self.tests is None:
            raise ValueError("a task needs cases or tests")
        for path in self.files:
            check_project_path(path)
        return self


class SuiteInfo(Frozen):
    """A suite as `suite list` shows it."""

    name: SuiteName
    title: str
    origin: Literal["built-in", "file"]
    seeded: bool
    """Its inputs are drawn anew for each seed; False: it is always the same."""
    task_type: Identifier
    digest: str
    """SHA-256 over its tasks (of seed 0, where it is seeded)."""
    counts: dict[Split, int]
    templates: int


class SuiteCheck(Frozen):
    """What `suite check` found: result of the operation `check-suite`."""

    name: SuiteName
    seed: int
    tasks: int
    references_passed: int
    mutants: int
    """Changed references that were tried."""
    mutants_killed: int
    problems: tuple[str, ...] = ()
    """One sentence each: a reference that fails, a task that no mutant of its reference fails, an overlap."""


# --- operations ----------------------------------------------------------------------------------------------


class OperationKind(StrEnum):
    """What an operation does."""

    CHECK_SUITE = "check-suite"
    EVALUATE = "evaluate"
    MERGE = "merge"
    EVIDENCE = "evidence"
    """Measure what a promotion would rest on."""
    EVOLVE = "evolve"
    IMPROVE = "improve"
    REHEARSE = "rehearse"
    """Write down what the base model says, for an adapter to keep."""


class OperationProgress(Frozen):
    """How far an operation is: also the payload of the events `operation/<id>`."""

    done: int
    total: int
    eta_seconds: float | None = None
    note: str = ""


class Operation(Frozen):
    """A long-running operation as `/operations` shows it."""

    id: Identifier
    kind: OperationKind
    state: RunState
    reason: str = ""
    request: dict[str, JsonValue]
    progress: OperationProgress | None = None
    result: dict[str, JsonValue] | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None


class CheckSuiteRequest(Frozen):
    """Body of POST /suites/{name}/check."""

    suite: SuiteName
    seed: int = Field(default=0, ge=0, lt=2**31)


class SuiteAdd(Frozen):
    """Body of POST /suites: take a JSON Lines file of this machine into the home."""

    file: str
    """Absolute path; read once, copied, never used again."""
    name: SuiteName


# --- evaluation ----------------------------------------------------------------------------------------------


class EvaluateRequest(Frozen):
    """Body of POST /evaluate."""

    suite: SuiteName
    adapter: Identifier = BASE
    split: Split = Split.GATE
    groups: tuple[Identifier, ...] = ()
    """Only tasks of these groups; empty means all."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first so many tasks, in the suite's order."""
    samples: int = Field(default=1, ge=1, le=200)
    """Of each task."""
    k: int = Field(default=1, ge=1, le=200)
    temperature: float | None = Field(default=None, ge=0, le=2)
    """None: 0 with one sample of each task, 0.8 with more."""
    max_tokens: int | None = Field(default=None, ge=1, le=32768)
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the suite's hidden inputs and of the sampling."""
    open_book: bool = False
    """Show the model the tasks' files; else it must know what is in them."""

    @model_validator(mode="after")
    def _enough_samples(self) -> EvaluateRequest:
        if self.k > self.samples:
            raise ValueError(f"pass@{self.k} needs at least {self.k} samples of each task; there are {self.samples}")
        return self


class SampleOutcome(StrEnum):
    """What became of one answer."""

    PASSED = "passed"
    FAILED = "failed"
    INFRASTRUCTURE = "infrastructure"
    """The model server or the judge failed: says nothing about the answer, and counts in no rate."""


class RateRecord(Frozen):
    """`passed` of `total` with its 95 % Wilson interval."""

    passed: int
    total: int
    value: float
    low: float
    high: float


class Sampled(Frozen):
    """One answer of one task, judged."""

    task: Identifier
    template: Identifier
    group: Identifier
    sample: int
    outcome: SampleOutcome
    reason: str = ""
    """Why it failed, one line."""


class EvaluationReport(Frozen):
    """What an adapter, or the base model, came to on a suite: result of the operation `evaluate`."""

    key: str
    """SHA-256 over everything that the outcome depends on; the same key is not measured twice."""
    suite: SuiteName
    suite_digest: str
    """Of the tasks as they were for this seed."""
    split: Split
    seed: int
    adapter: Identifier
    adapter_digest: str | None
    """None: the base model."""
    digest_proven: bool
    """The server said, while it answered, that it served the adapter of just this digest (or none, for the base)."""
    base_model: str
    base_file: str | None = None
    """What its weights are (`engine.inference.base_identity`); None in a report that was made before this was kept."""
    backend: str
    open_book: bool | None = None
    """Whether the suite's documentation was in the prompts; None in a report that was made before this was kept."""
    sampling: dict[str, JsonValue]
    tasks: int
    samples_per_task: int
    k: int
    pass_at_1: RateRecord
    """Tasks' first samples."""
    pass_at_k: float
    """Unbiased, mean over tasks."""
    by_group: dict[str, RateRecord]
    by_template: dict[str, RateRecord]
    infrastructure: int
    """Samples that say nothing."""
    no_data: bool
    tokens: int
    seconds: float
    """Of the run that completed it; what was found measured took none of them."""
    sampled: tuple[Sampled, ...]
    created_at: str


# --- rehearsal -----------------------------------------------------------------------------------------------

REHEARSAL = "rehearsal/"
"""Begins the task of a row that keeps what the base model says and teaches nothing; no id of a suite's or a session's
task has a slash. What an adapter is picked for is told by its other rows."""


MAX_REHEARSED = 8
"""Suites of one rehearsal."""


def each_once(suites: tuple[SuiteName, ...]) -> tuple[SuiteName, ...]:
    """The same suites.

    Raises:
        ValueError: one is named twice.
    """
    if len(set(suites)) < len(suites):
        raise ValueError("a suite is named twice")
    return suites


class RehearseRequest(Frozen):
    """Body of POST /rehearse: prompts of other domains, for the base model to answer."""

    suites: tuple[SuiteName, ...] = Field(min_length=1, max_length=MAX_REHEARSED)
    """Each once; their `train` splits are asked, nothing else."""
    count: int = Field(default=60, ge=1, le=500)
    """Prompts of each suite, from all over its train split; all of them where it has fewer."""
    max_tokens: int = Field(default=24, ge=8, le=512)
    """Of one answer; the beginning is enough, and where it was cut off its end is not learned."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Says which prompts."""

    @model_validator(mode="after")
    def _each_once(self) -> RehearseRequest:
        each_once(self.suites)
        return self


class RehearsalRow(Frozen):
    """One row of training data: what was asked, and what the base model said, as it said it."""

    prompt: str
    completion: str
    system: str
    """The system turn that it was asked under; empty means none."""
    task: str
    """`rehearsal/<suite>/<task>`."""
    cut: bool
    """The answer was cut off: its end is not learned."""
    keep: bool = True
    """Nothing of it is learned: what the base model thinks at each of its tokens is kept."""


class RehearsalReport(Frozen):
    """Rows to learn along with one's own: result of the operation `rehearse`."""

    suites: tuple[SuiteName, ...]
    seed: int
    max_tokens: int
    base_model: str
    backend: str
    base_proven: bool
    """The server said of every answer that the base model gave it."""
    asked: int
    """Prompts. Those that are no row are counted by the next three."""
    empty: int
    """Answers with nothing but space."""
    too_long: int
    """Prompts that the model's context does not hold, even shortened."""
    unanswered: int
    """Prompts that the model server failed on."""
    tokens: int
    """Read and written."""
    seconds: float
    rows: tuple[RehearsalRow, ...]
    """In the order of the suites and of their tasks."""


# --- gates ---------------------------------------------------------------------------------------------------


class GateName(StrEnum):
    """A fixed rule about measured rates; see `engine.evaluation.gates`."""

    HYPOTHESIS = "hypothesis"
    """At least 5 % of the other's rate better; 0 against 0 fails."""
    ORACLE = "oracle"
    """At least 3 points better."""
    ORACLE_ROUND = "oracle-round"
    """Of six suites four at least 2 points better, and none more than 1 point worse."""


class GateRequest(Frozen):
    """Body of POST /evaluate/gate: ask a gate about what was measured; nothing is measured for it."""

    gate: GateName
    adapter: Identifier
    suites: tuple[SuiteName, ...] = Field(min_length=1, max_length=6)
    """One; of an oracle round six."""
    against: Identifier = BASE
    split: Split = Split.GATE


class GateReport(Frozen):
    """What a gate says. Rates are over the tasks that both have an outcome of, by suite."""

    gate: GateName
    adapter: Identifier
    against: Identifier
    passed: bool
    deltas: dict[str, float]
    adapter_rates: dict[str, RateRecord]
    against_rates: dict[str, RateRecord]
    leakage_suspected: bool
    """A relative gain above 15 %: rather a test that was learned than a success."""
    generalisation_delta: float | None
    """The adapter's rate out of distribution minus the one as trained; None where one of them was not measured."""
    quality: float
    """Pass rate, with a small premium for a positive generalisation delta."""
    reasons: tuple[str, ...]
