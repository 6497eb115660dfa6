"""200 random kill -9 of the whole thing end in SERVING, or in a FAULT that says why: no survivor, no lost job (P1, P3).

Real engine, guardians, scripted model server; the trainer child speaks the real one's protocol and learns nothing,
but in RUNE_KILLS_REAL of the rounds, where it is the real one on a tiny base model. RUNE_KILLS sets the number of
rounds; `benchmarks/kills.py` runs 200 and writes the figures down.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path
from statistics import median

import pytest
from support.kill_rounds import Rounds
from support.whole_engine import TRAINS, Place, whole_engine

KILLS = int(os.environ.get("RUNE_KILLS", "12"))
REAL = int(os.environ.get("RUNE_KILLS_REAL", "2"))
P3_S = 5.0
"""All is gone so soon after the engine's death; the most of a few depends on what else the machine does."""
SEED = int(os.environ.get("RUNE_KILLS_SEED", "1"))

pytestmark = pytest.mark.slow


@pytest.mark.timeout(600 + 30 * KILLS + 120 * REAL)
# A connection to an engine that is killed in that moment is left to the garbage collector by the HTTP library.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_random_kills_of_the_whole_thing_lose_nothing_and_leave_nobody(tmp_path: Path) -> None:
    rounds = Rounds(Place(tmp_path, TRAINS), SEED)
    try:
        figures = rounds.run(KILLS, REAL)
    finally:
        rounds.place.end_all()
        gc.collect()  # while those warnings are nobody's, and not in the test that comes next
    assert figures.kills.total() >= KILLS
    assert median(figures.gone_s) < P3_S
    assert figures.real_rounds == REAL


@pytest.mark.timeout(400)
def test_control_a_job_that_is_not_recovered_is_noticed(tmp_path: Path) -> None:
    """Negative control: an engine that leaves a dead one's running job alone never settles it."""
    place = Place(tmp_path)
    with whole_engine(place, crash_at="training.after_spawn:1") as engine:
        engine.wait_ready()
        engine.train(place.data, "mine")
        engine.end()
    with whole_engine(place, broken="no recovery") as engine:
        engine.wait_ready()
        assert [job["state"] for job in engine.jobs()] == ["running"]
        with pytest.raises(AssertionError, match="never so"):
            engine.until_settled(5)


@pytest.mark.timeout(400)
def test_control_a_trainer_without_a_guardian_is_noticed(tmp_path: Path) -> None:
    """Negative control: started directly, it outlives its engine."""
    place = Place(tmp_path, (["steps", 1, 0], ["wait"]))
    try:
        with whole_engine(place, broken="no guardian") as engine:
            engine.wait_ready()
            engine.train(place.data, "mine")
            engine.until(lambda: any(job["progress"] for job in engine.jobs()))
            engine.kill()
            assert place.survivors(1) != []
    finally:
        place.end_all()
