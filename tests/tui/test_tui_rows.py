"""The list that panes are made of draws only what changed, and what it draws is right; a stream gathers (T6)."""

from __future__ import annotations

import random

import pytest
from support.screen import lines, until
from textual.app import App, ComposeResult
from textual.strip import Strip

from rune_tui.attach import AT_ONCE_S, BUSY, Gathering
from rune_tui.widgets.row import Row, row
from rune_tui.widgets.rows import FOLLOW_STEP, Rows

HEIGHT = 12


class Counting(Rows):
    """Knows how many lines were drawn."""

    drawn = 0

    def render_line(self, y: int) -> Strip:
        self.drawn += 1
        return super().render_line(y)


class OneList(App[None]):
    CSS = "Rows { height: 100%; overflow-x: hidden; scrollbar-size-vertical: 1; }"  # as in styles.tcss

    def __init__(self, *, text: bool) -> None:
        super().__init__()
        self.rows = Counting(text=text)

    def compose(self) -> ComposeResult:
        yield self.rows


def text_rows(texts: list[str]) -> list[Row]:
    return [row(text) for text in texts]


async def test_a_line_that_grows_is_drawn_alone() -> None:
    app = OneList(text=True)
    async with app.run_test(size=(40, HEIGHT)) as pilot:
        app.rows.show(text_rows(["one", "two", "thr"]))
        await until(pilot, lambda: "thr" in lines(app)[2])
        await pilot.pause()
        app.rows.drawn = 0
        app.rows.show(text_rows(["one", "two", "three"]))
        await until(pilot, lambda: "three" in lines(app)[2])
        assert app.rows.drawn == 1
        app.rows.refresh()  # negative control: this is what drawing everything costs
        await pilot.pause()
        assert app.rows.drawn == 1 + HEIGHT


async def test_a_text_that_follows_scrolls_by_steps_and_stays_at_its_end() -> None:
    app = OneList(text=True)
    async with app.run_test(size=(40, HEIGHT)) as pilot:
        tops: set[int] = set()
        for count in range(1, 60):
            app.rows.show(text_rows([f"line {number}" for number in range(count)]))
            await pilot.pause()
            assert any(f"line {count - 1}" in shown for shown in lines(app)), count
            tops.add(round(app.rows.scroll_y))
        assert {top % FOLLOW_STEP for top in tops} == {0} and len(tops) > 5


@pytest.mark.parametrize("text", [True, False])
async def test_drawing_only_what_changed_gives_the_same_picture(text: bool) -> None:
    """Random changes, one after the other, against a list that draws everything anew."""
    chance = random.Random(7)
    words = ["short", "a line that is far too long for forty columns and is folded or cut", "漢字 " * 12, ""]
    app, fresh = OneList(text=text), OneList(text=text)
    async with app.run_test(size=(40, HEIGHT)) as pilot, fresh.run_test(size=(40, HEIGHT)) as other:
        shown: list[Row] = []
        for number in range(60):
            change = chance.choice(["append", "cut", "replace", "head", "nothing"])
            if change == "append" or not shown:
                shown += [row(f"{number} {chance.choice(words)}", key="" if text else f"k{number}")]
            elif change == "cut":
                shown = shown[: chance.randrange(len(shown)) + 1]
            elif change == "replace":
                shown[chance.randrange(len(shown))] = row(f"{number} new", key="" if text else f"k{number}")
            elif change == "head":
                shown = shown[1:]
            app.rows.show(list(shown))
            await pilot.pause()
            drawn = lines(app)
            app.rows._styles_cache.clear()  # pyright: ignore[reportPrivateUsage] - whatever Textual kept is forgotten
            app.rows.refresh()
            await pilot.pause()
            assert lines(app) == drawn, (number, change)
        fresh.rows.show(list(shown))
        await other.pause()
        assert {line.strip() for line in lines(fresh)} >= {line.strip() for line in lines(app)[-1:]}


def test_a_trickle_rests_after_each_wait_and_a_burst_does_not() -> None:
    gathering = Gathering(0.1)
    assert gathering.rest_s(10.0) == 0.1
    burst = [gathering.rest_s(10.1 + AT_ONCE_S * number / 20) for number in range(10)]
    assert burst == [0.0] * 10  # read together, after the rest
    assert gathering.rest_s(10.1 + 2 * AT_ONCE_S) == 0.2, "so many in one period: two for the next"
    assert [gathering.rest_s(11.0 + number / 1e5) for number in range(3)] == [0.1, 0.0, 0.0]


def test_what_comes_faster_than_anyone_reads_is_drawn_half_as_often() -> None:
    gathering = Gathering(0.1)
    now, rests = 0.0, list[float]()
    for number in range(96):  # one second of a fast model: pieces that came during a rest are read at once
        now = max(now, number / 96)
        if rest := gathering.rest_s(now):
            rests.append(rest)
            now += rest
    assert rests[0] == 0.1 and set(rests[2:]) == {0.2}
    assert {gathering.rest_s(10.0 + number / 5) for number in range(1, 10)} == {0.1}, "a slow one is not"


def test_a_replay_of_many_pieces_is_not_slowed() -> None:
    gathering = Gathering(0.1)
    now, rested = 0.0, 0.0
    for _ in range(100 * BUSY):
        now += AT_ONCE_S / BUSY * 0.9
        rested += (rest := gathering.rest_s(now))
        now += rest
    assert rested < 0.2


def test_without_a_period_nothing_rests() -> None:
    assert {Gathering(0.0).rest_s(float(number)) for number in range(5)} == {0.0}
