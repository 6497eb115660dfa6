"""The thrifty compositor draws what Textual's draws, and asks nobody who has nothing to show."""

from __future__ import annotations

import random
from functools import partial

from rich.style import Style
from support.fake_engine import FakeEngine, adapter, running, session
from support.screen import attached, shows
from textual._compositor import Compositor
from textual.geometry import Region

from rune_tui.app import RuneApp
from rune_tui.compositor import ThriftyCompositor
from rune_tui.widgets.rows import Rows

SIZE = (120, 40)


def _engine() -> FakeEngine:
    return FakeEngine((running(), session("rune-00000002", task_id="fizz-buzz")), (adapter(),))


def _drawn(compositor: Compositor, thrifty: bool, region: Region) -> dict[tuple[int, int], tuple[str, Style | None]]:
    """The cells of a region as that compositor draws them."""
    kind = ThriftyCompositor if thrifty else Compositor
    compositor._get_renders = partial(kind._get_renders, compositor)  # type: ignore[method-assign]
    cells: dict[tuple[int, int], tuple[str, Style | None]] = {}
    for y, line in enumerate(compositor._render_chops(region, region.line_range.__contains__)):
        for start, strip in line.items():
            x = start
            for segment in strip or ():  # type: ignore[union-attr] # what nobody draws is None
                for character in segment.text:
                    if region.contains(x, y):
                        cells[x, y] = (character, segment.style)
                    x += 1
    return cells


def _regions(width: int, height: int) -> list[Region]:
    chance = random.Random(0)
    corners = [(chance.randrange(width - 1), chance.randrange(height - 1)) for _ in range(200)]
    return [
        Region(0, 0, width, height),
        *(Region(x, y, chance.randint(1, width - x), chance.randint(1, height - y)) for x, y in corners),
    ]


async def _compare(app: RuneApp) -> None:
    compositor = app.screen._compositor
    assert isinstance(compositor, ThriftyCompositor)
    for region in _regions(*SIZE):
        thrifty, usual = (_drawn(compositor, kind, region) for kind in (True, False))
        assert thrifty == usual, region
        assert len(thrifty) == region.area, "every cell is drawn by somebody"


async def test_every_region_of_the_screen_looks_as_textual_draws_it() -> None:
    engine = _engine()
    async with attached(engine, SIZE) as (app, pilot):
        engine.say("rune-00000001", "".join(f"line {number}\n" for number in range(60)))
        await shows(pilot, "line 59")
        await _compare(app)


async def test_one_line_of_output_asks_the_output_alone() -> None:
    """Textual has every widget of the column render all its lines."""
    engine = _engine()
    async with attached(engine, SIZE) as (app, pilot):
        engine.say("rune-00000001", "one line")
        await shows(pilot, "one line")
        output, compositor = app.screen.query_one("#output", Rows), app.screen._compositor
        line = Region(output.region.x, output.region.y, output.region.width, 1)
        assert [(region, len(strips)) for region, _, strips in compositor._get_renders(line)] == [(output.region, 1)]
        assert len(list(Compositor._get_renders(compositor, line))) > 5, "what is saved"
