"""A picture of the terminal app at work, for README: `python -m benchmarks.screenshot [FILE.svg]`.

Nothing is staged: an engine process with the scripted backend runs real tasks in a home of its own, the app attaches
to it, and the picture is taken while one of them is in its code phase, others done and waiting.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from engine.api_models import Outcome, PhaseName, RunState, SessionCreate, TaskMode, TaskSpec
from engine.home import socket_path
from rune_tui import host
from rune_tui.app import RuneApp
from rune_tui.client import EngineClient
from rune_tui.state import State
from rune_tui.widgets.session_rows import current_phase

SIZE = (120, 34)
DEADLINE_S = 300.0
OVERRIDES = ("inference.backend=scripted",)

TASKS = (
    TaskSpec(
        id="add",
        prompt="Write a function `add(a, b)` that returns the sum of two numbers.",
        tests="assert add(2, 3) == 5\nassert add(-1, 1) == 0\n",
        entry_point="add",
        mode=TaskMode.ATTEMPT,
    ),
    TaskSpec(id="is-even", prompt="Write a function `is_even(n)`.", mode=TaskMode.ATTEMPT),
    TaskSpec(id="word-count", prompt="Write a function `word_count(text)` that counts the words of a text."),
    TaskSpec(id="roman", prompt="Write a function `roman(n)` that gives the Roman numeral of n."),
)


def in_code_phase(state: State) -> bool:
    """A project is being coded, its output is arriving, and another session is done."""
    record = state.selected_session
    phase = current_phase(record) if record is not None and record.state is RunState.RUNNING else None
    done = any(one.outcome is not None and one.outcome is not Outcome.ERROR for one in state.sessions.values())
    return done and phase is not None and phase.phase is PhaseName.CODE and output_lines(state) > 8


def output_lines(state: State) -> int:
    """Lines of the selected session's output."""
    tail = state.tails.get(state.selected)
    return sum(len(block.lines) for block in tail.blocks) if tail is not None else 0


async def take(home: Path, target: Path) -> None:
    """Run the tasks and save the picture.

    Raises:
        TimeoutError: no task came into its code phase.
    """
    async with EngineClient(socket_path(home)) as client:
        app = RuneApp(client)
        async with app.run_test(size=SIZE) as pilot, asyncio.timeout(DEADLINE_S):
            records = [await client.create_session(SessionCreate(task=task)) for task in TASKS]
            project = records[2].id
            while project not in app.state.sessions or app.state.sessions[project].state is not RunState.RUNNING:
                await pilot.pause(0.05)
            while app.state.selected != project:
                await pilot.press("up" if app.state.ordered_sessions()[0].id == project else "down")
            while not in_code_phase(app.state):
                await pilot.pause(0.02)
            svg = app.export_screenshot(title="rune-tui")
    await asyncio.to_thread(target.write_text, svg, encoding="utf-8")


async def main(target: Path) -> None:
    """An engine of its own, stopped in any case."""
    with tempfile.TemporaryDirectory(prefix="rune-") as directory:
        home = Path(directory) / "home"
        await host.start_background(home, OVERRIDES)
        try:
            await take(home, target)
        finally:
            await host.stop(home)
    print(f"wrote {target}")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("screenshot.svg")))
