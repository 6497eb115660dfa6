"""The noise floor of a gate: how often an adapter does not do what it did, when nothing but the seed changes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.api_evolution import NoiseFloor
from engine.api_learning import EvaluationReport
from engine.evaluation.statistics import disagreement, pair


def noise_floor(
    first: EvaluationReport, again: Sequence[EvaluationReport], groups: Collection[str] | None = None
) -> NoiseFloor:
    """The first report against each of the others, which are of the same adapter under other seeds.

    `groups` None means all groups. A task without an outcome in one of two reports drops out of that pair.

    Raises:
        ValueError: the reports are not of the same adapter, or not of the same tasks asked in the same way.
    """
    for report in again:
        if report.adapter_digest != first.adapter_digest:
            raise ValueError(f"{report.adapter} and {first.adapter} are not the same adapter")
    # With the seed go the hidden inputs, so also the digest of the suite and the draws: just these may differ.
    alike = {name: getattr(first, name) for name in ("seed", "suite_digest", "sampling")}
    pairs = [one for report in again for one in pair(first, report.model_copy(update=alike), groups)]
    rate = disagreement(pairs)
    return NoiseFloor(
        seeds=tuple(report.seed for report in again),
        compared=rate.total,
        disagreed=rate.passed,
        rate=rate.value,
        low=rate.low,
        high=rate.high,
    )
