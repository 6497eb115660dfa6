"""Plain data about how adapters evolve: merging, evidence and promotion, sweeps, improvement.

What runs longer than a request is an operation (`api_learning`): its `request` and `result` are models of this module.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field, FiniteFloat, JsonValue

from engine.api_evidence import NoiseFloor as NoiseFloor
from engine.api_evidence import TextDrift as TextDrift
from engine.api_improve import ImproveRequest as ImproveRequest
from engine.api_learning import RateRecord, SuiteName
from engine.api_models import Frozen, Identifier

# --- merging -------------------------------------------------------------------------------------------------


class MergeMethod(StrEnum):
    """How task vectors are combined; see `engine.evolution.merging`."""

    TIES = "ties"
    DARE = "dare"
    DARE_TIES = "dare-ties"
    LINEAR = "linear"
    CAT = "cat"
    CAT_LEARNED = "cat-learned"


class MergeSpace(StrEnum):
    """Where the rule is applied."""

    CORE = "core"
    """In the adapters' own lossless core space (Panariello et al. 2025, arXiv 2509.17786)."""
    DELTA = "delta"
    """On the dense deltas, one matrix at a time: as the papers of TIES and DARE say."""


class SignRule(StrEnum):
    """How TIES elects the sign of an element."""

    COUNT = "count"
    """By how many adapters are for it; where as many are against, all are averaged."""
    MAGNITUDE = "magnitude"
    """By their weighted sum: as the paper of TIES and PEFT do."""


MAX_MERGED = 64
"""Adapters of one merge: more than anyone has of one task type, and few enough for the memory of their core space."""


class MergeRequest(Frozen):
    """Body of POST /merge."""

    adapters: tuple[Identifier, ...] = Field(min_length=1, max_length=MAX_MERGED)
    method: MergeMethod = MergeMethod.TIES
    adapter_id: Identifier | None = None
    """Of the result; None: one is made up."""
    task_type: Identifier | None = None
    """Of the result; None: the first adapter's."""
    weights: tuple[FiniteFloat, ...] = ()
    """One for each adapter; empty means equal shares."""
    density: float = Field(default=0.5, ge=0, le=1)
    """Share of each delta that TIES and DARE keep."""
    rank: int | None = Field(default=None, ge=1, le=512)
    """Of the result; None: the highest of the parents' (of `cat`: their sum)."""
    space: MergeSpace = MergeSpace.CORE
    sign: SignRule = SignRule.COUNT
    """Of TIES and DARE-TIES."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    suite: SuiteName | None = None
    """Of `cat-learned`: its scalars are learned on the suite's train split; None: on those of the suites that decide
    about the parents' task types."""


class MergeReport(Frozen):
    """What a merge came to: result of the operation `merge`."""

    adapter_id: Identifier
    digest: str
    method: MergeMethod
    space: MergeSpace
    rank: int
    retained_energy: float
    """Share of the merged delta's squared norm that the rank keeps."""
    weights: tuple[float, ...] = ()
    """As they were applied; of `cat-learned`, as they were learned."""
    parent_cosines: dict[str, float]
    """Cosine of the merged delta to each parent's."""
    modules: int
    seconds: float
    peak_mib: int


# --- promotion -----------------------------------------------------------------------------------------------

TierName = Literal["task", "domain", "project"]


class Verdict(StrEnum):
    """What the evidence says about a promotion."""

    PROVEN = "proven"
    NOT_PROVEN = "not-proven"
    """Too little for a decision either way."""
    REFUSED = "refused"
    """A rule speaks against it; the reasons say which."""


class AnchorResult(Frozen):
    """What the adapter does to something it was not trained for."""

    name: str
    adapter: RateRecord
    reference: RateRecord
    difference_low: float
    """Lower bound of the 95 % interval of the paired difference."""
    kept: bool
    """The lower bound is above minus the allowed loss, and the anchor is usable."""
    usable: bool = True
    """False: it learned from so many of the tasks that the others say nothing of what it does elsewhere."""


