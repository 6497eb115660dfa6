"""Plain data that crosses the API: what the engine says and what its clients send.

The only part of the engine, with `engine.errors`, that the terminal app and the command line know.
Everything is frozen; unknown keys are refused on the way in.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)

SCHEMA_VERSION = 1
"""Version of the event envelope and of exported trajectories."""

Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}$")]
"""Ids of tasks, sessions, jobs, adapters: no separator, no leading dot, at most 100 characters."""


class Frozen(BaseModel):
    """Immutable, and strict about keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# --- tasks ---------------------------------------------------------------------------------------------------


class TaskMode(StrEnum):
    """How much of the pipeline a task goes through."""

    ATTEMPT = "attempt"
    """Only the loop generate -> execute -> reflect."""
    PROJECT = "project"
    """The four phases: decompose -> plan -> code -> integrate, then repair."""
    EXPLORE = "explore"
    """No model: the explorer searches compositions of the calls that the task's files document."""


class Case(Frozen):
    """One input with the JSON value it must give."""

    args: tuple[JsonValue, ...] = ()
    kwargs: dict[str, JsonValue] = {}
    expected: JsonValue


class CaseSuite(Frozen):
    """A function of the solution and the cases it is checked with."""

    function: Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
    items: tuple[Case, ...] = Field(min_length=1)


class TaskSpec(Frozen):
    """A coding task as the user gives it."""

    id: Identifier
    prompt: str = Field(min_length=1)
    tests: str | None = None
    """Python source: unittest, pytest-style functions, bare asserts, or HumanEval's `check(candidate)`."""
    cases: CaseSuite | None = None
    hidden_tests: str | None = None
    """As `tests`, but never shown to the model: run once on the final code, and then alone decide the outcome."""
    entry_point: str | None = None
    """Name of the function that the task asks for; the argument of `check(candidate)`."""
    files: dict[str, str] = {}
    """Relative path -> text: the starting project."""
    library: dict[str, str] = {}
    """Relative path -> text: modules that the solution may import and that no prompt shows; an adapter knows them."""
    prelude: str = ""
    """Python source put before the solution when it is run: the imports of `library`, for instance."""
    task_type: Identifier = "code-gen"
    mode: TaskMode = TaskMode.PROJECT
    max_attempts: int | None = Field(default=None, ge=1, le=100)
    """Attempts of each loop; None means config.toml's."""
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    in_process: bool = False
    """The given tests must share the process with the solution (monkeypatching, subclassing): a weaker verdict."""

    @field_validator("files", "library")
    @classmethod
    def _paths_stay_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for path in files:
            check_project_path(path)
        return files

    @model_validator(mode="after")
    def _in_process_has_tests(self) -> TaskSpec:
        if self.in_process and self.tests is None and self.hidden_tests is None:
            raise ValueError("in_process needs tests")
        return self


def check_project_path(path: str) -> None:
    """Refuse a path that could leave the project.

    Raises:
        ValueError: absolute, empty, with a parent step, a backslash, a control character, or over 200 characters.
    """
    parts = path.split("/")
    bad = (
        not path
        or len(path) > 200
        or any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
        or re.search(r"[^A-Za-z0-9._/ -]", path) is not None
    )
    if bad:
        raise ValueError(f"path {path!r} must be relative, inside the project, of letters, digits, '.', '_', '-', ' '")


# --- sessions ------------------------------------------------------------------------------------------------


class RunState(StrEnum):
    """Where a job or a session stands."""

    QUEUED = "queued"
    """Accepted, waiting for its turn."""
    RUNNING = "running"
    """A live engine works on it."""
    SUCCEEDED = "succeeded"
    """Ran to its end; a session's verdict is its outcome."""
    FAILED = "failed"
    """Could not run to its end; the reason says why."""
    CANCELLED = "cancelled"
    """Stopped on request; a session can be resumed."""
    INTERRUPTED = "interrupted"
    """Its engine went away; can be resumed."""


FINAL_STATES = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED})


class Outcome(StrEnum):
    """How a task ended."""

    VERIFIED = "verified"
    """Every given test passed, judged outside the process that ran the solution."""
    VERIFIED_IN_PROCESS = "verified-in-process"
    """Every given test passed, but in the solution's own process: weaker evidence."""
    SELF_CHECKED = "self-checked"
    """There were no given tests; tests that the model wrote itself passed."""
    FAILED = "failed"
    """The attempts are used up and the tests do not pass."""
    ERROR = "error"
    """The environment failed (model server, sandbox): says nothing about the solution."""
    CANCELLED = "cancelled"
    """Stopped on request."""


PASSING = frozenset({Outcome.VERIFIED, Outcome.VERIFIED_IN_PROCESS})
"""Outcomes that count as verified. `verified-in-process` is weaker, but only a task that asked for `in_process` can
end so, and its author then asked for exactly that; its own word tells it apart."""


