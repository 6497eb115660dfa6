"""The checkpointer: imported late, closed always, plain data only, and nothing is sent to a tracing service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.pipeline.graph import make_checkpoints, open_checkpoints


def test_importing_the_pipeline_does_not_import_langgraph() -> None:
    code = "import sys, engine.pipeline.run; print(sorted(m for m in sys.modules if m.startswith('langgraph'))[:3])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=150)
    assert done.stdout.strip() == "[]"


async def test_the_checkpointers_thread_ends_with_the_session_even_when_it_fails(tmp_path: Path) -> None:
    async with open_checkpoints(tmp_path / "first.db"):
        pass  # the import's own threads are there from now on
    before = set(threading.enumerate())  # idle pool threads of other tests may end meanwhile: they do not count
    with pytest.raises(RuntimeError, match="boom"):
        async with open_checkpoints(tmp_path / "c.db"):
            opened = set(threading.enumerate()) - before
            assert len(opened) == 1
            raise RuntimeError("boom")
    for thread in opened:  # it has been told to end when the block is left
        await asyncio.to_thread(thread.join, 10)
    assert not opened & set(threading.enumerate())


async def test_sessions_that_start_together_share_a_file_that_was_made_before(tmp_path: Path) -> None:
    """Eight sessions on a fresh home: one met "database is locked" while another turned the file to WAL."""
    path = tmp_path / "c.db"
    await make_checkpoints(path)

    async def session() -> None:
        async with open_checkpoints(path):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(session())
    mode = await asyncio.to_thread(lambda: path.read_bytes()[18:20])
    assert mode == b"\x02\x02", "the file's header says WAL"


async def test_no_class_is_rebuilt_from_a_checkpoint(tmp_path: Path) -> None:
    async with open_checkpoints(tmp_path / "c.db") as saver:
        kind, data = saver.serde.dumps_typed({"x": Path("/etc/passwd"), "y": [1, "a", None]})
        assert kind == "msgpack"
        back = saver.serde.loads_typed((kind, data))
        assert back["y"] == [1, "a", None]
        with pytest.raises(TypeError):
            saver.serde.dumps_typed(threading.Lock())


async def test_prompts_are_never_traced_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGCHAIN_TRACING_V2", "true")
    from langsmith import utils

    utils.get_env_var.cache_clear()
    try:
        assert utils.tracing_is_enabled(), "negative control: the environment alone would switch it on"
        async with open_checkpoints(tmp_path / "c.db"):
            assert not utils.tracing_is_enabled()
    finally:
        monkeypatch.undo()
        utils.get_env_var.cache_clear()
