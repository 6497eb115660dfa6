"""The four panes at three sizes, each with its empty, loading and error state (T4)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from support.fake_engine import FakeEngine, adapter, running, session
from support.screen import SIZES, attached, lines, picture, shows, until

from engine.api_models import EngineStatus
from rune_tui.app import RuneApp

NOW = datetime(2026, 1, 1, 0, 0, 41, tzinfo=UTC)

WIDE = [size for size in SIZES if size[0] >= 100]


def busy() -> FakeEngine:
    return FakeEngine(
        (
            running(),
            session("rune-00000002", task_id="fizz-buzz"),
            session(
                "rune-00000003",
                task_id="roman",
                state="succeeded",
                outcome="verified",
                attempts=2,
                tokens=400,
                seconds=75.0,
            ),
        ),
        (
            adapter(),
            adapter("sort-v2", parent_ids=("sort-v1",), generation=1, tier="project"),
            adapter("merged", parent_ids=("sort-v1", "sort-v2"), generation=2, is_archived=True),
        ),
    )


async def test_80x24_in_full() -> None:
    engine = busy()
    async with attached(engine, now=lambda: NOW) as (app, pilot):
        engine.say("rune-00000001", "def sort(items):\n    return sorted(items)\n")
        await shows(pilot, "return sorted")
        assert lines(app) == [
            " rune-tui  /home/dev/.rune · engine 0.1.0, pid 4242",
            " ● serving  llamacpp  12.0 of 23.5 GiB free  llamacpp answers.",
            "▾ 1 Tasks  1 running · 1 queued · 3 in all",
            "   task                state        phases            tries tokens score    time",
            " ● sort-list           code         D✓ P✓ C● I·          ×4   1.2k  0.67    0:41",
            " ○ fizz-buzz           queued",
            " ✓ roman               verified                          ×2    400          1:15",
            "",
            "",
            " sort-list code · iteration 2 · scripted-1 · strict",
            " ── code · attempt 1 ──",
            " def sort(items):",
            "     return sorted(items)",
            "",
            "",
            "",
            "",
            "",
            "",
            "▸ 2 Adapters  2 in use · 1 archived",
            "▸ 3 Training  0 running · 0 queued · 0 in all",
            "▸ 4 Lineage  3 adapters",
            " ● live  sandbox strict  1 running 1 queued  model serving scripted scripted-1",
            "n New task c Cancel r Resume d Details e Export t Train b Backend ? Help q Quit",
        ]


@pytest.mark.parametrize("size", SIZES)
async def test_every_size_shows_all_four_panes(size: tuple[int, int]) -> None:
    async with attached(busy(), size, now=lambda: NOW) as (app, pilot):
        await shows(pilot, "sort-list")
        shown = lines(app)
        assert len(shown) == size[1]
        for title in ("1 Tasks", "2 Adapters", "3 Training", "4 Lineage"):
            assert sum(title in line for line in shown) == 1
        assert "D✓ P✓ C● I·" in picture(app) and "q Quit" in shown[-1] and "● live" in shown[-2]


@pytest.mark.parametrize("size", WIDE)
async def test_wide_screens_show_all_contents_at_once(size: tuple[int, int]) -> None:
    async with attached(busy(), size, now=lambda: NOW) as (app, pilot):
        await shows(pilot, "▾ project (1)")
        shown = picture(app)
        assert "● sort-v2" in shown and "× archived" not in shown
        assert "No training job." in shown
        assert "×─╮ merged" in shown and "│ ○ sort-v2" in shown and "●─╯ sort-v1" in shown


@pytest.mark.parametrize(
    ("key", "content"), [("1", "sort-list"), ("2", "▾ project"), ("3", "No training"), ("4", "×─╮")]
)
async def test_narrow_screens_open_one_pane(key: str, content: str) -> None:
    async with attached(busy()) as (app, pilot):
        await pilot.press(key)
        await shows(pilot, content)
        assert sum("▾ " + digit in picture(app) for digit in "1234") == 1


async def test_tab_goes_round_and_resizing_unfolds() -> None:
    async with attached(busy()) as (app, pilot):
        for title in ("2 Adapters", "3 Training", "4 Lineage", "1 Tasks"):
            await pilot.press("tab")
            await shows(pilot, f"▾ {title}")
        await pilot.press("shift+tab")
        await shows(pilot, "▾ 4 Lineage")
        await pilot.resize_terminal(120, 40)
        await shows(pilot, "▾ 1 Tasks")
        await shows(pilot, "▾ project (1)")
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "▾ 1 Tasks" not in picture(app) and "▾ 4 Lineage" in picture(app))


@pytest.mark.parametrize("size", [(40, 12), (20, 6), (1, 1), (300, 8)])
async def test_tiny_and_odd_sizes_do_not_crash(size: tuple[int, int]) -> None:
    async with attached(busy(), size) as (_, pilot):
        for key in ("2", "3", "4", "1", "n", "escape", "question_mark", "escape", "d", "escape"):
            await pilot.press(key)


async def test_a_tier_closes_and_opens() -> None:
    async with attached(busy()) as (app, pilot):
        await pilot.press("2")
        await shows(pilot, "▾ task (2)")
        await pilot.press("home", "enter")
        await shows(pilot, "▸ project (1)")
        assert "sort-v2" not in picture(app)
        await pilot.press("enter")
        await shows(pilot, "● sort-v2")


@pytest.mark.parametrize("size", SIZES)
async def test_empty_states_say_what_to_do(size: tuple[int, int]) -> None:
    async with attached(FakeEngine(), size) as (_, pilot):
        await shows(pilot, "No task yet. Press n")
        await pilot.press("2")
        await shows(pilot, "No adapter yet.")
        await pilot.press("3")
        await shows(pilot, "No training job. Press t")
        await pilot.press("4")
        await shows(pilot, "No lineage yet")


class SlowEngine(FakeEngine):
    """Never answers the first question."""

    async def health(self) -> EngineStatus:
        return await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("size", SIZES)
async def test_loading_state(size: tuple[int, int]) -> None:
    app = RuneApp(SlowEngine())
    async with app.run_test(size=size) as pilot:
        await shows(pilot, "Loading ...")
        await shows(pilot, "○ connecting")
        assert "No task yet" not in picture(app)


@pytest.mark.parametrize("size", SIZES)
async def test_error_state(size: tuple[int, int]) -> None:
    engine = FakeEngine()
    engine.down = True
    async with attached(engine, size) as (app, pilot):
        await shows(pilot, "No engine answers.")
        await shows(pilot, "! not connected, again in")
        await pilot.press("n")
        await shows(pilot, "New task: no engine is connected")
        assert "Loading" not in picture(app)


@pytest.mark.parametrize(("level", "badge"), [("strict", False), ("landlock", True), ("none", True)])
async def test_a_weak_sandbox_has_a_badge(level: str, badge: bool) -> None:
    async with attached(FakeEngine(sandbox_level=level)) as (app, pilot):
        await shows(pilot, f"sandbox {level}")
        assert (f"sandbox {level}, not strict" in picture(app)) is badge


async def test_only_what_is_visible_is_drawn_of_a_long_list() -> None:
    """A list draws its window, and the cursor reaches both ends."""
    many = tuple(adapter(f"a-{number:05}", fitness_score=None) for number in range(2_000))
    async with attached(FakeEngine(adapters=many)) as (_, pilot):
        await pilot.press("2")
        await shows(pilot, "a-00000")
        await pilot.press("end")
        await shows(pilot, "a-01999")
        await pilot.press("home")
        await shows(pilot, "a-00000")


async def test_output_follows_until_the_reader_scrolls_up() -> None:
    engine = busy()
    async with attached(engine) as (app, pilot):
        engine.say("rune-00000001", "".join(f"line {number}\n" for number in range(100)))
        await shows(pilot, "line 99")
        await pilot.press("o", "pageup", "pageup")
        await until(pilot, lambda: "line 99" not in picture(app))
        engine.say("rune-00000001", "news\n")
        await until(pilot, lambda: app.state.tails["rune-00000001"].blocks[-1].lines[-2] == "news")
        await pilot.pause()
        assert "news" not in picture(app)
        await pilot.press("end")
        await shows(pilot, "news")
        engine.say("rune-00000001", "more\n" * 30 + "last one\n")
        await shows(pilot, "last one")


async def test_no_colour_keeps_every_state_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """T4, no colour: marks and words say what colours say."""
    monkeypatch.setenv("NO_COLOR", "1")
    states = [running("rune-1", task_id="t1"), session("rune-2", task_id="t2")]
    states += [
        session(f"rune-3{outcome}", task_id=f"t-{outcome}", state="succeeded", outcome=outcome)
        for outcome in ("verified", "self-checked", "failed", "error")
    ]
    states += [session(f"rune-4{state}", task_id=f"t-{state}", state=state) for state in ("cancelled", "interrupted")]
    async with attached(FakeEngine(tuple(states)), (120, 40)) as (app, pilot):
        await shows(pilot, "t-verified")
        signs = {line[1] + line[22:35].strip() for line in lines(app) if line[3:5] in ("t1", "t2", "t-")}
        assert len(signs) == len(states)
