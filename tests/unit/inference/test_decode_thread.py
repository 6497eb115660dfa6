"""The decode thread over a runtime that computes nothing and writes down what it was asked for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.inference.sidecar.backend import BackendError, Finish, Job, Piece
from engine.inference.sidecar.decode_thread import DecodeThread, Task
from engine.inference.sidecar.runtime import Entry


class Recorder:
    """Model, context, sampler and runtime in one; every token is 7."""

    adapter_suffix = ".none"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def load(self) -> tuple[Any, Any]:
        return self, self

    def prepare(self, directory: Path, file: Path, gguf_sha256: str | None) -> None:
        raise AssertionError("no adapter is loaded here")

    def attach(self, model: Any, file: Path) -> Any:
        raise AssertionError("no adapter is loaded here")

    def sampler(self, model: Any, job: Job) -> Any:
        return self

    def sample(self, context: Any, place: int) -> int:
        return 7

    def decode(self, entries: Sequence[Entry]) -> None:
        if len({entry.sequence for entry in entries}) > 1:
            self.batches.append([entry.sequence for entry in entries])

    def logits(self, place: int) -> NDArray[np.float32]:
        return np.zeros(8, dtype=np.float32)

    def keep(self, sequence: int, tokens: int) -> bool:
        return True

    def use_adapter(self, adapter: Any) -> None:
        pass

    def is_end(self, token: int) -> bool:
        return False

    def piece(self, token: int) -> bytes:
        return b"x"

    def close(self) -> None:
        pass


def test_sequences_stand_in_a_batch_by_their_numbers_whoever_came_first() -> None:
    """llama.cpp splits a batch whose sequences do not rise one by one: twice the time, with the same answers."""
    recorder = Recorder()
    thread = DecodeThread(recorder, 3)
    thread.start()
    ended = threading.Semaphore(0)

    def sink(piece: Piece | BackendError) -> None:
        assert isinstance(piece, Piece)
        if piece.finish is Finish.LENGTH:
            ended.release()

    def submit(tokens: int) -> None:
        thread.submit(Task(Job("", tokens), None, [1, 2, 3], tokens, recorder, sink))

    def begin() -> None:
        thread.load()
        for tokens in (4, 60, 40):  # the first slot is free again while the others speak
            submit(tokens)
        submit(30)  # and is taken by one that came after them

    thread.call(begin).result()
    for _ in range(4):
        assert ended.acquire(timeout=60)
    thread.close()
    assert [0, 1, 2] in recorder.batches
    assert sum(len(batch) == 3 for batch in recorder.batches) > 20, "the late one never spoke beside the others"
    assert all(batch == sorted(batch) for batch in recorder.batches)


class Failing(Recorder):
    """A library that raises, once, what nobody expected of it: when it computes, or when it changes the adapter."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.left = [where]
        self.selected: list[Any] = []

    def attach(self, model: Any, file: Path) -> Any:
        return file.name

    def _may_fail(self, where: str) -> None:
        if where in self.left:
            self.left.remove(where)
            raise ZeroDivisionError("out of the blue")

    def decode(self, entries: Sequence[Entry]) -> None:
        self._may_fail("decode")

    def sample(self, context: Any, place: int) -> int:
        self._may_fail("sample")
        return 7

    def use_adapter(self, adapter: Any) -> None:
        self.selected.append(adapter)
        self._may_fail("use_adapter")


@pytest.mark.parametrize("where", ["decode", "sample", "use_adapter"])
def test_what_a_library_raises_costs_the_answer_and_not_the_thread(where: str) -> None:
    runtime = Failing(where)
    thread = DecodeThread(runtime, 1)
    thread.start()
    said: queue.SimpleQueue[Piece | BackendError] = queue.SimpleQueue()
    thread.call(thread.load).result()
    thread.call(lambda: thread.attach("one", Path("one"))).result()
    for _ in range(2):
        task = Task(Job("", 3), "one", [1, 2, 3], 3, runtime, said.put)
        thread.call(partial(thread.submit, task)).result()
    failure = said.get(timeout=60)
    assert isinstance(failure, BackendError) and "out of the blue" in str(failure)
    pieces = [said.get(timeout=60) for _ in range(4)]
    assert [piece.finish for piece in pieces if isinstance(piece, Piece)] == [None, None, None, Finish.LENGTH]
    # What failed halfway is not taken for done.
    assert runtime.selected == ["one", "one"] if where == "use_adapter" else ["one"]
    thread.close()
