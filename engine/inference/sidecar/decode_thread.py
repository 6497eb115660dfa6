"""The decode thread: the one owner of model, context, adapters and slots, whichever library computes.

    callers ── call(fn) / submit(task) ──► commands ──► thread:  commands, admit, one step, commands, ...
    callers ◄── task.sink(piece) ─────────────────────────────┘

A step computes one chunk of one prompt and one token of every answer of the current adapter group. Whatever changes
the model (adapters, sleep, wake) is a command, so it happens between steps and needs no lock.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from engine.inference.sidecar.backend import (
    AdapterMissingError,
    AsleepError,
    BackendError,
    Finish,
    Job,
    Piece,
    Stats,
    TokenLogprob,
)
from engine.inference.sidecar.decode_schedule import CHUNK, FreeSlot, Group, choose_slot, next_group
from engine.inference.sidecar.runtime import (
    Adapter,
    Context,
    Entry,
    Model,
    Runtime,
    Sampler,
    logprob,
    release_freed_memory,
)
from engine.inference.sidecar.text import StopScanner, Utf8Stream

log = logging.getLogger(__name__)

T = TypeVar("T")
_UNSURE: Group = ""
"""No group has this name."""
MAX_WAITING = 1024
"""Requests in the queue; more are refused rather than kept for an hour."""


@dataclass
class Task:
    """A request inside the decode thread."""

    job: Job
    group: Group
    prompt: list[int]
    limit: int
    sampler: Sampler
    sink: Callable[[Piece | BackendError], None]
    """Called in the decode thread; must not block."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: int = 0
    """Prompt tokens that are in the cache."""
    generated: int = 0
    last: int = -1
    """The token that is computed next, once the prompt is done."""
    scanner: StopScanner = field(init=False)
    bytes: Utf8Stream = field(default_factory=Utf8Stream)

    def __post_init__(self) -> None:
        self.scanner = StopScanner(self.job.stop)


@dataclass
class _Slot:
    sequence: int
    group: Group = None
    tokens: list[int] = field(default_factory=list[int])
    """What the cache holds of the last prompt."""
    used: int = 0
    task: Task | None = None