class Contamination(Frozen):
    """What the deciding tasks share with what the adapter learned from."""

    checked: bool
    """False: it is not known what it learned from."""
    rows: int
    exact: int
    """Deciding tasks whose normalised code is in the training rows."""
    near: int
    """Deciding tasks that share a 13-gram, or 0.8 of their shingles, with a training row."""
    examples: tuple[str, ...] = ()


class PartContamination(Contamination):
    """The same of tasks that do not decide: such as were learned from are left out of what is measured there."""

    part: str
    """What was measured: tasks out of distribution, or the name of an anchor."""


class Evidence(Frozen):
    """All that a promotion rests on, stored with it: result of the operation `evidence`."""

    adapter: Identifier
    adapter_digest: str
    incumbent: Identifier
    """Whom it must beat: the champion, or `base`."""
    to_tier: TierName
    suite: SuiteName
    seed: int
    tasks: int
    wins: int
    losses: int
    ties: int
    e_value: float
    threshold: float
    """20 for one candidate at its first look; 20 K (n + 1) where K candidates share the budget and this one was
    looked at n times before with other seeds."""
    earlier_looks: int = 0
    """At the same adapter and suite for the same task type, with other seeds."""
    difference: float
    difference_low: float
    difference_high: float
    """Paired difference of the pass rates with its cluster bootstrap 95 % interval (templates resampled)."""
    noise: NoiseFloor | None = None
    """None: it was not asked for."""
    adapter_rate: RateRecord
    incumbent_rate: RateRecord
    ood_delta: float | None
    """Pass rate out of distribution minus the base's there; None where the suite has no such group."""
    ood_low: float | None
    memoriser: bool
    """It gains on what it was trained for, and out of distribution the interval of its gain includes 0."""
    anchors: tuple[AnchorResult, ...] = ()
    contamination: Contamination
    contaminations: tuple[PartContamination, ...] = ()
    """Of what does not decide; empty in evidence of a program that looked at the deciding tasks alone."""
    text: TextDrift | None = None
    """None: not measured."""
    text_unmeasured: str = ""
    """Why `text` is None; "" in evidence of a program that did not measure it."""
    verdict: Verdict
    reasons: tuple[str, ...]
    reports: tuple[str, ...] = ()
    """Keys of the evaluation reports."""


