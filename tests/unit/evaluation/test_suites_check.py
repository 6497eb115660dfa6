"""`suite check` on the real judge: good suites pass (A81), each planted fault is named."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from engine.api_learning import Operation, OperationKind, Split, SuiteCheck, SuiteTask
from engine.api_models import Case, CaseSuite, RunState
from engine.evaluation.judge import Judge
from engine.evaluation.suites import humaneval, inkwell, runekit
from engine.evaluation.suites.check import CheckHandler
from engine.evaluation.suites.files import dump_tasks
from engine.evaluation.suites.library import Suites
from engine.evaluation.suites.private_suite import PrivateSuite
from engine.evaluation.suites.proving import BATCH, Prover, batches

Steps = list[tuple[int, int]]
Checker = Callable[[str], Awaitable[SuiteCheck]]


def task(name: str, reference: str | None, pairs: list[tuple[object, object]], **more: object) -> SuiteTask:
    items = [Case.model_validate({"args": [given], "expected": wanted}) for given, wanted in pairs]
    values = {"id": name, "prompt": f"Write {name}.", "split": Split.GATE, "template": name, "reference": reference}
    return SuiteTask.model_validate({**values, "cases": CaseSuite(function="f", items=tuple(items)), **more})


INCREMENT = "def f(x):\n    return x + 1"
GOOD = [task(f"good-{n}", f"def f(x):\n    return x + {n}", [(1, n + 1), (5, n + 5)]) for n in range(1, 6)]


@pytest.fixture
def steps() -> Steps:
    return []


@pytest.fixture
def check(judge: Judge, tmp_path: Path, steps: Steps) -> Checker:
    async def progress(done: int, total: int, note: str = "") -> None:
        del note
        steps.append((done, total))

    async def ready() -> Judge:
        return judge

    async def checking(name: str) -> SuiteCheck:
        operation = Operation(
            id="o", kind=OperationKind.CHECK_SUITE, state=RunState.RUNNING, request={"suite": name}, created_at=""
        )
        return await CheckHandler(Suites(tmp_path), ready).run(operation, progress)

    return checking


def plant(home: Path, tasks: list[SuiteTask]) -> str:
    (home / "suites").mkdir()
    (home / "suites" / "planted.jsonl").write_bytes(dump_tasks(tasks))
    return "planted"


@pytest.mark.timeout(400)  # eight tasks are judged one by one
@pytest.mark.parametrize("name", ["general", "ood"])
async def test_a81_built_in_suites_prove_themselves(check: Checker, name: str, steps: Steps) -> None:
    found = await check(name)
    assert found.problems == ()
    assert found.references_passed == found.tasks == found.mutants_killed <= found.mutants
    assert steps[-1] == (found.tasks, found.tasks) and steps == sorted(steps)


@pytest.mark.parametrize("suite", [runekit.SUITE, inkwell.SUITE], ids=["runekit", "inkwell"])
async def test_a81_each_kind_of_private_task_proves_itself(judge: Judge, suite: PrivateSuite) -> None:
    tasks = (await asyncio.to_thread(suite.tasks, 9))[::25]
    assert {one.group for one in tasks} == {"in", "deeper", "paraphrase"}
    [batch] = batches(tasks)
    proofs = await Prover(judge).prove(batch)
    assert [proof.task for proof in proofs] == [one.id for one in tasks]
    assert all(proof.passed and proof.killed == 1 and not proof.problem for proof in proofs)


async def test_a81_humaneval_references_pass_and_changed_ones_fail(judge: Judge) -> None:
    problems = await asyncio.to_thread(humaneval.tasks)
    for one in (problems[0], problems[47]):
        [proof] = await Prover(judge).prove([one])
        assert proof.passed and proof.killed == 1 and not proof.problem


async def test_a_wrong_reference_is_named_among_right_ones(check: Checker, tmp_path: Path) -> None:
    wrong = task("wrong", INCREMENT, [(1, 2), (2, 4)])
    found = await check(plant(tmp_path, [*GOOD, wrong]))
    assert (found.references_passed, found.mutants_killed) == (5, 5)
    [problem] = found.problems
    assert problem.startswith("wrong: the reference fails: case 2")


async def test_checks_that_notice_nothing_are_named(check: Checker, tmp_path: Path) -> None:
    """Negative control of the mutants: cases that any function passes."""
    blind = task("blind", "def f(x):\n    return None if x else x", [(0, 0), (False, False)])
    blind = blind.model_copy(update={"cases": None, "tests": "assert callable(f) and 1 == 1\nassert f is not None"})
    found = await check(plant(tmp_path, [*GOOD, blind]))
    assert found.references_passed == 6 and found.mutants_killed == 5
    assert found.problems == ("blind: none of 2 changed references fails its checks.",)


async def test_a_task_without_a_reference_and_wrong_visible_tests_are_named(check: Checker, tmp_path: Path) -> None:
    bare = task("bare", None, [(1, 2)])
    misled = task("misled", INCREMENT, [(1, 2)], visible_tests="assert f(1) == 3")
    found = await check(plant(tmp_path, [*GOOD, bare, misled]))
    assert found.references_passed == 5
    assert [problem.split(":")[0] for problem in found.problems] == ["bare", "misled"]
    assert "visible tests" in found.problems[1]


async def test_a_reference_that_ends_its_process_spoils_no_other(check: Checker, tmp_path: Path) -> None:
    leaves = task("leaves", "import os\ndef f(x):\n    os._exit(0)", [(1, 1)])
    found = await check(plant(tmp_path, [*GOOD, leaves]))
    assert found.references_passed == 5
    assert [problem.split(":")[0] for problem in found.problems] == ["leaves"]


async def test_types_count_in_a_batch_as_they_do_for_an_answer(check: Checker, tmp_path: Path) -> None:
    """`True == 1` in Python, and is another value for the judge: as a reference, and as a mutant."""
    lax = task("lax", "def f(x):\n    return x == 1", [(1, 1)])
    pair = task("pair", "def f(x):\n    return x, x * 3", [(1, [1, 3]), (2, [2, 6])])
    found = await check(plant(tmp_path, [*GOOD, lax, pair]))
    assert [problem.split(":")[0] for problem in found.problems] == ["lax"]
    assert found.mutants_killed == 6


async def test_what_train_shares_with_the_gate_is_named(check: Checker, tmp_path: Path) -> None:
    learned = GOOD[0].model_copy(update={"id": "learned", "split": Split.TRAIN, "template": "learned"})
    found = await check(plant(tmp_path, [*GOOD, learned]))
    assert any("learned" in problem for problem in found.problems)


def test_batches_are_of_tasks_that_belong_together() -> None:
    other = [task(f"other-{n}", INCREMENT, [(1, 2)], files={"lib.py": ""}) for n in range(2)]
    tested = task("tested", INCREMENT, [(1, 2)], tests="assert f(1) == 2")
    many = [task(f"many-{n}", INCREMENT, [(1, 2)]) for n in range(BATCH + 1)]
    found = batches([other[0], *many, tested, other[1]])
    assert [len(batch) for batch in found] == [2, BATCH, 1, 1]
    assert {one.id for batch in found for one in batch} == {one.id for one in (*other, *many, tested)}