class DecodeThread:
    """Runs a model in a thread of its own. The methods without an underscore may be called from any thread."""

    def __init__(self, runtime: Runtime, parallel: int) -> None:
        """Starts nothing.

        Args:
            parallel: sequences of the runtime's context.
        """
        self._runtime = runtime
        self._commands: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._model: Model | None = None
        self._context: Context[Any] | None = None
        self._slots = [_Slot(number) for number in range(parallel)]
        self._waiting: deque[Task] = deque()
        self._loras: dict[str, Adapter] = {}
        self._retired: set[str] = set()
        self._group: Group = None
        self._selected: Group = None
        self._steps = 0
        self._clock = 0
        self._counts = [0, 0, 0]

    def start(self) -> None:
        """Start the thread; the model is loaded by `call(thread.load)`."""
        self._thread.start()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the decode thread, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function())
            except BaseException as error:  # it belongs to the caller, and reaches him whole
                future.set_exception(error)

        self._commands.put(run)
        return future

    def close(self) -> None:
        """Abort what runs, free everything, end the thread."""
        if self._thread.is_alive():
            self.call(self.unload)
            self._commands.put(None)
            self._thread.join()

    def stats(self) -> Stats:
        """Counters; read without a lock, so they may be of different moments."""
        prompt, generated, cached = self._counts
        running = sum(slot.task is not None for slot in self._slots)
        return Stats(running, len(self._waiting), prompt, generated, cached)

    # What follows runs in the decode thread only.

    def load(self) -> None:
        """Bring the model into memory.

        Raises:
            BackendError
        """
        assert self._model is None
        self._model, self._context = self._runtime.load()

    def abort(self) -> None:
        """End every answer, running or waiting."""
        for slot in self._slots:
            if slot.task is not None:
                self._end(slot, Finish.ABORT)
        while self._waiting:
            self._refuse(self._waiting.popleft())

    def unload(self) -> None:
        """Abort every answer and free context, adapters and model."""
        self.abort()
        self._slots = [_Slot(number) for number in range(len(self._slots))]
        self._group = None
        if self._context is not None:
            self._select(None)  # the adapters are closed below, whichever of them was computed with last
            self._context.close()
        while self._loras:
            self._loras.popitem()[1].close()
        if self._model is not None:
            self._model.close()
        self._context = self._model = None
        release_freed_memory()

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None

    def model(self) -> Model:
        """The loaded model.

        Raises:
            AsleepError
        """
        if self._model is None:
            raise AsleepError("The model is asleep; POST /wake_up first.")
        return self._model

    def attach(self, digest: str, path: Path) -> None:
        """Load a prepared adapter under its digest.

        Raises:
            BackendError: the library refuses it.
            AsleepError
        """
        self._retired.discard(digest)
        if digest not in self._loras:
            self._loras[digest] = self._runtime.attach(self.model(), path)

    def retire(self, digest: str) -> None:
        """Free an adapter as soon as no answer needs it; asleep, it is free already."""
        self._retired.add(digest)
        self._free_retired()

    def _free_retired(self) -> None:
        tasks = [slot.task for slot in self._slots if slot.task is not None] + list(self._waiting)
        for digest in self._retired - {task.group for task in tasks}:
            self._retired.discard(digest)
            lora = self._loras.pop(digest, None)
            if lora is None:
                continue
            if self._selected == digest:
                self._select(None)
            lora.close()

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            AdapterMissingError: its adapter went while it was on its way.
            BackendError: the queue is full.
        """
        if task.group is not None and task.group not in self._loras:
            raise AdapterMissingError("the adapter was unloaded")
        if len(self._waiting) >= MAX_WAITING:
            raise BackendError(f"{MAX_WAITING} requests are waiting already")
        self._waiting.append(task)
        self._counts[0] += len(task.prompt)

    def _run(self) -> None:
        while self._obey():
            self._drop_cancelled()
            self._admit()
            if any(slot.task for slot in self._slots):
                self._step()

    def _obey(self) -> bool:
        """Carry out the commands that have come; wait for one if there is nothing else to do. False: end."""
        busy = bool(self._waiting) or any(slot.task for slot in self._slots)
        try:
            while (command := self._commands.get(block=not busy)) is not None:
                command()
                busy = True
        except queue.Empty:
            return True
        return False

    def _drop_cancelled(self) -> None:
        for slot in self._slots:
            if slot.task is not None and slot.task.cancelled.is_set():
                self._end(slot, Finish.ABORT)
        for task in [task for task in self._waiting if task.cancelled.is_set()]:
            self._waiting.remove(task)
            self._refuse(task)

    def _refuse(self, task: Task) -> None:
        """End a task that never had a slot."""
        task.sink(Piece("", finish=Finish.ABORT))
        task.sampler.close()

    def _admit(self) -> None:
        while self._waiting and (free := [slot for slot in self._slots if slot.task is None]):
            task = self._waiting.popleft()
            offers = [FreeSlot(slot.sequence, slot.group, slot.tokens, slot.used) for slot in free]
            chosen, saved = choose_slot(offers, task.group, task.prompt)
            slot = self._slots[chosen.sequence]
            assert self._context is not None, "work is only admitted while the model is loaded"
            task.done = saved if self._context.keep(slot.sequence, saved) else 0
            self._counts[2] += task.done
            slot.task, slot.group, slot.tokens = task, task.group, task.prompt[: task.done]
            self._clock += 1
            slot.used = self._clock

    def _step(self) -> None:
        working = sorted((slot for slot in self._slots if slot.task is not None), key=lambda slot: slot.used)
        groups = list(dict.fromkeys(slot.group for slot in working))
        group = next_group(groups, self._group, self._steps)
        self._steps = self._steps + 1 if group == self._group else 1
        self._group = group
        mine = [slot for slot in working if slot.group == group]
        try:
            self._select(group)
            self._prompt_step(mine)
            self._token_step(mine)
        except BackendError as error:
            self._fail([slot for slot in mine if slot.task is not None], error)
        except Exception as error:  # from a library: it costs these answers, not the thread that all others wait for
            log.exception("a step failed")
            failure = BackendError(f"An unexpected error while an answer was computed: {type(error).__name__}: {error}")
            self._fail([slot for slot in mine if slot.task is not None], failure)

    def _select(self, group: Group) -> None:
        if group == self._selected:
            return
        assert self._context is not None
        self._selected = _UNSURE  # until it is done: what fails halfway has to be selected again
        self._context.use_adapter(None if group is None else self._loras[group])
        self._selected = group

    def _prompt_step(self, slots: Iterable[_Slot]) -> None:
        """Compute the next chunk of the oldest prompt that is not complete."""
        for slot in slots:
            task = slot.task
            if task is None or task.done == len(task.prompt):
                continue
            chunk = task.prompt[task.done : task.done + CHUNK]
            last = task.done + len(chunk) == len(task.prompt)
            entries = [
                Entry(token, task.done + at, slot.sequence, last and at == len(chunk) - 1)
                for at, token in enumerate(chunk)
            ]
            assert self._context is not None
            self._context.decode(entries)
            task.done += len(chunk)
            slot.tokens.extend(chunk)
            if last:
                self._take(slot, task, len(chunk) - 1)
            return

    def _token_step(self, slots: Iterable[_Slot]) -> None:
        """Compute one token of every answer whose prompt is complete."""
        speaking = [(slot, slot.task) for slot in slots if slot.task is not None and slot.task.last >= 0]
        # llama.cpp computes sequences together only where their numbers follow each other; else it takes twice as long.
        speaking.sort(key=lambda pair: pair[0].sequence)
        if not speaking:
            return
        assert self._context is not None
        self._context.decode(
            [Entry(task.last, len(task.prompt) + task.generated - 1, slot.sequence, True) for slot, task in speaking]
        )
        for place, (slot, task) in enumerate(speaking):
            self._take(slot, task, place)

    def _take(self, slot: _Slot, task: Task, place: int) -> None:
        """Draw the next token from the logits at `place`, and hand out what it adds to the text."""
        assert self._context is not None and self._model is not None
        token = task.sampler.sample(self._context, place)
        task.generated, task.last = task.generated + 1, token
        self._counts[1] += 1
        logprobs: tuple[TokenLogprob, ...] = ()
        if task.job.top_logprobs is not None:
            logprobs = (logprob(self._context.logits(place), token, task.job.top_logprobs, self._model),)
        if self._model.is_end(token):
            task.sink(Piece("", 1, logprobs))
            self._end(slot, Finish.STOP)
            return
        task.sink(Piece(task.scanner.push(task.bytes.push(self._model.piece(token))), 1, logprobs))
        if task.scanner.hit:
            self._end(slot, Finish.STOP)
        elif task.generated >= task.limit:
            self._end(slot, Finish.LENGTH)

    def _end(self, slot: _Slot, finish: Finish) -> None:
        task, slot.task = slot.task, None
        assert task is not None
        rest = "" if task.scanner.hit else task.scanner.push(task.bytes.flush()) + task.scanner.flush()
        task.sink(Piece(rest, finish=finish))
        task.sampler.close()
        if self._retired:
            self._free_retired()

    def _fail(self, slots: Iterable[_Slot], error: BackendError) -> None:
        """The batch failed: its sequences are in no certain state, so they are forgotten."""
        assert self._context is not None
        for slot in slots:
            task, slot.task, slot.tokens = slot.task, None, []
            self._context.keep(slot.sequence, 0)
            if task is not None:
                task.sink(error)
                task.sampler.close()
