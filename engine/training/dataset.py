"""Training data: where examples come from, and the file that a job learns from.

Two sources. *Verified trajectories* of this home: of each session whose given tests passed, the task with the final
code, and where that code mended a failing one, the request that showed the failing code and its error with the fix.
Nothing else of a session is taken: an attempt that failed is no example, and tests that the model wrote for itself
prove nothing (rejection sampling). *A file* of `{"prompt", "completion", "system"?, "task"?, "cut"?, "keep"?}`
rows; with `"cut": true` the completion is only the beginning of an answer, and that it ends there is not learned; with
`"keep": true` nothing of it is learned, but what the base model thinks of it is kept (`qlora.loss`). Rows of other
domains are meant for that: what the base model says there (`engine.evaluation.rehearsal`), or what is right there.

The selected rows are written once to RUNE_HOME/training/<sha256>.jsonl, where the name is the content: a job refers to
its data by digest, and what it learned from is there to be looked at as long as the home is.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import Field, StrictBool, ValidationError

from engine.api_models import (
    PASSING,
    AttemptRecord,
    Frozen,
    PhaseName,
    SessionRecord,
    TaskSpec,
)
from engine.config import TrainSection
from engine.errors import InputError
from engine.training.selection import Example, select
from engine.training.spec import DataRow, Turn, parse_row
from registry.files import sync_directory

MAX_FILE_BYTES = 512 << 20
"""Of a dataset: some hundred thousand examples, held in memory once."""
MAX_LINE_BYTES = 4 << 20
"""Of a row: what the trainer's own limit is."""
MAX_ROWS = 500_000
MIN_LEAK_CHARS = 12
"""A line of a hidden test that is shorter (`else:`, `x = 1`) says nothing of it."""
MIN_SHOWN = 0.5
"""Share of the failing code's lines that a request must show to be one about that code."""


class _Row(Frozen):
    prompt: str = Field(min_length=1)
    completion: str = Field(min_length=1)
    system: str = ""
    """The system turn that it will be asked under; empty means none."""
    task: str | None = Field(default=None, min_length=1, max_length=200)
    cut: StrictBool = False
    keep: StrictBool = False


@dataclass(frozen=True)
class Dataset:
    """Selected rows as the trainer reads them. `content` is the file, `digest` its SHA-256."""

    content: bytes
    digest: str
    learned: tuple[int, ...]
    """Characters of each row that is learned from."""
    kept: tuple[int, ...]
    """Characters of each row of which nothing is learned (`DataRow.keep`)."""
    held_out: tuple[int, ...]
    """Characters of each row that is only evaluated on."""
    left_out: int
    """Repeated, or beyond the cap of their task, or giving a hidden test away."""


def build(examples: Sequence[Example], recipe: TrainSection, seed: int, *, leaking: int = 0) -> Dataset:
    """Select from the examples and write the rows down. Pure.

    Raises:
        InputError: nothing is left to learn from.
    """
    chosen = select(examples, per_task=recipe.per_task, held_out=recipe.held_out, seed=seed)
    if not any(map(teaches, chosen.rows)):
        raise InputError("There is no example to learn from; give more data.")
    content = b"".join(row.model_dump_json().encode() + b"\n" for row in chosen.rows)
    rows = chosen.rows
    return Dataset(
        content=content,
        digest=hashlib.sha256(content).hexdigest(),
        learned=tuple(characters(row) for row in rows if teaches(row)),
        kept=tuple(characters(row) for row in rows if row.keep),
        held_out=tuple(characters(row) for row in rows if row.held_out),
        left_out=chosen.repeated + chosen.beyond_cap + leaking,
    )


def teaches(row: DataRow) -> bool:
    """Whether anything is learned from it."""
    return not row.held_out and not row.keep


def characters(row: DataRow) -> int:
    """Of its prompt and answer together."""
    return len(row.completion) + sum(len(turn.content) for turn in row.messages)


# --- a file --------------------------------------------------------------------------------------------------


def read_file(path: Path) -> list[Example]:
    """Every row of a prompt-completion JSONL file. Blocks.

    Raises:
        InputError: the file cannot be read, or a row is not valid; names the file and the line.
    """
    examples: list[Example] = []
    with _open(path) as file:
        for number, line in _lines(file, path):
            examples.append(_example(line, f"{path}:{number}"))
            if len(examples) > MAX_ROWS:
                raise InputError(f"{path}: more than {MAX_ROWS} rows; split the file.")
    if not examples:
        raise InputError(f"{path}: there is no row in it.")
    return examples


