"""A82, A83: the gates asked about stored reports, from the route to the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.engine_process import api
from support.learning_reports import DIGEST, of_samples, planned

from engine.api_learning import EvaluationReport, GateName, GateRequest, RateRecord
from engine.core import Engine
from engine.errors import ConflictError, ExitCode, InputError, NotFoundError
from engine.evaluation.gating import ask_gate
from engine.evaluation.metrics import wilson
from rune_tui.cli import run


class Known:
    """Reports, newest first."""

    def __init__(self, *reports: EvaluationReport) -> None:
        self._reports = reports

    async def page(
        self, adapter: str | None = None, suite: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[EvaluationReport]:
        return [one for one in self._reports if one.adapter == adapter and one.suite == suite][offset:][:limit]


def with_groups(report: EvaluationReport) -> EvaluationReport:
    """With its rates by group, as the evaluator writes them."""
    by_group: dict[str, RateRecord] = {}
    for group in {one.group for one in report.sampled}:
        outcomes = [one.outcome == "passed" for one in report.sampled if one.group == group]
        rate = wilson(sum(outcomes), len(outcomes))
        by_group[group] = RateRecord(
            passed=rate.passed, total=rate.total, value=rate.value, low=rate.low, high=rate.high
        )
    return report.model_copy(update={"by_group": by_group})


def base(letters: str, suite: str = "runekit", *, seed: int = 0) -> EvaluationReport:
    return planned({"in": letters}, suite=suite, seed=seed)


def ours(letters: str, suite: str = "runekit", *, seed: int = 0, digest_proven: bool = True) -> EvaluationReport:
    named = {"adapter": "a1", "adapter_digest": DIGEST, "digest_proven": digest_proven}
    return planned({"in": letters}, suite=suite, seed=seed, templates=10, **named)


def asked(gate: GateName, *suites: str) -> GateRequest:
    return GateRequest(gate=gate, adapter="a1", suites=suites or ("runekit",))


@pytest.mark.parametrize(
    ("before", "after", "gate", "passed"),
    [
        (40, 42, GateName.HYPOTHESIS, True),
        (40, 41, GateName.HYPOTHESIS, False),
        (0, 0, GateName.HYPOTHESIS, False),
        (40, 43, GateName.ORACLE, True),
        (40, 42, GateName.ORACLE, False),
        (0, 0, GateName.ORACLE, False),
    ],
)
async def test_a83_one_suite_is_decided_by_its_paired_rates(
    before: int, after: int, gate: GateName, passed: bool
) -> None:
    known = Known(base("p" * before + "f" * (100 - before)), ours("p" * after + "f" * (100 - after)))
    found = await ask_gate(known, asked(gate))
    assert found.passed is passed and found.reasons
    assert found.deltas == {"runekit": pytest.approx((after - before) / 100)}
    assert (found.adapter_rates["runekit"].passed, found.against_rates["runekit"].passed) == (after, before)


@pytest.mark.parametrize(("better", "worse", "passed"), [(4, 0, True), (3, 0, False), (4, 2, False)])
async def test_a83_an_oracle_round_is_about_six_suites(better: int, worse: int, passed: bool) -> None:
    suites = tuple(f"s{number}" for number in range(6))
    after = [55] * better + [50] * (6 - better - worse) + [48] * worse
    known = [base("p" * 50 + "f" * 50, suite) for suite in suites]
    known += [ours("p" * n + "f" * (100 - n), suite) for n, suite in zip(after, suites, strict=True)]
    assert (await ask_gate(Known(*known), asked(GateName.ORACLE_ROUND, *suites))).passed is passed
    with pytest.raises(InputError, match="about 6 different suites; 5 given"):
        await ask_gate(Known(*known), asked(GateName.ORACLE_ROUND, *suites[:5]))
    empty = [ours("i" * 100, "s0"), *known[:6], *known[7:]]
    with pytest.raises(ConflictError, match="no data of s0"):
        await ask_gate(Known(*empty), asked(GateName.ORACLE_ROUND, *suites))


async def test_what_the_judge_failed_on_counts_for_neither() -> None:
    found = await ask_gate(Known(base("fffi"), ours("ppip")), asked(GateName.ORACLE))
    assert (found.adapter_rates["runekit"].total, found.against_rates["runekit"].total) == (2, 2)


async def test_a82_the_generalisation_delta_is_of_the_adapters_own_groups() -> None:
    groups = {"in": "p" * 90 + "f" * 10, "deeper": "p" * 30 + "f" * 30}
    adapter = with_groups(planned(groups, adapter="a1", adapter_digest=DIGEST))
    none = planned({"in": "f" * 100, "deeper": "f" * 60})
    found = await ask_gate(Known(none, adapter), asked(GateName.ORACLE))
    assert found.generalisation_delta == pytest.approx(0.5 - 0.9)
    assert found.quality == pytest.approx(120 / 160), "a negative delta takes nothing away"
    plain = await ask_gate(Known(base("f"), ours("p")), asked(GateName.ORACLE))
    assert plain.generalisation_delta is None, "no data is not a delta of 0"


async def test_the_newest_two_that_can_be_compared_are_taken() -> None:
    newest = ours("p" * 10, seed=7)
    known = Known(newest, ours("p" * 10, seed=3), base("f" * 10, seed=3), base("p" * 10, seed=5))
    found = await ask_gate(known, asked(GateName.ORACLE))
    assert found.passed and found.deltas == {"runekit": 1.0}


@pytest.mark.parametrize(
    ("mine", "yours", "said"),
    [
        ({"open_book": True}, {"open_book": False}, "one was asked with an open book and the other without"),
        ({"base_file": "f1"}, {"base_file": ""}, "different files, f1 and the embedded one"),
    ],
)
async def test_reports_made_under_different_conditions_are_not_compared(
    mine: dict[str, object], yours: dict[str, object], said: str
) -> None:
    adapter, plain = ours("p" * 10), base("f" * 10)
    other = plain.model_copy(update=yours)
    with pytest.raises(ConflictError, match=rf"{said}\. Measure both alike"):
        await ask_gate(Known(adapter.model_copy(update=mine), other), asked(GateName.ORACLE))
    for alike in (mine, {}):  # {}: of before it was kept
        known = Known(adapter.model_copy(update=mine), other, plain.model_copy(update=alike))
        assert (await ask_gate(known, asked(GateName.ORACLE))).passed


def test_a_report_of_before_its_conditions_were_kept_can_be_read() -> None:
    stored = base("p").model_dump(mode="json", exclude={"open_book", "base_file"})
    read = EvaluationReport.model_validate(stored)
    assert (read.open_book, read.base_file) == (None, None)


async def test_what_is_missing_or_cannot_be_compared_is_said() -> None:
    with pytest.raises(NotFoundError, match=r"a1 was not measured .* `rune-tui evaluate --suite runekit --adapter a1`"):
        await ask_gate(Known(base("f")), asked(GateName.ORACLE))
    with pytest.raises(NotFoundError, match=r"base was not measured .* `rune-tui evaluate --suite runekit`"):
        await ask_gate(Known(ours("p")), asked(GateName.ORACLE))
    with pytest.raises(ConflictError, match=r"seed is 1 in one and 0 in the other\. Measure both alike"):
        await ask_gate(Known(ours("p", seed=1), base("f")), asked(GateName.ORACLE))
    with pytest.raises(NotFoundError, match="a1 was not measured"):
        await ask_gate(Known(ours("p", digest_proven=False), base("f")), asked(GateName.ORACLE))


async def test_from_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def command(*arguments: str) -> tuple[int, str]:
        code = await asyncio.to_thread(run, ["--home", str(home), "gate", *arguments])
        said = capsys.readouterr()
        return code, said.out + said.err

    async with api(home) as (engine, http):
        await _keep(engine, base("p" * 40 + "f" * 60), ours("p" * 60 + "f" * 40))
        code, said = await command("hypothesis", "--adapter", "a1", "--suite", "runekit")
        assert code == ExitCode.OK and said.startswith("hypothesis: passed; look for leakage first")
        assert "60/100 [0.50, 0.69]" in said and "+0.200" in said
        code, said = await command("oracle", "--adapter", "base", "--against", "a1", "--suite", "runekit", "--json")
        assert (code, json.loads(said)["passed"]) == (ExitCode.NOT_VERIFIED, False)
        code, said = await command("oracle", "--adapter", "a2", "--suite", "runekit")
        assert code == ExitCode.USAGE and "a2 was not measured on runekit" in said
        assert (await command("oracle", "--adapter", "../x", "--suite", "runekit"))[0] == ExitCode.USAGE
        assert (await http.post("/evaluate/gate", json={"gate": "no", "adapter": "a", "suites": []})).status_code == 422


async def _keep(engine: Engine, *reports: EvaluationReport) -> None:
    for report in reports:
        await engine.learning.reports.keep(of_samples(list(report.sampled), **_facts(report)))


def _facts(report: EvaluationReport) -> dict[str, object]:
    return {name: getattr(report, name) for name in ("suite", "adapter", "adapter_digest", "seed")}
