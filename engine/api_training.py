"""Plain data about training jobs: what is asked for, what it will take, how far it is, what came of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue, model_validator

from engine.api_models import Frozen, Identifier, RunState

TrainMethod = Literal["qlora", "lora"]
"""`qlora`: the base in NF4 with double quantization; `lora`: the base as it is."""


class TrainRequest(Frozen):
    """Body of POST /train/lora. None means what the preset says."""

    adapter_id: Identifier | None = None
    """Id of the adapter to make; None: one is made up."""
    task_type: Identifier = "code-gen"
    dataset: str | None = None
    """Absolute path of a JSONL file of `{"prompt", "completion", "system"?, "task"?, "cut"?}`; read once, kept by
    digest. `"cut": true`: the answer goes on after its completion, and that it ends there is not learned."""
    from_trajectories: bool = False
    """Learn from this home's verified attempts instead."""
    sessions: tuple[Identifier, ...] = ()
    """With from_trajectories: only these sessions; empty means all that are verified."""
    demonstrations: str | None = None
    """With from_trajectories: absolute path of a JSONL file as of `dataset`, learned from besides."""
    rehearsal: Identifier | None = None
    """Succeeded operation of the kind `rehearse`: what the base model said in it is kept besides. That is nothing to
    learn from by itself."""
    preset: str = "standard"
    method: TrainMethod | None = None
    rank: int | None = Field(default=None, ge=1, le=512)
    epochs: int | None = Field(default=None, ge=1, le=1000)
    max_steps: int | None = Field(default=None, ge=1, le=1_000_000)
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Sequences of one optimizer step; how they are cut into micro-batches is the trainer's business."""
    max_tokens: int | None = Field(default=None, ge=16, le=131072)
    """Of one example; a longer one is left out and counted."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    warm_start: Identifier | None = None
    """Adapter whose weights to begin with; None (`off`) begins with none."""

    @model_validator(mode="after")
    def _one_source(self) -> TrainRequest:
        if (self.dataset is None) == (not self.from_trajectories):
            raise ValueError("give either dataset or from_trajectories")
        if self.demonstrations is not None and not self.from_trajectories:
            raise ValueError("demonstrations go with from_trajectories; alone they are a dataset")
        return self


class TrainPreview(Frozen):
    """What a job would take, before anything runs: answer of POST /train/lora?preview=true."""

    examples: int
    held_out: int
    kept: int = 0
    """Rows of which nothing is learned: the base model's thoughts about them are kept."""
    left_out: int
    """Rows that are too long, repeated, or beyond the cap of their task."""
    tokens: int
    steps: int
    peak_mib: int
    """Estimate of the trainer's memory."""
    free_mib: int
    fits: bool
    asleep: tuple[str, ...]
    """Who will be asleep meanwhile."""
    seconds: float | None
    """Estimate; None where nothing like it was ever run here."""
    method: TrainMethod
    note: str = ""


class TrainProgress(Frozen):
    """One step of a running job: the payload of the events `training/<job id>`."""

    job_id: Identifier
    step: int
    steps: int
    loss: float
    held_out_loss: float | None = None
    learning_rate: float
    grad_norm: float
    tokens_per_second: float
    memory_mib: int
    eta_seconds: float
    score: float | None = None
    """Share of the kill switch's tasks that the model solves after this step; None where it was not measured."""
    baseline_score: float | None = None
    """With `score`: the share that it solved before the first step."""


class TrainJob(Frozen):
    """A training job as `/jobs` shows it."""

    id: Identifier
    kind: Literal["train"] = "train"
    state: RunState
    reason: str = ""
    position: int | None = None
    """1-based place among the queued ones."""
    request: TrainRequest
    adapter_id: str
    data_digest: str = ""
    base_digest: str = ""
    """Of the base model's file; empty until the job has run."""
    recipe: dict[str, JsonValue] = Field(default_factory=dict)
    """What the preset and the request come to."""
    progress: TrainProgress | None = None
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None


class JobMove(Frozen):
    """Body of POST /jobs/{id}/move: to this 1-based place in the queue."""

    position: int = Field(ge=1)
