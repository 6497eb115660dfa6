"""T1: no text from a stranger can crash the terminal app or drive the terminal (P7)."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import pytest
from support.fake_engine import FakeEngine, adapter, attempt, device, job, running, session
from support.screen import attached, lines, picture, raw_controls, shows, until
from textual import events
from textual.app import App, ComposeResult
from textual.widgets import Static

from engine.api_models import EngineStatus, PhaseName, PhaseStatus, TaskSpec
from engine.errors import RuneError
from rune_tui.plain_text import PlainStatic, plain_notify
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.widgets.line import Line
from rune_tui.widgets.row import Column, Span, row, tabular
from rune_tui.widgets.rows import Rows

SOURCES = sorted((Path(__file__).parents[2] / "rune_tui").rglob("*.py"))

SEEDS = (
    "[/foo]", "x[0][/]", "KeyError: 'a[/b]'", r"[^/]+[/\w]", "[/INST]", "[bold", "[", "]", "[[[",
    "[@click=app.quit]x[/]", "[link=file:///etc/passwd]x[/link]", "[$error]x", "[red on", "\\[", "[/", "[]", "[=]",
    "$x", "{0}", "%s", "\x1b[31mred", "\x1b[2J\x1b[H", "\x1b]52;c;cm0gLXJm\x07", "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link", "\x1b[?1049h", "\x1bPq\x1b\\", "\x1b^pm\x1b\\", "\x1b_apc\x1b\\", "\x1bc",
    "\x1b[6n", "\x9b31m", "\x9d52;c;eA==\x9c", "\x90q\x9c", "\x1b", "\x1b]", "\x1b[", "\x00", "a\x00b",
    "\x07\x08\x7f", "\r", "a\rb", "\r\n", "\v\f", "\x1c\x1d\x1e\x85\u2028\u2029", "\u202egnp.exe",
    "\u2066isolate\u2069", "\u200f\u200e\u061c", "\u200b\u200c\u200d\u2060\ufeff", "\U000e0041\U000e007f", "\u00ad",
    "\ud800", "\udfff\ud83d", b"\xff\xfe\x80".decode("utf-8", "surrogateescape"), "\ufffe\uffff", "\U0010ffff",
    "\ue000", "漢字" * 60, "👩‍👩‍👧‍👦🇩🇪", "e" + "\u0301" * 500, "\u3164\u115f", "a\u0335" * 100, "ﷺ﷽", "\t\t\t", " ",
    "\n" * 300, "", "x" * 1_000_000, "[" * 100_000, "\x1b[" * 50_000, "\u0301" * 10_000, "a b " * 50_000,
    "\x1b]" + "x" * 200_000,
)  # fmt: skip


def hostile_strings() -> list[str]:
    """200: the known evils, and random mixtures of them."""
    chance = random.Random(20261122)
    short = [text for text in SEEDS if len(text) <= 200]
    mixed = ["".join(chance.choices(short, k=chance.randint(2, 6))) for _ in range(200 - len(SEEDS))]
    return [*SEEDS, *mixed]


STRINGS = hostile_strings()


def valid(text: str) -> str:
    """What can be in JSON that came over HTTP: UTF-8 has no half surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def hostile_engine(text: str) -> FakeEngine:
    """Every free text field of everything that the engine sends is that string."""
    phases = (PhaseStatus(phase=PhaseName.CODE, state="running", iterations=1, detail=text),)
    task = TaskSpec(id="task", prompt=text or "-")
    fields: dict[str, Any] = {"model": text, "backend": text, "sandbox_level": text, "adapter": text}
    engine = FakeEngine(
        (
            running(task=task, phases=phases, **fields),
            session("rune-2", task=task, state="failed", reason=text, code=text, created_at=text, finished_at=text),
        ),
        (
            adapter(text, tier=text, source=text, created_at=text, parent_ids=(text, "b"), base_model_id=text),
            adapter("b", tier=text, session_id=text, file_hash=text, target_modules=(text,), task_type=text),
        ),
        backend=text,
        model=text,
        model_state=text,
        home=text,
        version=text,
        sandbox_level=text,
    )
    verdict: dict[str, Any] = {"strength": text, "error": text, "failures": [{"name": text, "got": text}, text]}
    engine.device_now = device(reason=text, since=text, adapters=(text,), id="cpu")
    engine.attempts["rune-00000001"] = (
        attempt(code=text, response=text, diagnosis=text, stderr=text, stdout=text, subtask=text, verdict=verdict),
    )
    return engine


