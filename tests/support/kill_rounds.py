"""Random `kill -9` of a whole engine, again and again on the same home: `Rounds(place, seed).run(200)`.

A round starts an engine, asks it to serve and to train, and after a random time kills the engine, or everything at
once, or one of its processes and the engine a moment later. Every tenth engine is left to come to rest by itself after
one of its processes was killed. The last engine must end every job that was ever accepted.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from statistics import median
from threading import Thread
from typing import Any

import httpx
from support.crash_engine import chosen
from support.whole_engine import Place, WholeEngine, whole_engine

from engine.device.processes import send

REAL_LONGEST_S = 20.0
"""The same with the real trainer, whose imports alone take a few seconds."""
LONGEST_S = 4.0
"""From the start of an engine to its end: a handover takes less than 2 s of it."""
MOMENT_S = 1.0
VICTIMS = ("engine", "everything", "guardian", "server", "trainer", "trainer guardian")
WEIGHTS = (5, 2, 1, 1, 1, 1)
WAITING_JOBS = 3
"""Queued at once: more would only lengthen the end."""


@dataclass
class Figures:
    """What happened, and how long it took. Seconds."""

    kills: Counter[str] = field(default_factory=Counter[str])
    gone_s: list[float] = field(default_factory=list[float])
    """From the kill of the engine until nothing of it was left."""
    ready_s: list[float] = field(default_factory=list[float])
    """From the start of an engine on a killed one's home until it answered."""
    rested: Counter[str] = field(default_factory=Counter[str])
    accepted: list[str] = field(default_factory=list[str])
    resumed: int = 0
    real_rounds: int = 0
    """In which the real trainer ran."""
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """For a report."""
        return {
            "kills": dict(self.kills),
            "kill_to_gone_s": {"median": round(median(self.gone_s), 3), "max": round(max(self.gone_s), 3)},
            "start_to_ready_s": {"median": round(median(self.ready_s), 3), "max": round(max(self.ready_s), 3)},
            "came_to_rest_in": dict(self.rested),
            "jobs": len(self.accepted),
            "interrupted_and_resumed": self.resumed,
            "rounds_with_the_real_trainer": self.real_rounds,
            "seconds": round(self.seconds, 1),
        }


class Rounds:
    """One home and its engines."""

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.dice = random.Random(seed)
        self.figures = Figures()
        self.killed_at = 0.0
        self.longest_s = LONGEST_S

    def run(self, rounds: int, real: int = 0) -> Figures:
        """Kill, and end with one engine that must settle everything.

        Args:
            real: in so many of the rounds, spread evenly, the trainer child is the real one, on the tiny base.

        Raises:
            AssertionError: something was lost, doubled, left behind or not explained.
        """
        started = time.monotonic()
        for number in range(rounds):
            with self.trainer(real=(number + 1) * real // rounds > number * real // rounds):
                self.round(number)
        self.last()
        self.figures.seconds = time.monotonic() - started
        return self.figures

    @contextmanager
    def trainer(self, *, real: bool) -> Iterator[None]:
        """Which trainer the engines of a block start."""
        play = self.place.play.read_text()
        self.longest_s = REAL_LONGEST_S if real else LONGEST_S
        self.figures.real_rounds += real
        if real:
            self.place.play.write_text("null")
        try:
            yield
        finally:
            self.place.play.write_text(play)

    def round(self, number: int) -> None:
        victim = self.dice.choices(VICTIMS, WEIGHTS)[0]
        delay = self.dice.uniform(0.1, self.longest_s)
        with whole_engine(self.place) as engine:
            deeds = Thread(target=self.deeds, args=(engine, f"a{number}"))
            deeds.start()
            deeds.join(delay)
            self.kill(engine, victim, rest=number % 10 == 9)
            self.nothing_left()
            deeds.join()

    def deeds(self, engine: WholeEngine, adapter_id: str) -> None:
        """What users ask for, until it dies under them."""
        started = time.monotonic()
        # A dead engine is a dead connection, or an assertion that it ended before it was ready.
        with suppress(httpx.TransportError, AssertionError):
            engine.wait_ready()
            self.figures.ready_s.append(time.monotonic() - started)
            waiting = [job for job in engine.jobs() if job["state"] in ("queued", "running")]
            for job in engine.jobs():
                if job["state"] == "interrupted":
                    engine.http.post(f"/jobs/{job['id']}/resume")
                    self.figures.resumed += 1
            if len(waiting) < WAITING_JOBS:
                self.figures.accepted.append(engine.train(self.place.data, adapter_id))
            engine.serve()

    def kill(self, engine: WholeEngine, victim: str, *, rest: bool) -> None:
        if victim not in ("engine", "everything"):
            processes = chosen(victim, self.place.home)
            if processes:
                self.figures.kills[victim] += sum(send(process, signal.SIGKILL) for process in processes)
                if rest:
                    self.comes_to_rest(engine)
            time.sleep(self.dice.uniform(0, MOMENT_S))
        everybody = self.place.processes() if victim == "everything" else []
        self.figures.kills[victim if everybody else "engine"] += 1
        self.killed_at = time.monotonic()
        for process in everybody:
            send(process, signal.SIGKILL)
        engine.kill()

    def comes_to_rest(self, engine: WholeEngine) -> None:
        """By itself: SERVING or COLD, or a FAULT that says why."""
        with suppress(httpx.TransportError):
            engine.wait_ready()
            engine.until_settled()
            device = engine.device()
            assert device["state"] != "fault" or device["reason"], device
            self.figures.rested[device["state"]] += 1

    def nothing_left(self) -> None:
        left = self.place.survivors()
        assert left == [], f"still there: {left}"
        self.figures.gone_s.append(time.monotonic() - self.killed_at)

    def last(self) -> None:
        """The engine that nobody kills."""
        with whole_engine(self.place) as engine:
            engine.wait_ready()
            while interrupted := [job["id"] for job in engine.until_settled() if job["state"] == "interrupted"]:
                for job_id in interrupted:
                    engine.http.post(f"/jobs/{job_id}/resume")
                    self.figures.resumed += 1
            ended = {job["id"]: job for job in engine.http.get("/jobs", params={"limit": 1000}).json()}
            assert set(self.figures.accepted) <= set(ended), "an accepted job is lost"
            unsettled = [job for job in ended.values() if job["state"] != "succeeded"]
            assert unsettled == [], unsettled
            published, expected = engine.adapters(), sorted(job["adapter_id"] for job in ended.values())
            assert published == expected, f"published and expected differ in {set(published) ^ set(expected)}"
            device = engine.serve()
            self.figures.rested[device["state"]] += 1
            engine.http.post("/shutdown")
            assert engine.end() == 0
        assert self.place.survivors(0) == []
