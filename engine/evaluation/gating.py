"""The rules of `gates`, asked about what was measured: the newest reports of an adapter and of what it is held against.

Nothing is measured here. Both reports must be of the same tasks, asked in the same way of the same model, and only the
tasks that both have an outcome of count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from engine.api_learning import BASE, EvaluationReport, GateName, GateReport, GateRequest, RateRecord
from engine.errors import ConflictError, InputError, NotFoundError
from engine.evaluation.gates import (
    ROUND_BENCHMARKS,
    Delta,
    GateResult,
    generalisation_delta,
    hypothesis,
    oracle_gain,
    oracle_round,
    quality,
)
from engine.evaluation.metrics import Rate, wilson
from engine.evaluation.statistics import Paired, pair

LOOKED_AT = 50
"""Newest reports of each on a suite, of which two that can be compared are looked for."""
EMBEDDED = "the embedded one"
"""How the base model is told whose file a report calls "" (`engine.inference.base_identity`)."""
IN_GROUP = "in"
OOD_GROUPS = frozenset({"deeper", "other"})


class KnownReports(Protocol):
    """What was measured (`engine.evaluation.reports.Reports`)."""

    async def page(
        self, adapter: str | None = None, suite: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[EvaluationReport]:
        """Reports, newest first."""
        ...


async def ask_gate(reports: KnownReports, request: GateRequest) -> GateReport:
    """What the gate says about the newest measurements.

    Raises:
        NotFoundError: one of the two was not measured on a suite.
        ConflictError: both were, and no two reports are of the same tasks, asked in the same way.
        InputError: the gate needs another number of suites.
    """
    wanted = ROUND_BENCHMARKS if request.gate is GateName.ORACLE_ROUND else 1
    if len(set(request.suites)) != wanted:
        raise InputError(
            f"The gate {request.gate} is about {wanted} different suites; {len(set(request.suites))} given."
        )
    found = {suite: await _comparable(reports, request, suite) for suite in request.suites}
    theirs = {suite: _rate([one.reference for one in pairs]) for suite, (_, pairs) in found.items()}
    ours = {suite: _rate([one.candidate for one in pairs]) for suite, (_, pairs) in found.items()}
    result = _result(request, theirs, ours)
    delta = _generalisation([report for report, _ in found.values()])
    passed, total = sum(rate.passed for rate in ours.values()), sum(rate.total for rate in ours.values())
    return GateReport(
        gate=request.gate,
        adapter=request.adapter,
        against=request.against,
        passed=result.passed,
        deltas=dict(result.deltas),
        adapter_rates={suite: _record(rate) for suite, rate in ours.items()},
        against_rates={suite: _record(rate) for suite, rate in theirs.items()},
        leakage_suspected=result.leakage_suspected,
        generalisation_delta=None if delta.no_data else delta.value,
        quality=quality(passed / total if total else 0.0, delta),
        reasons=result.reasons,
    )


def _result(request: GateRequest, theirs: dict[str, Rate], ours: dict[str, Rate]) -> GateResult:
    suite = request.suites[0]
    match request.gate:
        case GateName.HYPOTHESIS:
            return hypothesis(theirs[suite], ours[suite], suite)
        case GateName.ORACLE:
            return oracle_gain(theirs[suite], ours[suite], suite)
        case GateName.ORACLE_ROUND:
            try:
                return oracle_round(theirs, ours)
            except ValueError as error:  # a suite of which no answer could be judged
                raise ConflictError(f"The gate cannot decide: {error}.") from error


async def _comparable(
    reports: KnownReports, request: GateRequest, suite: str
) -> tuple[EvaluationReport, tuple[Paired, ...]]:
    """The newest report of the adapter that one of the other can be compared with, and their pairs."""
    ours = await _measured(reports, request.adapter, suite, request)
    theirs = await _measured(reports, request.against, suite, request)
    difference = ""
    for one in ours:
        for other in theirs:
            try:
                _check_alike(one, other)
                return one, pair(one, other)
            except ValueError as error:
                difference = difference or str(error)
    raise ConflictError(f"{request.adapter} and {request.against} on {suite}: {difference}. Measure both alike.")


def _check_alike(ours: EvaluationReport, theirs: EvaluationReport) -> None:
    """What `pair` leaves open, since a benchmark compares across books on purpose. What is not known is not held
    against a report: those made before it was kept can still be compared.

    Raises:
        ValueError: they were asked with another book, or answered by other weights.
    """
    if None not in (ours.open_book, theirs.open_book) and ours.open_book is not theirs.open_book:
        raise ValueError("these reports cannot be compared: one was asked with an open book and the other without")
    if None not in (ours.base_file, theirs.base_file) and ours.base_file != theirs.base_file:
        files = " and ".join(report.base_file or EMBEDDED for report in (ours, theirs))
        raise ValueError(f"these reports cannot be compared: their base models are different files, {files}")


async def _measured(reports: KnownReports, adapter: str, suite: str, request: GateRequest) -> list[EvaluationReport]:
    known = await reports.page(adapter, suite, LOOKED_AT)
    if found := [report for report in known if report.split is request.split and report.digest_proven]:
        return found
    option = "" if adapter == BASE else f" --adapter {adapter}"
    raise NotFoundError(
        f"{adapter} was not measured on {suite} {request.split.value}: run `rune-tui evaluate --suite {suite}{option}`."
    )


def _generalisation(reports: Sequence[EvaluationReport]) -> Delta:
    """Of the adapter's own answers: rate out of distribution minus rate as trained, over all these reports."""
    inside, outside = (
        [rate for report in reports for group, rate in report.by_group.items() if group in groups]
        for groups in ({IN_GROUP}, OOD_GROUPS)
    )
    return generalisation_delta(_sum(outside), _sum(inside))


def _sum(rates: Sequence[RateRecord]) -> Rate:
    return wilson(sum(rate.passed for rate in rates), sum(rate.total for rate in rates))


def _rate(outcomes: Sequence[bool]) -> Rate:
    return wilson(sum(outcomes), len(outcomes))


def _record(rate: Rate) -> RateRecord:
    return RateRecord(passed=rate.passed, total=rate.total, value=rate.value, low=rate.low, high=rate.high)
