"""What the keys of the device and of the training queue do: opens the dialogs, sends what the user agreed to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, Protocol

from textual.app import App

from engine.api_device import BackendName
from engine.api_training import TrainJob, TrainRequest
from rune_tui.action_rules import moved_to
from rune_tui.attach import DevicePort
from rune_tui.device_state import Curve, DeviceRead
from rune_tui.plain_text import plain_notify
from rune_tui.screens.backend import BackendScreen
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.screens.reader import ReaderScreen
from rune_tui.screens.train import TrainScreen
from rune_tui.state import Item, State
from rune_tui.widgets.device_rows import device_details
from rune_tui.widgets.job_rows import job_details
from rune_tui.widgets.row import Row


class Host(Protocol):
    """What the workshop needs of the app around it."""

    @property
    def state(self) -> State:
        """What is known of the engine now."""
        ...

    def call(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a call to the engine beside the screen; its failure becomes one plain sentence."""
        ...

    def take(self, item: Item) -> None:
        """Something new is known."""
        ...


class Workshop:
    """The handlers of the actions of `rune_tui.actions` that concern device and training."""

    def __init__(self, app: App[None], host: Host, client: DevicePort, now: Callable[[], datetime]) -> None:
        self._app = app
        self._host = host
        self._client = client
        self._now = now

    @property
    def handlers(self) -> dict[str, Callable[[], object]]:
        """Action id -> what it does."""
        client = self._client
        return {
            "backend": self._choose_backend,
            "device": self._show_device,
            "retry-device": lambda: self._host.call(self._retry_device()),
            "train": self._train,
            "cancel-job": self._cancel,
            "pause-job": partial(self._send, "Pausing", client.pause_job),
            "resume-job": partial(self._send, "Resuming", client.resume_job),
            "retry-job": partial(self._send, "Starting over", client.retry_job),
            "job-up": partial(self._move, -1),
            "job-down": partial(self._move, 1),
            "job-details": self._show_job,
        }

    def _job(self) -> TrainJob:
        job = self._host.state.workshop.job
        assert job is not None, "every action on a job refuses where none is selected"
        return job

    # --- device ---

    def _choose_backend(self) -> None:
        def use(name: BackendName | None) -> None:
            if name is not None:
                plain_notify(self._app, f"Switching to {name}; the device line shows how far it is.")
                self._host.call(self._use(name))

        self._app.push_screen(BackendScreen(self._host.state.workshop, self._client.backends), use)

    async def _use(self, name: BackendName) -> None:
        done = await self._client.use_backend(name)
        if done.switched:
            plain_notify(self._app, f"{done.backend} serves, after {done.seconds:.1f} s.")
        else:
            plain_notify(self._app, f"{done.backend} still serves: {done.reason}", "warning")

    async def _retry_device(self) -> None:
        self._host.take(DeviceRead(await self._client.retry_device()))

    def _show_device(self) -> None:
        async def load() -> Sequence[Row]:
            status = await self._client.device()
            self._host.take(DeviceRead(status))
            fresh = replace(self._host.state.workshop, device=status, device_heard=self._now())
            return device_details(fresh, self._now())

        self._read("Device", load)

    # --- training ---

    def _train(self) -> None:
        def queue(request: TrainRequest | None) -> None:
            if request is not None:
                self._host.call(self._queue(request))

        self._app.push_screen(TrainScreen(self._client.preview_training), queue)

    async def _queue(self, request: TrainRequest) -> None:
        job = await self._client.train(request)
        plain_notify(self._app, f"Queued the training of {job.adapter_id}.")

    def _cancel(self) -> None:
        job = self._job()

        def stop(yes: bool | None) -> None:
            if yes:
                self._host.call(self._told("Cancelling", self._client.cancel_job(job.id)))

        question = f"Stop the training of {job.adapter_id}? It can go on later from its last checkpoint."
        self._app.push_screen(ConfirmScreen(question, "Stop it", "Let it run"), stop)

    def _send(self, doing: str, request: Callable[[str], Awaitable[TrainJob]]) -> None:
        self._host.call(self._told(doing, request(self._job().id)))

    def _move(self, step: int) -> None:
        job = self._job()
        place = moved_to(self._host.state, job, step)
        assert place is not None, "the action refuses where there is no such place"
        self._host.call(self._told("Moved", self._client.move_job(job.id, place)))

    async def _told(self, doing: str, request: Awaitable[TrainJob]) -> None:
        # The answer is not drawn: its event brings it, and the places of the others with it.
        job = await request
        plain_notify(self._app, f"{doing} {job.adapter_id}.")

    def _show_job(self) -> None:
        job_id = self._job().id

        async def load() -> Sequence[Row]:
            job = await self._client.job(job_id)
            curve = self._host.state.workshop.curves.get(job_id, Curve())
            return job_details(job, curve, self._app.size.width)

        self._read(f"Training job {job_id}", load)

    def _read(self, title: str, load: Callable[[], Awaitable[Sequence[Row]]]) -> None:
        self._app.push_screen(ReaderScreen(title, load))