class PhaseName(StrEnum):
    """The steps of the pipeline that a user sees."""

    ATTEMPT = "attempt"
    """The whole of a task in attempt mode."""
    DECOMPOSE = "decompose"
    PLAN = "plan"
    CODE = "code"
    INTEGRATE = "integrate"
    DIAGNOSE = "diagnose"
    REPAIR = "repair"


class PhaseStatus(Frozen):
    """How far one phase of a session is."""

    phase: PhaseName
    state: Literal["waiting", "running", "done", "failed", "skipped"]
    iterations: int = 0
    score: float | None = None
    detail: str = ""


class SessionCreate(Frozen):
    """Body of POST /sessions."""

    task: TaskSpec
    run_id: Identifier | None = None
    """Groups the sessions of one batch; such a session waits for --resume after a crash instead of restarting."""
    adapter: Identifier | None = None
    """None: the engine picks one by the evidence, or the base model; `base`: the base model."""


class SessionRecord(Frozen):
    """A session as the API shows it."""

    id: Identifier
    task: TaskSpec
    state: RunState
    reason: str = ""
    outcome: Outcome | None = None
    phases: tuple[PhaseStatus, ...] = ()
    attempts: int = 0
    tokens: int = 0
    seconds: float = 0.0
    adapter: str | None = None
    adapter_reason: str = ""
    """Why it was worked on with this adapter, or with none."""
    backend: str = ""
    model: str = ""
    sandbox_level: str = ""
    run_id: str | None = None
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    code: str | None = None
    """The final code; None until there is one, and in lists."""
    summary: dict[str, JsonValue] | None = None
    """`run_summary.json`: what it came to, by phase and subtask; None until it ran to an end, and in lists."""


class AttemptRecord(Frozen):
    """One attempt, complete: what a trajectory is made of."""

    schema_version: int = SCHEMA_VERSION
    session_id: Identifier
    number: int
    """1-based, unique in its session."""
    phase: PhaseName
    subtask: str = ""
    prompt: str
    system_prompt: str = ""
    response: str
    """The model's text, whole."""
    code: str
    """What was extracted and run; empty for phases that produce no code."""
    passed: bool
    verdict: dict[str, JsonValue] = {}
    """`engine.evaluation.verdict.Verdict` as JSON; empty for phases that run nothing."""
    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None
    diagnosis: str = ""
    finish_reason: str = ""
    model: str = ""
    backend: str = ""
    adapter_digest: str | None = None
    seed: int | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    generate_seconds: float = 0.0
    execute_seconds: float = 0.0
    sandbox_level: str = ""
    created_at: str


class Trajectory(Frozen):
    """A session with all its attempts."""

    schema_version: int = SCHEMA_VERSION
    session: SessionRecord
    attempts: tuple[AttemptRecord, ...]


# --- events --------------------------------------------------------------------------------------------------


class EventKind(StrEnum):
    """What happened to the subject."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


class Event(BaseModel):
    """The envelope of every state change, journalled in the same transaction as the change.

    Readers tolerate keys and kinds of a newer schema: this model ignores what it does not know.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sequence: int
    id: str
    kind: str
    subject: str
    """`<type>/<id>`, for instance `session/rune-0a1b2c3d` or `adapter/sort-v2`."""
    payload: dict[str, Any]
    source: str
    session_id: str | None = None
    timestamp: str
    schema_version: int = SCHEMA_VERSION


class StreamChunk(Frozen):
    """A piece of model output while it is produced: live only, never journalled."""

    session_id: str
    phase: PhaseName
    subtask: str = ""
    attempt: int
    text: str


# --- adapters ------------------------------------------------------------------------------------------------


class AdapterImport(Frozen):
    """Body of POST /adapters: take a PEFT directory of this machine into the registry."""

    id: Identifier
    directory: str
    """Absolute path of the PEFT directory; read once, copied, never used again."""
    task_type: Identifier = "code-gen"
    base_model_id: str | None = None


class AdapterRecord(BaseModel):
    """An adapter as the API shows it (registry.models.Adapter as JSON)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    version: int
    task_type: str
    base_model_id: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    created_at: str
    digest: str = ""
    """SHA-256 over both files: what it is served under."""
    file_hash: str
    file_size_bytes: int
    pass_rate: float | None
    fitness_score: float | None
    tier: str
    source: str
    session_id: str | None
    is_archived: bool
    is_quarantined: bool
    parent_ids: tuple[str, ...]
    generation: int


# --- engine --------------------------------------------------------------------------------------------------


class EngineStatus(Frozen):
    """Answer of GET /health."""

    pid: int
    version: str
    home: str
    started_at: str
    backend: str
    model: str
    model_state: str
    """`stopped`, `starting`, `serving` or `failed`."""
    sandbox_level: str
    """`strict`, `landlock` or `none`; empty in the first second, until the engine has looked."""
    sandbox_reason: str
    sessions_running: int
    sessions_queued: int
    last_sequence: int


class Problem(Frozen):
    """Body of every error answer: one plain sentence."""

    error: str
    """Class name in `engine.errors`."""
    message: str