def test_there_are_200() -> None:
    assert len(STRINGS) == 200 and len(set(STRINGS)) > 190


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_widget_survives_every_string() -> None:
    """One app; each string goes through every widget that shows foreign text, at 80x24."""

    class Gallery(App[None]):
        def compose(self) -> ComposeResult:
            yield Line(id="line")
            yield Rows(id="list")
            yield Rows(id="text", text=True)
            yield PlainStatic(id="static")

    app = Gallery()
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        for text in STRINGS:
            app.query_one("#line", Line).show((Span(text), Span(text)))
            app.query_one("#list", Rows).show(
                [row(text, key="k"), tabular((Column(text, 0), Column(text, 9)), 78, "t")]
            )
            app.query_one("#text", Rows).show([row(text)])
            app.query_one("#static", PlainStatic).show(text)
            plain_notify(app, text or "-")
            await pilot.pause()
            assert raw_controls(app) == []
            assert len(lines(app)) == 24
            app.clear_notifications()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_every_screen_survives_hostile_data(size: tuple[int, int]) -> None:
    """The whole app on an engine whose every text is hostile; a mixture, since each needs its own start."""
    evils = ["[/foo] [bold \x1b]52;c;eA==\x07\u202e\x00", "".join(text for text in STRINGS if len(text) <= 60)]
    for text in evils:
        engine = hostile_engine(valid(text))
        async with attached(engine, size) as (app, pilot):
            await until(pilot, lambda app=app: app.state.selected == "rune-00000001")
            for piece in STRINGS[:80]:
                engine.say("rune-00000001", valid(piece)[:5000] + "\n", subtask=valid(text))
            engine.add_job(job("t", adapter_id=valid(text), reason=valid(text), created_at=valid(text)))
            await until(pilot, lambda app=app: app.state.workshop.jobs)
            for key in ("1", "2", "3", "4", "o", "1", "down", "up"):
                await pilot.press(key)
                assert raw_controls(app) == []
            for opening in ("d", "c", "e", "question_mark", "n", "t", "b", "i"):
                await pilot.press(opening)
                await pilot.pause()
                assert raw_controls(app) == []
                await pilot.press("escape")
            for number in ("2", "3", "4"):
                await pilot.press(number, "down", "enter")
                await pilot.pause()
                assert raw_controls(app) == []
                await pilot.press("escape")
            engine.fail_next = RuneError(valid(text))
            await pilot.press("1", "d")
            await pilot.pause()
            assert raw_controls(app) == []
            await pilot.press("escape", "ctrl+p")
            await pilot.pause()
            assert raw_controls(app) == [] and app.is_running


async def test_hostile_text_can_be_pasted() -> None:
    async with attached(FakeEngine()) as (app, pilot):
        await pilot.press("n")
        await shows(pilot, "New task: what")
        for target in ("#prompt", "#tests", "#tests-file"):
            widget = app.screen.query_one(target)
            for text in STRINGS[:70]:
                widget.post_message(events.Paste(text[:3000]))
            await pilot.pause()
            assert raw_controls(app) == []
        await pilot.press("ctrl+s")
        await until(pilot, lambda: "New task: what" in picture(app))
        assert raw_controls(app) == []


async def test_a_question_about_a_hostile_name() -> None:
    async with attached(FakeEngine()) as (app, pilot):
        for text in STRINGS[:70:5]:
            app.push_screen(ConfirmScreen(text, text, text))
            await pilot.pause()
            assert raw_controls(app) == []
            await pilot.press("escape")


class Insulting(FakeEngine):
    """Refuses every call, with hostile words."""

    async def health(self) -> EngineStatus:
        raise RuneError("[/foo] \x1b]52;c;eA==\x07 gone")


async def test_a_reason_of_a_lost_link_is_plain() -> None:
    async with attached(Insulting()) as (app, pilot):
        await shows(pilot, "[/foo]  gone")
        assert raw_controls(app) == []


async def test_negative_control_a_plain_static_crashes() -> None:
    """The broken variant: the same text in Textual's own widget brings the app down."""

    class Broken(App[None]):
        def compose(self) -> ComposeResult:
            yield Static(SEEDS[0])

    with pytest.raises(Exception, match="tag"):
        async with Broken().run_test() as pilot:
            await pilot.pause()


async def test_negative_control_raw_controls_are_seen() -> None:
    """The check itself sees a control that a widget let through."""

    class Broken(App[None]):
        def compose(self) -> ComposeResult:
            yield Static("a\x1b]52;c;eA==\x07b", markup=False)

    app = Broken()
    async with app.run_test() as pilot:
        await pilot.pause()
        assert raw_controls(app)


# --- lint: foreign text reaches a widget through plain_text only -------------------------------------------------

CALLS = {"Static", "Label", "Button", "RadioButton", "Choice", "Checkbox", "Markdown", "Option"}
METHODS = {"update", "notify", "write", "add_option", "set_options"}
ATTRIBUTES = {"border_title", "border_subtitle", "tooltip", "label", "sub_title", "title"}
SAFE = {"plain", "plain_label"}


def loose_text(source: str) -> list[int]:
    """Lines where something that is not a literal is handed to a widget without plain_text's help."""
    found: list[int] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            on_table = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name | ast.Attribute)
            values = [*node.args[:1], *(word.value for word in node.keywords if word.arg in ("label", "content"))]
            checked = name in CALLS or (method in METHODS and on_table)
            found += [node.lineno for value in values if checked and not is_safe(value)]
        if isinstance(node, ast.Assign):
            named = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
            if ATTRIBUTES & set(named) and not is_safe(node.value):
                found.append(node.lineno)
    return found


def is_safe(value: ast.expr) -> bool:
    if isinstance(value, ast.Constant):
        return True
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in SAFE


def textual_modules() -> list[Path]:
    return [path for path in SOURCES if "textual" in path.read_text() and path.name != "plain_text.py"]


@pytest.mark.parametrize("path", textual_modules(), ids=lambda path: path.stem)
def test_lint_no_loose_text(path: Path) -> None:
    assert loose_text(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    ["Static(name)", "Label(f'{x}')", "widget.update(text)", "self.app.notify(str(error))", "self.border_title = name"],
)
def test_lint_negative_control(source: str) -> None:
    assert loose_text(source) == [1]
