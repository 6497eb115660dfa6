"""★S2: whatever part is missing, nothing runs at a weaker level than config.toml allows."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import SandboxUnavailableError
from engine.sandbox.launch import INSIDE, START, default_scratch
from engine.sandbox.probe import Facts, SandboxReport, choose_level, gather, probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import ORDER, Level, Program

WHOLE = Facts(kernel="6.12", landlock_abi=6, seccomp=True, userns=True, bwrap_path="/usr/bin/bwrap")
NO_BWRAP = {"bwrap_path": ""}
NO_USERNS = {"userns": False, "userns_error": "setting up uid map: Permission denied"}
NO_LANDLOCK = {"landlock_abi": 0}
NO_SECCOMP = {"seccomp": False}
NO_STAGE2 = {"strict_error": "NotConfinedError", "landlock_error": "NotConfinedError"}
PROGRAM = Program(files={"a.py": "print('ran')"}, argv=("a.py",))

COMBINATIONS = [
    (NO_BWRAP, Level.LANDLOCK),
    (NO_USERNS, Level.LANDLOCK),
    (NO_BWRAP | {"landlock_abi": 3}, Level.NONE),
    (NO_LANDLOCK, Level.NONE),
    (NO_SECCOMP, Level.NONE),
    (NO_STAGE2, Level.NONE),
    (NO_BWRAP | NO_LANDLOCK, Level.NONE),
    (NO_USERNS | NO_SECCOMP, Level.NONE),
]


SETTINGS = {level: load_config(overrides=[f"sandbox.min_level={level}"]).sandbox for level in Level}


@pytest.fixture(scope="module")
def real() -> SandboxReport:
    """What this machine has."""
    return probe(SETTINGS[Level.NONE])


def report_of(real: SandboxReport, facts: Facts, minimum: Level) -> SandboxReport:
    choice = choose_level(facts, minimum)
    return replace(real, level=choice.level, refused=choice.refused, reason=choice.reason, fixes=choice.fixes)


def test_s2_with_every_part_the_level_is_strict() -> None:
    choice = choose_level(WHOLE, Level.STRICT)
    assert (choice.level, choice.refused, choice.fixes) == (Level.STRICT, False, ())


@pytest.mark.parametrize(("missing", "achieved"), COMBINATIONS)
@pytest.mark.parametrize("minimum", list(Level))
async def test_s2_refuses_unless_config_lowers_the_level(
    missing: dict[str, object], achieved: Level, minimum: Level, real: SandboxReport
) -> None:
    report = report_of(real, replace(WHOLE, **missing), minimum)  # type: ignore[arg-type]  # a test table of field values
    assert report.level is achieved
    assert report.reason and report.fixes
    may_run = ORDER.index(achieved) >= ORDER.index(minimum)
    assert report.refused is not may_run
    sandbox = Sandbox(SETTINGS[minimum], report)
    if not may_run:
        with pytest.raises(SandboxUnavailableError, match=r"min_level"):
            await sandbox.run(PROGRAM)
        return
    if achieved is Level.LANDLOCK and report.landlock_abi < 4:
        pytest.skip("no Landlock with TCP on this machine")
    result = await sandbox.run(PROGRAM)
    assert (result.stdout, result.level) == ("ran\n", achieved), "the level stands in the result"


def test_s2_a_broken_bwrap_path_is_found_by_trying(tmp_path: Path) -> None:
    fake = tmp_path / "bwrap"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 9.9 && exit 0\nexit 1\n')
    fake.chmod(0o755)
    facts = gather(SETTINGS[Level.NONE].model_copy(update={"bwrap": str(fake)}), default_scratch())
    assert not facts.userns
    assert choose_level(facts, Level.STRICT).refused


def test_s2_a_bwrap_that_makes_no_namespaces_is_found_by_stage_2(tmp_path: Path) -> None:
    """It runs the command and reports success, without any isolation: only stage 2 can tell."""
    fake = tmp_path / "bwrap"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 9.9 && exit 0\n'
        'while [ "$1" != -- ] && [ $# -gt 1 ]; do shift; done\n'
        '[ "$1" = -- ] || exit 0\nshift\npython=$1; shift 7\n'
        f'exec "$python" -I -S -B -c "{START}" {INSIDE} "$@"\n'
    )
    fake.chmod(0o755)
    facts = gather(SETTINGS[Level.NONE].model_copy(update={"bwrap": str(fake)}), default_scratch())
    assert "namespace is the engine's own" in facts.strict_error
    assert choose_level(facts, Level.STRICT).refused


SKIPPED = [
    ("landlock.restrict(", "str("),
    ("seccomp.install(program)", "pass"),
    ("prctl(PR_SET_NO_NEW_PRIVS, 1)", "pass"),
    ("resource.setrlimit(getattr(resource, name), (soft, hard))", "pass"),
    ('close_all_but({0, 1, 2, control, *plan["keep"]})', "os.dup2(1, 77)"),
]


@pytest.mark.parametrize("level", [Level.STRICT, Level.LANDLOCK])
@pytest.mark.parametrize(("part", "replacement"), SKIPPED, ids=["landlock", "seccomp", "privileges", "rlimits", "fds"])
async def test_s2_a_stage_2_that_skips_a_part_refuses_to_go_on(
    part: str, replacement: str, level: Level, real: SandboxReport, tmp_path: Path
) -> None:
    """Negative control of the self-verification: each layer is removed in turn, and stage 2 notices."""
    report = replace(real, level=level)
    if level is Level.STRICT and not report.bwrap_path:
        pytest.skip("no bubblewrap on this machine")
    if level is Level.STRICT and "NO_NEW_PRIVS" in part:
        pytest.skip("bubblewrap has set no_new_privs already")
    broken = tmp_path / "inside"
    shutil.copytree(INSIDE, broken)
    source = (broken / "stage2.py").read_text()
    assert source.count(part) == 1
    (broken / "stage2.py").write_text(source.replace(part, replacement))
    with pytest.raises(SandboxUnavailableError, match=r"did not start"):
        await Sandbox(SETTINGS[Level.NONE], report, stage2=broken).run(PROGRAM)
    facts = await asyncio.to_thread(gather, SETTINGS[Level.NONE], default_scratch(), broken)
    assert facts.strict_error if level is Level.STRICT else facts.landlock_error


async def test_s2_bubblewrap_that_vanishes_later_is_refused(real: SandboxReport) -> None:
    report = replace(real, level=Level.STRICT, bwrap_path="/nonexistent/bwrap")
    with pytest.raises(SandboxUnavailableError):
        await Sandbox(SETTINGS[Level.STRICT], report).run(PROGRAM)