def _open(path: Path) -> BinaryIO:
    if not path.is_absolute():
        raise InputError(f"{path}: give the absolute path of the dataset.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # NONBLOCK: a FIFO must not hold us
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{path}: cannot be read: {reason}.") from error
    status = os.fstat(descriptor)
    problem = ""
    if not stat.S_ISREG(status.st_mode):
        problem = "is not a plain file"
    elif status.st_size > MAX_FILE_BYTES:
        problem = f"has {status.st_size} bytes; {MAX_FILE_BYTES} are allowed"
    if problem:
        os.close(descriptor)
        raise InputError(f"{path}: {problem}.")
    return os.fdopen(descriptor, "rb")


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{path}:{number}: a row of more than {MAX_LINE_BYTES} bytes.")
        if line.strip():
            yield number, line


def _example(line: bytes, place: str) -> Example:
    try:
        row = _Row.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {where + ': ' if where else ''}{first['msg']}.") from error
    if not row.prompt.strip() or not row.completion.strip():
        raise InputError(f"{place}: the prompt or the completion has nothing but space.")
    # A row without a task is a task of its own, named by what it asks.
    task = row.task or hashlib.sha256(row.prompt.encode()).hexdigest()[:16]
    return Example(asked(row.prompt, row.system), row.completion, task, row.cut, row.keep)


# --- trajectories --------------------------------------------------------------------------------------------


def check_verified(sessions: Iterable[SessionRecord]) -> None:
    """Refuse to learn from what was not verified.

    Raises:
        InputError: names the first session that did not pass its given tests, and how it ended.
    """
    for session in sessions:
        if session.outcome not in PASSING:
            ended = session.outcome or session.state
            raise InputError(f"Session {session.id} is {ended}, not verified: nothing is learned from it.")


def from_trajectories(
    trajectories: Iterable[tuple[SessionRecord, Sequence[AttemptRecord]]],
) -> tuple[list[Example], int]:
    """Examples of verified sessions, and how many were dropped because they give a hidden test away. Pure.

    Raises:
        InputError: a session is not verified, or has no code.
    """
    known = list(trajectories)
    check_verified(session for session, _ in known)
    secret = frozenset(line for session, _ in known for line in _hidden_lines(session.task))
    examples = [example for session, attempts in known for example in examples_of(session, attempts)]
    clean = [example for example in examples if not gives_away(example, secret)]
    return clean, len(examples) - len(clean)


def examples_of(session: SessionRecord, attempts: Sequence[AttemptRecord]) -> list[Example]:
    """What a verified session teaches: its task, and the mending of the last failure.

    Raises:
        InputError: it has no final code, or no attempt.
    """
    code = (session.code or "").strip()
    if not code or not attempts:
        raise InputError(f"Session {session.id} has no final code with its attempts: nothing can be learned from it.")
    answer = f"```python\n{code}\n```"
    final = next((record for record in reversed(attempts) if record.code.strip() == code), None)
    if final is None:  # put together from parts without a model: only the task itself asks for it
        return [Example(asked(session.task.prompt), answer, session.task.id)]
    loop = [record for record in attempts if _same_loop(record, final) and record.number <= final.number]
    # A repair's first request is about failing code already; the task alone is what asks for the whole.
    repairing = final.phase is PhaseName.REPAIR
    first = asked(session.task.prompt) if repairing else asked(loop[0].prompt, loop[0].system_prompt)
    found = [Example(first, answer, session.task.id)]
    earlier = [record for record in attempts if record.number < final.number and record.code.strip()]
    if earlier and _mends(final, earlier[-1]):
        found.append(Example(asked(final.prompt, final.system_prompt), answer, session.task.id))
    return found


def gives_away(example: Example, secret: frozenset[str]) -> bool:
    """Whether a line of a hidden test stands in the example."""
    texts = (example.completion, *(turn.content for turn in example.messages))
    return bool(secret) and any(line.strip() in secret for text in texts for line in text.splitlines())


def asked(prompt: str, system: str = "") -> tuple[Turn, ...]:
    """The turns of a request; an empty system turn is none."""
    user = Turn(role="user", content=prompt)
    return (Turn(role="system", content=system), user) if system else (user,)


def _same_loop(record: AttemptRecord, other: AttemptRecord) -> bool:
    return (record.phase, record.subtask) == (other.phase, other.subtask)


def _mends(fix: AttemptRecord, failed: AttemptRecord) -> bool:
    """Whether the fix was asked for with the failing code in sight, and the code had really failed.

    An answer that was cut off did not fail but is gone on from, and a fresh draw shows nothing of what was tried.
    """
    if failed.passed or failed.finish_reason == "length" or failed.code.strip() == fix.code.strip():
        return False
    shown = {line.strip() for line in fix.prompt.splitlines()}
    lines = [line.strip() for line in failed.code.splitlines() if line.strip()]
    return sum(line in shown for line in lines) >= MIN_SHOWN * len(lines)


def _hidden_lines(task: TaskSpec) -> frozenset[str]:
    """Telling lines of the hidden tests that the model may not have seen anywhere else."""
    if task.hidden_tests is None:
        return frozenset()
    visible = {
        line.strip() for text in (task.prompt, task.tests or "", *task.files.values()) for line in text.splitlines()
    }
    lines = {line.strip() for line in task.hidden_tests.splitlines()}
    telling = {
        line for line in lines if len(line) >= MIN_LEAK_CHARS and not line.startswith(("import ", "from ", "def ", "#"))
    }
    return frozenset(telling - visible)


# --- the file of a job ---------------------------------------------------------------------------------------


class DataStore:
    """RUNE_HOME/training/<digest>.jsonl: written once, never changed. Everything here blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, digest: str) -> Path:
        """Where the file of that digest is."""
        return self._root / f"{digest}.jsonl"

    def put(self, data: Dataset) -> Path:
        """Keep the rows, durably; gives their file."""
        target = self.path(data.digest)
        if self.is_whole(data.digest):
            return target
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._root / f".{data.digest}.{os.getpid()}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o400)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data.content)
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        sync_directory(self._root)
        return target

    def longest_row(self, digest: str) -> int | None:
        """Characters of the longest row; None where the file is not the one that was written."""
        if not self.is_whole(digest):
            return None
        with self.path(digest).open("rb") as file:
            return max(characters(parse_row(line, number)) for number, line in enumerate(file, start=1))

    def learned_rows(self, digest: str) -> int:
        """How many rows are learned from; 0 where the file is not the one that was written."""
        if not self.is_whole(digest):
            return 0
        with self.path(digest).open("rb") as file:
            return sum(teaches(parse_row(line, number)) for number, line in enumerate(file, start=1))

    def is_whole(self, digest: str) -> bool:
        """Whether the file is there with the content that it is named by."""
        try:
            with self.path(digest).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == digest
        except OSError:
            return False
