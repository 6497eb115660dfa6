"""What an evaluation measures, and what its samples come to: keys, seeds, rates. Pure.

A key is the digest of everything that an outcome depends on. A sample's key does not depend on the report it is for,
so that a report on fifty tasks takes over the samples of the report on the first twenty-five.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import JsonValue

from engine.api_learning import EvaluateRequest, EvaluationReport, RateRecord, Sampled, SampleOutcome, SuiteTask
from engine.evaluation.metrics import pass_at_k, wilson
from engine.evaluation.reports import Measured
from engine.inference.provider import Message, Sampling

KEY_VERSION = 1
"""Part of every key: raise it when the same parts come to mean something else."""
SEED_SPACE = 2**31
SAMPLED_TEMPERATURE = 0.8
"""Where several answers to one task are wanted and nothing else is said; at 0 they would all be the same."""


@dataclass(frozen=True)
class Model:
    """What is measured."""

    adapter: str
    """Its id, or `base`."""
    adapter_digest: str | None
    base_model: str
    base_file: str
    """What its weights are: see `engine.inference.base_identity`."""
    backend: str


@dataclass(frozen=True)
class Planned:
    """One answer to be asked for and judged."""

    key: str
    task: SuiteTask
    sample: int
    sampling: Sampling


def select(tasks: Sequence[SuiteTask], request: EvaluateRequest) -> tuple[SuiteTask, ...]:
    """The tasks that the request is about, in the suite's order."""
    wanted = [task for task in tasks if task.split is request.split]
    if request.groups:
        wanted = [task for task in wanted if task.group in request.groups]
    return tuple(wanted[: request.limit])


def sampling_of(request: EvaluateRequest, defaults: Sampling) -> Sampling:
    """How the answers are drawn, but for the seed.

    Args:
        defaults: for what the request leaves open, except the temperature.
    """
    temperature = request.temperature
    if temperature is None:
        temperature = 0.0 if request.samples == 1 else SAMPLED_TEMPERATURE
    tokens = request.max_tokens or defaults.max_tokens
    return Sampling(tokens, temperature, defaults.top_p, defaults.repetition_penalty, request.seed)


def plan(
    tasks: Iterable[SuiteTask],
    render: Callable[[SuiteTask], Sequence[Message]],
    request: EvaluateRequest,
    sampling: Sampling,
    model: Model,
) -> tuple[Planned, ...]:
    """Every sample of the evaluation: all first samples, then all second ones, so that a part of it is a fair part."""
    known = [(task, _digest_of_task(task, render(task), model)) for task in tasks]
    planned: list[Planned] = []
    for sample in range(request.samples):
        for task, digest in known:
            seed = sample_seed(request.seed, task.id, sample)
            drawn = replace(sampling, seed=seed)
            planned.append(Planned(_digest([digest, asdict(drawn)]), task, sample, drawn))
    return tuple(planned)


def sample_seed(seed: int, task: str, sample: int) -> int:
    """The same for every adapter, so that two of them are compared on the same draws."""
    place = hashlib.sha256(f"{task}\0{sample}".encode()).digest()
    return (seed + int.from_bytes(place[:8], "big")) % SEED_SPACE


def suite_digest(tasks: Iterable[SuiteTask]) -> str:
    """Of tasks as they are."""
    return _digest([task.model_dump(mode="json") for task in tasks])


def report_key(request: EvaluateRequest, model: Model, planned: Iterable[Planned]) -> str:
    """Of the report that these samples are for."""
    return _digest([request.model_dump(mode="json"), asdict(model), [sample.key for sample in planned]])


def _digest_of_task(task: SuiteTask, messages: Sequence[Message], model: Model) -> str:
    # What a task is called and counted under does not change what becomes of an answer; its id is in the seed.
    asked = task.model_dump(mode="json", exclude={"template", "group", "split", "reference", "task_type"})
    what = asdict(model)
    del what["adapter"]  # its digest says it; ids are names
    return _digest([asked, [asdict(message) for message in messages], what])


def _digest(value: JsonValue | Sequence[object] | Mapping[str, object]) -> str:
    text = json.dumps([KEY_VERSION, value], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


# --- what the samples come to ---


def rate(outcomes: Iterable[SampleOutcome]) -> RateRecord:
    """Of those that say something."""
    judged = [outcome for outcome in outcomes if outcome is not SampleOutcome.INFRASTRUCTURE]
    found = wilson(judged.count(SampleOutcome.PASSED), len(judged))
    return RateRecord(passed=found.passed, total=found.total, value=found.value, low=found.low, high=found.high)


def rates_by(sampled: Iterable[Sampled], name: Callable[[Sampled], str]) -> dict[str, RateRecord]:
    """Rates of the tasks' first samples, by that name."""
    groups: dict[str, list[SampleOutcome]] = {}
    for sample in sampled:
        if sample.sample == 0:
            groups.setdefault(name(sample), []).append(sample.outcome)
    return {group: rate(outcomes) for group, outcomes in sorted(groups.items())}


def mean_pass_at_k(sampled: Iterable[Sampled], k: int) -> float:
    """Unbiased, mean over the tasks that have `k` samples that say something; 0.0 where there is none."""
    tasks: dict[str, list[SampleOutcome]] = {}
    for sample in sampled:
        if sample.outcome is not SampleOutcome.INFRASTRUCTURE:
            tasks.setdefault(sample.task, []).append(sample.outcome)
    enough = [outcomes for outcomes in tasks.values() if len(outcomes) >= k]
    values = [pass_at_k(len(outcomes), outcomes.count(SampleOutcome.PASSED), k) for outcomes in enough]
    return sum(values) / len(values) if values else 0.0


def as_sampled(planned: Planned, measured: Measured) -> Sampled:
    """A sample as the report shows it."""
    task = planned.task
    return Sampled(
        task=task.id,
        template=task.template,
        group=task.group,
        sample=planned.sample,
        outcome=measured.outcome,
        reason=measured.reason,
    )


def make_report(
    request: EvaluateRequest,
    model: Model,
    sampling: Sampling,
    planned: Sequence[Planned],
    measured: Mapping[str, Measured],
) -> EvaluationReport:
    """What the samples come to, without what only the evaluation as a whole knows: key, digest of the suite, times."""
    samples = [measured[sample.key] for sample in planned]
    judged = [sample for sample in samples if sample.outcome is not SampleOutcome.INFRASTRUCTURE]
    answered = [sample for sample in judged if sample.backend]
    sampled = tuple(as_sampled(sample, measured[sample.key]) for sample in planned)
    return EvaluationReport(
        key="",
        suite=request.suite,
        suite_digest="",
        split=request.split,
        seed=request.seed,
        adapter=request.adapter,
        adapter_digest=model.adapter_digest,
        digest_proven=bool(answered) and all(sample.proven for sample in answered),
        base_model=model.base_model,
        base_file=model.base_file,
        backend=", ".join(sorted({sample.backend for sample in answered})) or model.backend,
        open_book=request.open_book,
        sampling={**asdict(sampling), "stop": list(sampling.stop)},
        tasks=len({sample.task.id for sample in planned}),
        samples_per_task=request.samples,
        k=request.k,
        pass_at_1=rate(sample.outcome for sample in sampled if sample.sample == 0),
        pass_at_k=mean_pass_at_k(sampled, request.k),
        by_group=rates_by(sampled, lambda sample: sample.group),
        by_template=rates_by(sampled, lambda sample: sample.template),
        infrastructure=len(samples) - len(judged),
        no_data=not judged,
        tokens=sum(sample.tokens for sample in samples),
        seconds=0.0,
        sampled=sampled,
        created_at="",
    )
