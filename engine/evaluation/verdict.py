"""The verdict on a piece of code: plain data, decided outside the process that ran the code."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any


def _make_storable(record: TestFailure | Verdict) -> None:
    """Replace half surrogates, which the code under test may put into any text, and no UTF-8 can hold."""
    for one in fields(record):
        value = getattr(record, one.name)
        if isinstance(value, str) and not value.isascii():
            object.__setattr__(record, one.name, value.encode("utf-8", "replace").decode("utf-8"))


class Strength(StrEnum):
    """How far a pass can be trusted."""

    VERIFIED = "verified"
    """Given tests, judged in a process of their own."""
    IN_PROCESS = "verified-in-process"
    """Given tests that share the process with the code."""
    SELF_CHECKED = "self-checked"
    """Tests that the model wrote itself."""
    NONE = "none"
    """Nothing that counts as a test ran."""


@dataclass(frozen=True)
class TestFailure:
    """One failing test, short enough to put into a prompt."""

    name: str
    kind: str
    """Exception type, `mismatch`, `timeout` or `crash`."""
    message: str = ""
    expected: str | None = None
    got: str | None = None
    line: int | None = None
    """Line of the solution at fault, 1-based, when known."""
    source_line: str = ""

    __test__ = False  # not a test class, whatever pytest thinks of the name

    def __post_init__(self) -> None:
        _make_storable(self)


@dataclass(frozen=True)
class Verdict:
    """What the judge found."""

    passed: bool
    """At least one test really ran, none failed, no timeout."""
    strength: Strength
    ran: int = 0
    failed: int = 0
    skipped: int = 0
    failures: tuple[TestFailure, ...] = ()
    """At most 20; `failed` has the true count."""
    error: str = ""
    """Why nothing could be judged (syntax error, import failure, no tests), one line."""
    infrastructure: bool = False
    """The judge itself failed: says nothing about the code, and never counts as a wrong answer."""
    timed_out: bool = False
    truncated: bool = False
    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    duration_s: float = 0.0
    sandbox_level: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        _make_storable(self)
        assert not self.passed or (self.ran > 0 and self.failed == 0 and not self.timed_out), "a pass that is none"

    @property
    def passed_count(self) -> int:
        """Tests that ran and did not fail."""
        return max(0, self.ran - self.failed)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, complete."""
        return asdict(self)
