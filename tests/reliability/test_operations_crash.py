"""D2 for operations: SIGKILL at each crash point, then begun again; no sample is measured twice (A81)."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from support.evaluation_worker import TASKS, work
from support.pipeline_fakes import memory_directory

from engine.api_learning import EvaluationReport, Operation
from engine.api_models import RunState
from registry.crash import POINTS

OURS = sorted(point for point in POINTS if point.split(".")[0] in ("operation", "evaluation"))
AT_ONCE = 2
"""Answers under way when the process dies: these, and only these, are asked for again."""
TESTS = Path(__file__).parent.parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["support.evaluation_worker"])
JOIN_S = 150.0


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(str(path) for path in (TESTS.parent, TESTS)))
        forkserver.ensure_running()


@pytest.fixture
def home() -> Iterator[Path]:
    with memory_directory() as directory:
        yield directory


def run(home: Path, crash_at: str = "", *, broken: bool = False) -> int:
    process = SERVER.Process(target=work, args=(home, crash_at, broken))
    process.start()
    process.join(JOIN_S)
    assert process.exitcode is not None, "the operation hangs"
    status = process.exitcode
    process.close()
    return status


def asked(home: Path) -> Counter[str]:
    path = home / "asked"
    return Counter(path.read_text().splitlines() if path.exists() else ())


def ended(home: Path) -> tuple[Operation, EvaluationReport]:
    operation = Operation.model_validate_json((home / "result.json").read_text())
    return operation, EvaluationReport.model_validate(operation.result)


@pytest.mark.parametrize(
    "crash_at",
    [*OURS, "evaluation.after_sample:3", f"evaluation.after_sample:{TASKS}", "job.before_finish", "job.after_finish"],
)
def test_d2_a_killed_engine_resumes_its_operation(home: Path, crash_at: str) -> None:
    assert run(home, crash_at) == -signal.SIGKILL, f"{crash_at} was never passed"
    before = asked(home)
    assert run(home) == 0
    operation, report = ended(home)
    assert operation.state is RunState.SUCCEEDED
    assert (report.pass_at_1.passed, report.pass_at_1.total, report.infrastructure) == (TASKS // 2, TASKS, 0)
    again = asked(home) - Counter(dict.fromkeys(asked(home), 1))
    assert len(asked(home)) == TASKS and sum(again.values()) < AT_ONCE and set(again) <= set(before)


def test_the_points_that_are_driven_are_all_there_are() -> None:
    assert OURS == ["evaluation.after_report", "evaluation.after_sample", "operation.after_claim",
                    "operation.after_create"]  # fmt: skip


def test_samples_that_are_not_kept_are_noticed(home: Path) -> None:
    """Negative control: an evaluator that forgets asks for everything again."""
    assert run(home, "evaluation.after_sample:4", broken=True) == -signal.SIGKILL
    assert run(home, broken=True) == 0
    assert sum(asked(home).values()) >= TASKS + 3
