"""The private APIs as suites: held-out templates, hidden inputs by seed, inputs that tell compositions apart (A81)."""

from __future__ import annotations

import ast
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from engine.api_learning import Split, SuiteTask
from engine.evaluation.overlap import Document, find_overlaps
from engine.evaluation.suites import inkwell, runekit
from engine.evaluation.suites.check import overlap_problems
from engine.evaluation.suites.compositions import Inputs, Steps, short_compositions
from engine.evaluation.suites.files import digest
from engine.evaluation.suites.private_suite import PARAPHRASE

ROOT = Path(__file__).parents[3]
BOTH = pytest.mark.parametrize("name", ["runekit", "inkwell"])
SUITES = {"runekit": (runekit.SUITE, runekit.LIBRARY), "inkwell": (inkwell.SUITE, inkwell.LIBRARY)}
MAX_PROMPT = 130


def steps_of(task: SuiteTask) -> Steps:
    """The composition that a reference is, read from its source."""
    assert task.reference is not None
    [function] = ast.parse(task.reference).body
    assert isinstance(function, ast.FunctionDef)
    *lines, last = function.body
    assert isinstance(last, ast.Return)
    found: list[tuple[str, int | None]] = []
    for line in lines:
        assert isinstance(line, ast.Assign) and isinstance(line.value, ast.Call)
        call = line.value
        assert isinstance(call.func, ast.Name)
        number = call.args[0].value if len(call.args) == 2 and isinstance(call.args[0], ast.Constant) else None
        assert number is None or isinstance(number, int)
        found.append((call.func.id, number))
    return tuple(found)


def inputs_of(task: SuiteTask) -> tuple[list[object], list[object]]:
    """(hidden inputs, visible inputs)"""
    assert task.cases is not None and task.visible_tests is not None
    visible: list[object] = []
    for line in ast.parse(task.visible_tests).body:
        assert isinstance(line, ast.Assert) and isinstance(line.test, ast.Compare)
        assert isinstance(line.test.left, ast.Call)
        visible.append(ast.literal_eval(line.test.left.args[0]))
    return [case.args[0] for case in task.cases.items], visible


@BOTH
def test_there_are_enough_tasks_of_each_kind(name: str) -> None:
    suite, _ = SUITES[name]
    tasks = suite.tasks(0)
    sizes = Counter((task.split.value, task.group) for task in tasks)
    assert sizes["train", "in"] >= 230 and sizes["train", "deeper"] >= 60
    assert sizes["gate", "in"] >= 100 and sizes["gate", "deeper"] == 60 and sizes["gate", "paraphrase"] == 60
    splits = Counter(task.split for task in tasks)
    assert splits[Split.SELECTION] >= 60 and splits[Split.AUDIT] >= 60
    assert len({task.id for task in tasks}) == len({task.prompt for task in tasks}) == len(tasks)
    assert max(len(task.prompt) for task in tasks) <= MAX_PROMPT, "a CPU trains on them"
    assert {task.task_type for task in tasks} == {name}


@BOTH
def test_what_is_learned_from_decides_about_nothing(name: str) -> None:
    suite, library = SUITES[name]
    tasks = suite.tasks(0)
    trained = {task.template for task in tasks if task.split is Split.TRAIN}
    deciding = [task for task in tasks if task.split is not Split.TRAIN]
    assert not trained & {task.template for task in deciding}
    assert overlap_problems(tasks) == []
    pairs = {task.template for task in deciding if task.template.count("-") == 1}
    neighbours = [
        "-".join(sorted((one, other)))
        for task in tasks
        if task.split is Split.TRAIN
        for (one, _), (other, _) in itertools.pairwise(steps_of(task))
    ]
    assert len(pairs) == 12 and neighbours and not pairs & set(neighbours), "held out inside threes, too"
    assert {library.source(steps_of(task)) for task in tasks} == {task.reference for task in tasks}


def test_a_planted_contaminated_suite_is_seen() -> None:
    """Negative control: a gate task that is in train under another id and template."""
    tasks = runekit.SUITE.tasks(0)
    gate = next(task for task in tasks if task.split is Split.GATE)
    planted = gate.model_copy(update={"id": "planted", "split": Split.TRAIN, "template": "other"})
    assert any("planted" in problem for problem in overlap_problems((*tasks, planted)))
    same_template = planted.model_copy(update={"template": gate.template})
    assert f"The template {gate.template} is in train and in another split." in overlap_problems(
        (*tasks, same_template)
    )
    assert find_overlaps([], []).clean


@BOTH
def test_a_part_of_the_gate_is_clean_as_the_whole_is(name: str) -> None:
    """What stands in many templates is a phrase of the suite: the deeper tasks alone do not tell, the gate does."""

    def documents(split: Split, *groups: str) -> list[Document]:
        tasks = [task for task in SUITES[name][0].tasks(0) if task.split is split and task.group in groups]
        return [Document(task.id, task.prompt, task.reference or "", task.template) for task in tasks]

    learned, deeper = documents(Split.TRAIN, "in", "deeper"), documents(Split.GATE, "deeper")
    gate = documents(Split.GATE, "in", "deeper", "paraphrase")
    assert find_overlaps(deeper, learned, gate).clean and find_overlaps(gate, learned).clean
    assert not find_overlaps(deeper, learned).clean, "negative control: alone they share phrases"
    planted = Document("row", "something else", deeper[7].code)
    assert find_overlaps(deeper, [*learned, planted], gate).tasks >= {deeper[7].id}


