"""Suite files and the suites of a home: what is read, what is refused and where, what a name belongs to."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.api_learning import Split, SuiteInfo, SuiteTask
from engine.api_models import Case, CaseSuite
from engine.errors import ConflictError, InputError, NotFoundError
from engine.evaluation.suites import humaneval
from engine.evaluation.suites.files import digest, dump_tasks, read_tasks
from engine.evaluation.suites.library import BUILT_IN, Suites
from engine.evaluation.suites.solutions import checks_of, solution_of, with_prelude

DOUBLE = SuiteTask(
    id="double",
    prompt="Write double(n).",
    split=Split.GATE,
    template="double",
    cases=CaseSuite(function="double", items=(Case(args=(2,), expected=4), Case(args=([1],), expected=[1, 1]))),
    reference="def double(n):\n    return n * 2",
)
LINE = dump_tasks([DOUBLE]).decode()


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    tasks = (*humaneval.tasks()[:3], DOUBLE.model_copy(update={"files": {"a/b.py": "x = '\u2028\\n'"}}))
    path = tmp_path / "s.jsonl"
    path.write_bytes(dump_tasks(tasks))
    assert read_tasks(path) == tasks
    assert digest(read_tasks(path)) == digest(tasks) != digest(tasks[::-1])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([LINE, "{"], "line 3: "),
        ([LINE, json.dumps({**json.loads(LINE), "id": "x", "hint": 1})], "line 3: hint: Extra inputs"),
        ([json.dumps({**json.loads(LINE), "cases": None})], "line 1: Value error, a task needs cases or tests"),
        ([json.dumps({**json.loads(LINE), "split": "test"})], "line 1: split: "),
        ([json.dumps({**json.loads(LINE), "files": {"../x.py": ""}})], "line 1: Value error, path '../x.py'"),
        ([LINE, LINE], "line 3: the id double was there before"),
        ([LINE, json.dumps({**json.loads(LINE), "id": "x", "task_type": "sql"})], "of the types code-gen, sql"),
        (["", " "], "there is no task in it"),
    ],
)
def test_an_error_names_the_file_and_the_line(tmp_path: Path, lines: list[str], said: str) -> None:
    path = write(tmp_path / "bad.jsonl", *lines)
    with pytest.raises(InputError) as refused:
        read_tasks(path)
    assert str(path) in str(refused.value) and said in str(refused.value)


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(InputError):
            read_tasks(tmp_path / name)


def test_an_added_suite_is_a_copy_under_its_name(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = write(tmp_path / "mine.jsonl", LINE)
    info = Suites(home).add(file, "mine")
    file.unlink()
    assert info == SuiteInfo(
        name="mine",
        title="From a file with 1 tasks.",
        origin="file",
        seeded=False,
        task_type="code-gen",
        digest=digest([DOUBLE]),
        counts={Split.GATE: 1},
        templates=1,
    )
    suites = Suites(home)
    assert [suite.name for suite in suites.infos()] == [*BUILT_IN, "mine"]
    assert suites.tasks("mine", 3) == (DOUBLE,)
    assert suites.tasks("mine", split=Split.TRAIN) == ()
    assert (home / "suites" / "mine.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_name_belongs_to_one_suite(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", LINE)
    suites = Suites(tmp_path)
    with pytest.raises(ConflictError):
        suites.add(file, "humaneval")
    with ThreadPoolExecutor(4) as threads:
        added = [threads.submit(suites.add, file, "mine") for _ in range(4)]
    assert sum(one.exception() is None for one in added) == 1
    assert {type(one.exception()) for one in added} <= {type(None), ConflictError}
    assert os.listdir(tmp_path / "suites") == ["mine.jsonl"], "no part of a file is left"


def test_a_bad_file_adds_nothing(tmp_path: Path) -> None:
    suites = Suites(tmp_path)
    with pytest.raises(InputError):
        suites.add(write(tmp_path / "bad.jsonl", "{"), "bad")
    with pytest.raises(InputError):
        suites.add(Path("bad.jsonl"), "bad")
    with pytest.raises(NotFoundError):
        suites.tasks("bad")


@pytest.mark.parametrize("name", ["nothing", "../mine", ".hidden", "a\0b"])
def test_what_is_no_suite_is_not_found(tmp_path: Path, name: str) -> None:
    write(tmp_path / "mine.jsonl", LINE)
    with pytest.raises(NotFoundError):
        Suites(tmp_path).tasks(name)


def test_a_file_that_somebody_changes_is_read_again(tmp_path: Path) -> None:
    suites = Suites(tmp_path)
    suites.add(write(tmp_path / "mine.jsonl", LINE), "mine")
    write(tmp_path / "suites" / "mine.jsonl", LINE, LINE.replace('"id":"double"', '"id":"other"'))
    assert [task.id for task in suites.tasks("mine")] == ["double", "other"]


def test_humaneval_is_whole_and_shows_only_examples_that_hold() -> None:
    tasks = humaneval.tasks()
    assert len(tasks) == 164 and {task.group for task in tasks} == {"anchor"}
    by_id = {task.id: task for task in tasks}
    assert by_id["HumanEval-47"].visible_tests == "assert median([3, 1, 2, 4, 5]) == 3"
    assert by_id["HumanEval-80"].visible_tests is None
    assert all(task.reference and "canonical" not in task.prompt for task in tasks)


@pytest.mark.parametrize(
    ("code", "joined"),
    [
        ("x = 1\n", "import lib\nx = 1\n"),
        (
            '"""Doc."""\nfrom __future__ import annotations\nx = 1\n',
            '"""Doc."""\nfrom __future__ import annotations\nimport lib\nx = 1\n',
        ),
        ("from __future__ import annotations", "from __future__ import annotations\nimport lib\n"),
        ("__future__ (", "import lib\n__future__ ("),
    ],
)
def test_the_prelude_stands_where_python_takes_it(code: str, joined: str) -> None:
    assert with_prelude("import lib\n", code) == joined
    assert with_prelude("", code) == code


def test_an_answer_is_judged_with_the_tasks_prelude_and_files() -> None:
    task = DOUBLE.model_copy(update={"prelude": "import lib\n", "files": {"lib.py": ""}, "entry_point": "double"})
    solution = solution_of(task, "y = 2")
    assert (solution.code, dict(solution.files), solution.entry_point) == (
        "import lib\ny = 2",
        {"lib.py": ""},
        "double",
    )
    assert checks_of(task).cases == DOUBLE.cases and checks_of(task).tests is None
