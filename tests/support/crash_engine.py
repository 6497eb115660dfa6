"""`python crash_engine.py PLAY.json VICTIM ENGINE_ARGUMENTS...`: the real engine, whose trainer child plays a script.

VICTIM says whom a crash point (RUNE_CRASH_AT) kills: the `engine` itself, as in the product, or one of its processes
as its guardians' records name them. Who was killed is written to PLAY.json.killed. Nothing else differs from
`python -m engine`. PLAY.json `null` leaves the real trainer in its place.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from pathlib import Path
from typing import Any

from engine import assembly
from engine.__main__ import main
from engine.device import guarded
from engine.device.contracts import ProcessId
from engine.device.processes import read_records
from engine.evolution.improve_steps import OperationSteps
from engine.evolution.session_runs import SessionRuns
from engine.jobs import Jobs
from engine.training import trainer
from engine.training.jobs import TrainingJobs
from registry import crash

_own = trainer._environment
FAKE_CHILD = str(Path(__file__).with_name("fake_trainer.py"))
VICTIMS = ("engine", "guardian", "trainer guardian", "server", "trainer")


def chosen(victim: str, home: Path) -> list[ProcessId]:
    """The processes that the victim's name means; empty where there is none."""
    role = "trainer" if victim.startswith("trainer") else "server"
    records = [record for record in read_records(home / "run" / "guardians") if record.role == role]
    found = [record.guardian if victim.endswith("guardian") else record.child for record in records]
    return [process for process in found if process is not None]


class Deflected:
    """`os` as `registry.crash` sees it: the signal that was meant for the engine goes to the victim."""

    environ = os.environ
    getpid = staticmethod(os.getpid)

    def __init__(self, victim: str, home: Path, told: Path) -> None:
        self._victim = victim
        self._home = home
        self._told = told

    def kill(self, pid: int, number: int) -> None:
        assert pid == os.getpid()
        pids = [process.pid for process in chosen(self._victim, self._home)]
        for victim in pids:
            os.kill(victim, number)
        self._told.write_text(json.dumps(pids))


DIRECT = """
import os, sys
def main():
    command = sys.argv[sys.argv.index("--") + 1:]
    os.write(3, b"child %d 1 1\\n" % os.getpid())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.execvp(command[0], command)
"""
"""A guardian that guards nothing: it becomes the program."""


def break_it(how: str, home: Path) -> None:
    """The deliberately broken variants that a test must notice."""
    match how:
        case "":
            return
        case "no recovery":

            async def nothing(self: object) -> list[object]:
                return []

            TrainingJobs.recover = nothing  # type: ignore[assignment,method-assign]  # the planted bug
            Jobs.recover = lambda self, tx, kind="%": []  # type: ignore[method-assign]  # the same
        case "forgets sessions":

            async def nobody(self: object, run_id: str) -> dict[str, object]:
                return {}

            SessionRuns._known = nobody  # type: ignore[assignment,method-assign]  # a run without its content key
        case "forgets operations":

            async def never_asked(self: object, request: object, since: str) -> None:
                return None

            OperationSteps._asked = never_asked  # type: ignore[assignment,method-assign]  # they are without their own
        case "no guardian":
            folder = home.parent / "direct"
            folder.mkdir(exist_ok=True)
            (folder / "guardian.py").write_text(DIRECT)
            guarded.PROGRAM = folder
        case _:
            raise AssertionError(how)


def run() -> int:
    play, victim, arguments = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    assert victim in VICTIMS, victim
    if json.loads(play.read_text()) is not None:
        program = (sys.executable, FAKE_CHILD, str(play))
        replaced: Any = functools.partial(assembly.Parts, program=program)
        assembly.Parts = replaced  # type: ignore[misc]  # the one place where the engine names its trainer
    if point := os.environ.get("RUNE_TEST_TRAINER_CRASH_AT"):
        inherit: Any = lambda gpu, epoch: {**_own(gpu, epoch), "RUNE_CRASH_AT": point}  # noqa: E731 # stands for a function
        trainer._environment = inherit  # what the product keeps from its child
    home = Path(arguments[arguments.index("--home") + 1])
    break_it(os.environ.get("RUNE_TEST_BROKEN", ""), home)
    if victim != "engine":
        deflected: Any = Deflected(victim, home, play.with_suffix(".killed"))
        crash.os = deflected  # type: ignore[attr-defined]  # see `Deflected`
    return main(arguments)


if __name__ == "__main__":
    sys.exit(run())