@BOTH
def test_hidden_inputs_are_of_the_seed_and_nothing_else_is(name: str) -> None:
    suite, _ = SUITES[name]
    one, other = suite.tasks(0), suite.tasks(1)
    assert [task.model_copy(update={"cases": None, "tests": ""}) for task in one] == [
        task.model_copy(update={"cases": None, "tests": ""}) for task in other
    ]
    changed = sum(a.cases != b.cases for a, b in zip(one, other, strict=True))
    assert changed == len(one)
    for task in (*one[:50], *other[-50:]):
        hidden, visible = inputs_of(task)
        assert len(hidden) >= 6 and not any(value in visible for value in hidden)


@BOTH
@pytest.mark.parametrize("seed", [0, 77, 2**31 - 1])
def test_inputs_tell_a_reference_from_every_other_composition(name: str, seed: int) -> None:
    """Every composition of at most two steps, run anew here, fails hidden and visible inputs unless it is the same."""
    suite, library = SUITES[name]
    probes = library.pool("another pool", 60, range(7, 12))
    for task in Random(seed).sample(suite.tasks(seed), 6):
        steps = steps_of(task)
        hidden, visible = inputs_of(task)
        for rival in short_compositions(library):
            for values in (hidden, visible):
                if all(library.run(rival, value) == library.run(steps, value) for value in values):
                    assert [library.run(rival, p) for p in probes] == [library.run(steps, p) for p in probes], (
                        f"{task.id}: {rival} passes where {steps} is asked for"
                    )


def test_a_pool_that_tells_nothing_apart_is_added_to() -> None:
    """Negative control: on lists that are ordered already, ordering and doing nothing are alike."""
    library, steps = runekit.LIBRARY, (("tumble", None),)
    ordered = [list(range(length, 0, -1)) for length in range(7, 30)]
    assert all(library.run(steps, value) == value for value in ordered)
    chosen = Inputs(library, ordered).choose(steps, 2, Random(1))
    assert len(chosen) > 2
    for rival in short_compositions(library):
        if all(library.run(rival, value) == answer for value, answer in chosen):
            assert rival in library.behaviour.equal(steps)


@BOTH
def test_each_step_of_a_reference_matters(name: str) -> None:
    suite, library = SUITES[name]
    behaviour = library.behaviour
    for task in suite.tasks(0):
        assert behaviour.is_whole(steps_of(task)), task.id
    last = {"runekit": ("flim", "tumble"), "inkwell": ("quirk", "ladle")}[name]
    assert not behaviour.is_whole(tuple((operation, None) for operation in last)), "ordering undoes any order"


@BOTH
def test_paraphrases_are_in_words_that_no_other_task_has(name: str) -> None:
    suite, library = SUITES[name]
    unseen = [words.format(n=n) for o in library.operations for words in o.unseen for n in (2, 3, 4, 5, 6)]
    others = [task.prompt for task in suite.tasks(0) if task.group != PARAPHRASE]
    parts = {part for prompt in others for part in prompt.removeprefix(f"{name}: ").rstrip(".").split(", then ")}
    assert not parts & set(unseen)
    used = [task.prompt for task in suite.tasks(0) if task.group == PARAPHRASE]
    assert all(sum(words in prompt for words in unseen) >= 2 for prompt in used)


@BOTH
def test_the_module_is_documented_and_is_what_the_references_run_on(name: str) -> None:
    suite, library = SUITES[name]
    task = suite.tasks(0)[300]
    [(path, text)] = task.files.items()
    assert path == f"{name}.py" and task.prelude == f"from {name} import *\n"
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert {function.name for function in functions} == set(library.by_name)
    for function in functions:
        documented = ast.get_docstring(function)
        assert documented and "\n" not in documented
        assert function.returns is not None and all(argument.annotation for argument in function.args.args)
        assert [argument.arg for argument in function.args.args][:-1] == (
            ["n"] if library.by_name[function.name].takes_number else []
        )
    scope: dict[str, object] = {"__name__": name}
    exec(text, scope)
    exec(str(task.reference), scope)
    exec(str(task.visible_tests), scope)
    assert task.cases is not None
    solve = scope["solve"]
    assert callable(solve)
    assert all(solve(*case.args) == case.expected for case in task.cases.items)


def test_a_suite_is_the_same_in_every_process() -> None:
    """The digest is recorded with what was measured: it must not depend on the process's hash seed."""
    program = (
        "from engine.evaluation.suites import runekit\n"
        "from engine.evaluation.suites.files import digest\n"
        "print(digest(runekit.SUITE.tasks(5)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == digest(runekit.SUITE.tasks(5)) != digest(runekit.SUITE.tasks(6))
