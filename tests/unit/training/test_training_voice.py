"""The heartbeat means that the training advances, not that a thread lives; a reader that is gone is a stop."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from engine.training.protocol import Heartbeat, Loading, encode, parse
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
            assert hears(reader, 5)
            assert parse(os.read(reader, len(encode(Heartbeat())))) == Heartbeat()
        clock.seconds += 1  # no advance for longer than the patience: the thread lives, the training hangs
        assert not voice.gets_on
        drain(reader)
        hears(reader, BEAT_S)  # one beat may have been on its way
        drain(reader)
        assert not hears(reader, QUIET_S)
        voice.advance()
        assert hears(reader, 5)
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