class EvidenceRequest(Frozen):
    """Body of POST /evidence."""

    adapter: Identifier
    suite: SuiteName
    to_tier: TierName | None = None
    """None: one tier up."""
    anchors: tuple[SuiteName, ...] = ()
    candidates: int = Field(default=1, ge=1)
    """How many candidates share the error budget."""
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of the hidden inputs. Another seed is another look, for which the e-value must be higher."""
    noise_floor: bool = False
    """Measure the incumbent under three more seeds, to see how much it differs from itself."""


class PromoteRequest(Frozen):
    """Body of POST /promote."""

    adapter_id: Identifier
    to_tier: TierName | None = None
    evidence: Identifier | None = None
    """Id of the `evidence` operation that it rests on; None: the newest for this adapter and tier."""
    force: bool = False
    """Promote against the evidence, or without any; recorded as forced."""


class PromotionCase(Frozen):
    """What stands for and against a promotion: answer of GET /promote/{adapter_id}, to be read before."""

    adapter_id: Identifier
    from_tier: TierName
    to_tier: TierName
    task_type: Identifier
    incumbent: Identifier
    """Whom it would replace: the champion of the task type, or `base`."""
    operation: Identifier | None
    """The `evidence` operation that `evidence` is the result of."""
    evidence: Evidence | None
    """None: nothing was measured for this tier."""
    objections: tuple[str, ...]
    """One sentence each; with none the promotion needs no force."""


class PromotionRecord(Frozen):
    """One move of an adapter between tiers, as its history keeps it."""

    adapter_id: Identifier
    from_tier: TierName
    to_tier: TierName
    reason: str
    recorded_at: str
    evidence: dict[str, JsonValue] | None
    """As it was when the move was made: an `Evidence` of the program of that day."""
    forced: bool


class ScoreRecord(Frozen):
    """One score that an adapter was given and keeps."""

    adapter_id: Identifier
    fitness_score: float
    pass_rate: float | None
    session_id: str | None
    recorded_at: str


class ChampionsRecord(Frozen):
    """Whom the aliases of a task type name. None: the base model, or nobody."""

    task_type: Identifier
    champion: Identifier | None
    challenger: Identifier | None
    previous: Identifier | None


class AliasRequest(Frozen):
    """Body of POST /aliases: point a name at an adapter, if it points at `expected` now."""

    name: str = Field(max_length=130)
    """Such as `code-gen@champion`."""
    adapter_id: Identifier | None = None
    """None: take the name away."""
    expected: Identifier | None = None
    """None: the name must not be set yet."""


class PruneRequest(Frozen):
    """Body of POST /prune: archive an adapter, unless something still rests on it."""

    adapter_id: Identifier
    force: bool = False
    """Also a champion, the last of its type, or one that others in use were made from."""


class StepRequest(Frozen):
    """Body of POST /undo and POST /redo."""

    expected: int | None = Field(default=None, ge=1)
    """Sequence of the change that a person was shown; None: whichever it is."""


class Change(Frozen):
    """One change of the registry as its history shows it."""

    sequence: int
    subject: str
    what: str
    """One word or two: promoted, archived, alias moved, ..."""
    before: dict[str, JsonValue]
    after: dict[str, JsonValue]
    forced: bool = False
    undone: bool = False
    timestamp: str


class Steps(Frozen):
    """Answer of GET /history/next: what undo and redo would do now."""

    undo: Change | None
    redo: Change | None


# --- evolution -----------------------------------------------------------------------------------------------


class EvolveRequest(Frozen):
    """Body of POST /evolve: one sweep."""

    task_type: Identifier | None = None
    """None: every task type that has adapters."""
    adapter_ids: tuple[Identifier, ...] = ()
    """Only these as parents; empty means the fittest."""
    suite: SuiteName | None = None
    """None: the suite of the task type, from [evolution] of config.toml."""
    controls: bool = True
    """Also measure base, parents, a random adapter of equal norm, and one parent trained on."""
    seed: int = Field(default=0, ge=0, lt=2**31)


class ControlResult(Frozen):
    """One control group of a sweep."""

    name: str
    """`base`, `parent <id>`, `random of equal norm`, `<id> trained on`."""
    rate: RateRecord
    note: str = ""


class TypeSummary(Frozen):
    """What a sweep did to one task type."""

    merged: int
    pruned: int
    active: int
    """Before, minus pruned, plus merged."""
    child: Identifier | None = None
    child_rate: RateRecord | None = None
    controls: tuple[ControlResult, ...] = ()
    promoted: bool = False
    reasons: tuple[str, ...] = ()
    """One sentence for each thing done and each thing not done."""


class SweepSummary(Frozen):
    """Result of the operation `evolve`."""

    task_types: dict[str, TypeSummary]
    generation: int
    seconds: float


class ImproveRound(Frozen):
    """One round of `improve`."""

    number: int
    solved_by_model: int
    solved_by_explorer: int
    tasks: int
    calls_per_task_before: float
    """Programs run for each solved task, by whoever solved it."""
    calls_per_task_after: float | None
    """Generations for each solved task with the new adapter."""
    job_id: str | None
    adapter_id: str | None
    evidence: Evidence | None
    promoted: bool
    reason: str


class ImproveReport(Frozen):
    """Result of the operation `improve`."""

    rounds: tuple[ImproveRound, ...]
    adapter_id: str | None
    """In use at the end."""
