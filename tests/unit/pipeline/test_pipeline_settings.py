"""A09 iteration caps; seeds and temperatures of retries."""

from __future__ import annotations

import pytest
from support.pipeline_fakes import defaults

from engine.api_models import PhaseName
from engine.pipeline.limits import phase_cap
from engine.pipeline.seeds import SEED_SPACE, attempt_seed, retry_temperature


@pytest.mark.parametrize(
    ("changed", "run", "cap"),
    [
        ({"code_iterations": 2, "max_attempts": 4}, 3, 2),
        ({"code_iterations": 0, "max_attempts": 4}, 3, 3),
        ({"code_iterations": 0, "max_attempts": 4}, None, 4),
        ({}, None, 5),
    ],
)
def test_a09_phase_beats_run_beats_global_beats_5(changed: dict[str, int], run: int | None, cap: int) -> None:
    assert phase_cap(PhaseName.CODE, defaults(**changed).pipeline, run) == cap


@pytest.mark.parametrize("phase", ["decompose", "plan", "code", "integrate", "repair"])
def test_a09_each_phase_has_its_own_setting(phase: str) -> None:
    settings = defaults(**{f"{phase}_iterations": 7, "max_attempts": 3}).pipeline
    assert phase_cap(PhaseName(phase), settings, 2) == 7
    others = [name for name in PhaseName if name.value not in (phase, "diagnose", "attempt")]
    assert {phase_cap(name, settings, 2) for name in others} == {2}
    assert {phase_cap(name, settings, None) for name in others} == {3}


def test_seeds_are_stable_and_differ_by_place() -> None:
    seed = attempt_seed(0, PhaseName.CODE, "code/a", 0)
    assert seed == 1460373112, "another function would change every recorded run"
    places = [(PhaseName.CODE, "code/a", 1), (PhaseName.CODE, "code/b", 0), (PhaseName.PLAN, "code/a", 0)]
    assert len({seed, *(attempt_seed(0, *place) for place in places)}) == 4
    assert attempt_seed(1, PhaseName.CODE, "code/a", 0) == (seed + 1) % SEED_SPACE
    assert 0 <= attempt_seed(SEED_SPACE - 1, PhaseName.CODE, "code/a", 0) < SEED_SPACE


@pytest.mark.parametrize(
    ("base", "again", "expected"), [(0.3, 0, 0.3), (0.3, 1, 0.5), (0.3, 9, 1.0), (1.5, 2, 1.5), (0.0, 2, 0.4)]
)
def test_temperature_rises_with_each_repeat_and_never_falls(base: float, again: int, expected: float) -> None:
    assert retry_temperature(base, again) == pytest.approx(expected)
