"""What a person reads on stderr: one visible line a task, and an estimate learned from this run only."""

from __future__ import annotations

import io

from batch_samples import HOSTILE, session

from engine.api_models import Outcome
from rune_tui.batch_records import task_result
from rune_tui.narration import BarNarrator, Eta, Narrator, PlainNarrator, duration


def narrate(voice: Narrator) -> None:
    with voice:
        voice.say("hello " + HOSTILE)
        voice.step("a", "code " + HOSTILE)
        voice.ended(task_result(session("a"), resumed=True))
        voice.ended(task_result(session("b", outcome=Outcome.FAILED, reason="no. [/foo] " + HOSTILE)))


def test_plain_lines_are_visible_text_and_count_the_tasks() -> None:
    stream = io.StringIO()
    narrate(PlainNarrator(3, stream))
    first, second, third = stream.getvalue().splitlines()
    assert first.startswith("hello ```") and stream.getvalue().replace("\n", "").isprintable()
    assert second == "[1/3] a: verified (2 attempts, 1 s, from an earlier run)", "it says nothing of the pace"
    assert third.startswith("[2/3] b: failed (2 attempts, 1 s): no. [/foo] ") and "left" in third


def test_the_bar_survives_markup_and_control_characters() -> None:
    stream = io.StringIO()
    narrate(BarNarrator(2, stream))
    text = stream.getvalue()
    assert "b: failed" in text and "[/foo]" in text and "\x1b]52" not in text and "\u202e" not in text


def test_a_closed_stderr_does_not_stop_the_batch() -> None:
    class Closed(io.StringIO):
        def write(self, text: str, /) -> int:
            raise BrokenPipeError

    narrate(PlainNarrator(2, Closed()))


def test_eta_is_unknown_first_and_then_the_mean_of_what_ran() -> None:
    clock = iter([0.0, 10.0, 30.0, 30.0])
    eta = Eta(4, lambda: next(clock))
    assert eta.seconds() is None
    eta.ended(resumed=True)
    assert eta.seconds() is None
    eta.ended(resumed=False)
    assert eta.seconds() == 20.0
    eta.ended(resumed=False)
    assert eta.seconds() == 15.0


def test_durations() -> None:
    assert [duration(value) for value in (0.4, 59.4, 185, 7800)] == ["0 s", "59 s", "3 min 05 s", "2 h 10 min"]
