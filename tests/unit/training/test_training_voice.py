"""The heartbeat means that the training advances, not that a thread lives; a reader that is gone is a stop."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from engine.errors import TrainingError
from engine.training.protocol import Heartbeat, Loading, Ruling, encode, parse
from engine.training.qlora.ear import MAX_LINE, Ear
from engine.training.qlora.voice import LOADING_PATIENCE_S, PATIENCE, Voice
from registry.clock import SystemClock

BEAT_S = 0.03
QUIET_S = 10 * BEAT_S


class HandClock(SystemClock):
    """Monotonic time that a test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def nobody() -> None:
    raise AssertionError("the reader is there")


def hears(reader: int, seconds: float) -> bool:
    """Whether something comes within that time."""
    return bool(select.select([reader], [], [], seconds)[0])


def drain(reader: int) -> None:
    while hears(reader, 0):
        os.read(reader, 4096)


def test_it_beats_while_it_gets_on_and_not_when_it_hangs(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    clock = HandClock()
    voice = Voice(writer, BEAT_S, clock, nobody)
    voice.loaded(0.0)
    with voice.heartbeat():
        for _ in range(3):
            assert hears(reader, 60)
            assert parse(os.read(reader, len(encode(Heartbeat())))) == Heartbeat()
        clock.seconds += 1  # no advance for longer than the patience: the thread lives, the training hangs
        assert not voice.gets_on
        drain(reader)
        hears(reader, QUIET_S)  # one beat may have been on its way
        drain(reader)
        assert not hears(reader, QUIET_S)
        voice.advance()
        assert hears(reader, 60)
        drain(reader)


def test_patience_is_long_for_loading_and_follows_the_pauses_between_advances() -> None:
    clock = HandClock()
    voice = Voice(-1, 30.0, clock, nobody)
    assert voice.patience_s == LOADING_PATIENCE_S
    clock.seconds += 100
    voice.advance()
    assert voice.patience_s == LOADING_PATIENCE_S
    voice.loaded(0.5)
    assert voice.patience_s == 30.0
    clock.seconds += 4
    voice.advance()
    clock.seconds += 1
    voice.advance()
    voice.loaded(100.0)
    assert voice.patience_s == 4 * PATIENCE


def test_lines_of_two_threads_do_not_mix(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    voice = Voice(writer, 1.0, SystemClock(), nobody)
    long = Loading(note="x" * 1900)
    threads = [threading.Thread(target=lambda: [voice.say(long) for _ in range(200)]) for _ in range(3)]
    with os.fdopen(os.dup(reader), "rb") as lines:
        for thread in threads:
            thread.start()
        for _ in range(600):
            assert parse(lines.readline()) == long
    for thread in threads:
        thread.join()


def test_a_reader_that_is_gone_is_reported(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    gone = threading.Event()
    Voice(writer, 1.0, SystemClock(), gone.set).say(Heartbeat())
    assert gone.is_set()


# --- waiting for somebody else, and hearing them


def test_a_wait_for_the_engine_is_no_measure_of_what_a_pause_may_be(pipe: tuple[int, int]) -> None:
    clock = HandClock()
    voice = Voice(pipe[1], BEAT_S, clock, nobody)
    voice.loaded(2.0)
    for rest in (voice.waited, voice.advance):
        clock.seconds += 500.0
        assert not voice.gets_on
        rest()
        assert voice.gets_on
        expected = 2.0 if rest == voice.waited else 500.0
        assert voice.patience_s == PATIENCE * expected, "what was ours would be"


@pytest.fixture
def rulings(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A named pipe, and the engine's end of it."""
    path = tmp_path / "rulings"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield path, descriptor
    with suppress(OSError):
        os.close(descriptor)


def idle() -> None:
    """Nothing is asked for while it waits."""


def test_rulings_are_heard_whole_in_pieces_and_together(rulings: tuple[Path, int]) -> None:
    first, second = Ruling(step=4), Ruling(step=8, halt="why")
    line = encode(first)
    pieces = [line[:5], line[5:] + encode(second)]

    def between() -> None:
        if pieces:
            os.write(rulings[1], pieces.pop(0))

    ear = Ear(rulings[0], idle, between)
    assert (ear.ruling(4), ear.ruling(8)) == (first, second)


def test_a_stop_ends_the_wait_and_so_does_an_engine_that_is_gone(rulings: tuple[Path, int]) -> None:
    class Stopped(Exception):
        pass

    stop = threading.Event()

    def between() -> None:
        if stop.is_set():
            raise Stopped

    ear = Ear(rulings[0], stop.set, between)
    os.close(rulings[1])
    with pytest.raises(Stopped):
        ear.ruling(4)
    with pytest.raises(Stopped):
        Ear(rulings[0], stop.set, between).ruling(4)


def test_an_engine_that_says_something_else_is_not_obeyed(rulings: tuple[Path, int], tmp_path: Path) -> None:
    for said, what in (
        (encode(Ruling(step=3)), "ruled on step 3"),
        (b"go on\n", "not a ruling"),
        (b"x" * (MAX_LINE + 1), "without an end"),
    ):
        ear = Ear(rulings[0], idle, idle)
        os.write(rulings[1], said)
        with pytest.raises(TrainingError, match=what):
            ear.ruling(4)
    with pytest.raises(TrainingError, match="cannot be heard"):
        Ear(tmp_path / "none", idle, idle)
