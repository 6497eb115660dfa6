"""gpu-engine.md 2.4: the eleven crash points of a handover, each with the engine, a guardian, the server or the trainer
killed right there (I4, I8, P1, P3).

Everything is a real process: the engine, its guardians, the scripted model server, and a trainer child that speaks the
real one's protocol and writes a real adapter but learns nothing (the real one takes seconds to import torch; that it
resumes exactly is its own tests' business). The trainer is killed where there is one: at point 6.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.whole_engine import FINAL, Place, WholeEngine, whole_engine

from registry.crash import POINTS

POINT_OF = {
    1: "device.after_intent_draining",
    2: "device.admission_closed",
    3: "device.sleep_sent",
    4: "device.asleep_unrecorded",
    5: "device.proof_done",
    6: "training.after_spawn",
    7: "device.trainer_finished",
    8: "publish.after_rename",
    9: "device.wake_sent",
    10: "device.awake_no_adapter",
    11: "device.alias_flipped",
}
OTHERS = [(number, victim) for number in POINT_OF for victim in ("guardian", "server")]
OTHERS += [(6, "trainer"), (6, "trainer guardian")]

SMALL_STEPS = ("train.checkpoint_every=5", "train.method=lora", "train.patience=1000", "train.threads=1")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def handover(place: Place, engine: WholeEngine) -> None:
    """Serve, then queue a job; returns as soon as it is queued."""
    engine.wait_ready()
    engine.serve()
    engine.train(place.data, "mine")


def check_end(place: Place, engine: WholeEngine) -> None:
    """The job ended once, with its adapter; the device is at rest and serves again when asked."""
    [job] = engine.until_settled()
    assert job["state"] == "succeeded", job
    assert engine.adapters() == ["mine"]
    assert engine.serve()["state"] == "serving"
    blobs = [path.name for path in (place.home / "adapters").iterdir()]
    assert len(blobs) == 1 and len(blobs[0]) == 64, "nothing half-written is left"


def test_the_points_are_those_of_the_program() -> None:
    assert set(POINT_OF.values()) <= POINTS
    assert {point for point in POINTS if point.startswith("device.")} - set(POINT_OF.values()) == {
        "device.trainer_spawned",  # after 6, when its pid is about to be recorded
        "device.artefact_renamed",  # before 7, in the trainer: its output is whole, and nobody has been told
    }


@pytest.mark.parametrize("number", POINT_OF)
def test_the_engine_killed_at_a_point_of_the_handover_loses_nothing(tmp_path: Path, number: int) -> None:
    place = Place(tmp_path)
    with whole_engine(place, crash_at=f"{POINT_OF[number]}:1") as engine:
        handover(place, engine)
        assert engine.end() == -signal.SIGKILL, "the point was not passed"
    assert place.survivors() == [], "P3: all of its children are gone"
    with whole_engine(place) as engine:
        engine.wait_ready()
        check_end(place, engine)
        engine.http.post("/shutdown")
        assert engine.end() == 0
    assert place.survivors(0) == [], "an engine that stops leaves nothing, at once"


@pytest.mark.parametrize(("number", "victim"), OTHERS, ids=lambda value: str(value))
def test_whoever_else_is_killed_there_the_device_recovers_by_itself(tmp_path: Path, number: int, victim: str) -> None:
    place = Place(tmp_path)
    with whole_engine(place, crash_at=f"{POINT_OF[number]}:1", victim=victim) as engine:
        handover(place, engine)
        [job] = engine.until_settled()
        assert place.killed, "there was nobody to kill, or the point was not passed"
        assert job["state"] in FINAL and (job["state"] == "succeeded" or job["reason"]), job
        check_end(place, engine)
        engine.http.post("/shutdown")
        assert engine.end() == 0
    assert place.survivors(0) == []


def test_the_real_trainer_goes_on_from_its_checkpoint_in_the_next_engine(tmp_path: Path) -> None:
    """The same with the product's own trainer (torch, PEFT) on a tiny random Llama, killed with its engine midway."""
    place = Place(tmp_path, play=None)
    checkpoints = place.home / "training" / "jobs"
    with whole_engine(place, *SMALL_STEPS) as engine:
        engine.wait_ready()
        engine.serve()
        engine.train(place.data, "mine", max_steps=300, epochs=100)
        engine.until(lambda: any(path.is_dir() for path in checkpoints.glob("*/checkpoints/*")))
        engine.kill()
    assert place.survivors() == []
    with whole_engine(place, *SMALL_STEPS) as engine:
        engine.wait_ready()
        check_end(place, engine)
        [job] = engine.jobs()
        assert job["metrics"]["resumed"] >= 1 and job["metrics"]["steps"] > job["metrics"]["resumed"], job["metrics"]
        [adapter] = engine.http.get("/adapters").json()
        assert adapter["rank"] == 8
        digests = [path.name for path in (place.home / "adapters").iterdir()]
        assert engine.device()["adapters"] == digests, "it is live in the server that serves"


def test_the_real_trainer_killed_right_after_it_renamed_its_artefact(tmp_path: Path) -> None:
    """Whole, and nobody was told: the trainer and then its engine are killed there. The next engine publishes once."""
    place = Place(tmp_path, play=None)
    with whole_engine(place, *SMALL_STEPS, trainer_crash_at="device.artefact_renamed:1") as engine:
        engine.wait_ready()
        engine.train(place.data, "mine", max_steps=12)
        engine.until(lambda: bool(list((place.home / "training" / "jobs").glob("*/output/adapter_model.safetensors"))))
        engine.kill()
    assert place.survivors() == []
    with whole_engine(place, *SMALL_STEPS) as engine:
        engine.wait_ready()
        for job in engine.until_settled():
            if job["state"] != "succeeded":  # the engine lived long enough to say that its trainer had been killed
                engine.http.post(f"/jobs/{job['id']}/retry")
        check_end(place, engine)


def test_control_a_server_without_a_guardian_outlives_its_engine(tmp_path: Path) -> None:
    """Negative control of the survivors' count: an unguarded child of the home is found by it."""
    import subprocess
    import sys

    place = Place(tmp_path)
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1000)", str(place.home)],
        stdout=subprocess.PIPE,
    )
    assert orphan.stdout
    assert orphan.stdout.readline(), "Popen returns before /proc shows the new command line; its first word comes after"
    assert [process.pid for process in place.survivors(0)] == [orphan.pid]
    place.end_all()
    orphan.communicate()  # closes its pipe too
