"""The device's owner: one mailbox, one loop, no lock. It alone changes who has the device.

    wishes (requests, jobs, the user) ─┐                    ┌─► journal: the row, before anything is done
    observations (effects' answers) ───┼─► mailbox ─► decide ┼─► admission: open, closed
    timers ────────────────────────────┘      ▲             └─► effects: tasks that post an observation back
                                              └───────────────────────────────┘

What others read (`status`) is a picture; what they want is a message. Effects of a state that was left are cancelled
before those of the next one begin, except the trainer, which ends by itself or because it is told to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from engine.api_device import BackendName, BackendSwitched, DeviceState, DeviceStatus
from engine.device import scheduler
from engine.device.admission import Admission, Lease
from engine.device.contracts import LiveAdapter, MemorySample, Server, Trainer, TrainerEnd
from engine.device.ground import Ground
from engine.device.hands import Hands
from engine.device.journal import DeviceJournal
from engine.device.ledger import Facts, Ledger
from engine.device.live import LiveAdapters
from engine.device.loading import AdapterLoader
from engine.device.messages import (
    AnswerJob,
    AnswerSwitch,
    Effect,
    Expired,
    Faulted,
    Look,
    LookAround,
    Message,
    OffWanted,
    RefuseWaiting,
    RetryWanted,
    RunTrainer,
    ServerDied,
    ServeWanted,
    StopTrainer,
    SwitchWanted,
    Timer,
    TrainCancelled,
    TrainWanted,
)
from engine.device.server_hands import Parts, oracle_sha
from engine.device.setting import Setting, policy
from engine.device.states import FaultKind, Job, Policy, Snapshot
from engine.device.transitions import Decision, reconcile
from engine.device.wishes import STOPS
from engine.errors import BackendUnavailableError, DeviceBusyError, DeviceLostError, RuneError
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Database
from registry.journal import Recorder

ADMITTING = frozenset({DeviceState.SERVING, DeviceState.DRAINING})
"""Where requests may be in flight; entering any other state ends them."""

log = logging.getLogger(__name__)


class Device:
    """One device and everyone who may use it. `run` is its life; the rest may be called from any task of its loop."""

    def __init__(self, setting: Setting, ground: Ground, db: Database, recorder: Recorder, clock: Clock) -> None:
        """Touches nothing yet."""
        self._setting = setting
        self._clock = clock
        self._policy = policy(setting)
        self._admission = Admission(lambda: self._post(ServeWanted()), self._busy)
        live = LiveAdapters(setting.max_adapters)
        self._parts = Parts(
            ground, setting.servers, self._admission, live, setting.device, self._watch, self._trainer_spawned
        )
        self._hands = Hands(self._parts, setting.backend)
        self._loader = AdapterLoader(self._parts, self._hands.server)
        journal = DeviceJournal(db, recorder, clock, ground.device_id)
        self._ledger = Ledger(journal, clock, (ground.device_id, ground.boot_id), setting.model)
        self._snapshot = Snapshot(DeviceState.RECONCILE, "The engine starts.", setting.backend)
        self._mailbox: asyncio.Queue[Message] = asyncio.Queue()
        self._group: asyncio.TaskGroup | None = None
        self._ended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._effect: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._jobs: dict[str, asyncio.Future[TrainerEnd]] = {}
        self._switch: asyncio.Future[AnswerSwitch] | None = None
        self._changed = asyncio.Event()
        self._memory: MemorySample | None = None
        self._training_left_s: float | None = None
        self._serving_since = 0.0

    # --- what others may know ---

    @property
    def snapshot(self) -> Snapshot:
        """As last decided. To inform: who decides by it outside the loop races with the loop."""
        return self._snapshot

    def status(self) -> DeviceStatus:
        """Who has the device, why, and until when."""
        return self._ledger.status(self._snapshot, self._facts(), self._policy)

    async def until(self, test: Callable[[Snapshot], bool]) -> Snapshot:
        """Return the first snapshot, from the present one on, that passes the test."""
        while not test(self._snapshot):
            await self._changed.wait()
        return self._snapshot

    # --- what others may want ---

    @asynccontextmanager
    async def admit(self, *, wait: bool = True) -> AsyncGenerator[Lease]:
        """The right to talk to the model server for the length of the block; starts one if there is none.

        Whatever is awaited of the server goes through `Lease.guard`.

        Args:
            wait: until the model serves; False: fail at once where it does not.

        Raises:
            DeviceBusyError: not now; says who has the device and until when.
            RuneError: the device cannot be used; says why.
        """
        lease = await self._admission.acquire(wait=wait)
        try:
            yield lease
        finally:
            self._admission.release(lease)

    async def ensure_adapter(self, adapter: LiveAdapter, lease: Lease) -> None:
        """Return once the server holds the adapter; it then does as long as the lease lasts.

        Raises:
            AdapterUnsupportedError, ProviderError
            RequestAbortedError: the device was handed over meanwhile.
        """
        await self._loader.ensure(adapter, lease)

    async def use_backend(self, backend: BackendName) -> BackendSwitched:
        """Serve with another backend; returns once it serves, or once the old one does again.

        Raises:
            BackendUnavailableError: there is no such backend here.
            DeviceBusyError: another switch is under way.
        """
        if backend not in self._setting.servers:
            raise BackendUnavailableError(f"There is no backend {backend} here.")
        if self._switch is not None or self._ended:
            raise DeviceBusyError("A switch of the backend is under way, or the engine stops.")
        started = self._clock.monotonic()
        self._switch = asyncio.get_running_loop().create_future()
        self._post(SwitchWanted(backend))
        try:
            answer = await self._switch
        finally:
            self._switch = None
        seconds = max(0.0, self._clock.monotonic() - started)
        return BackendSwitched(backend=answer.backend, switched=answer.switched, reason=answer.reason, seconds=seconds)

    async def train(self, trainer: Trainer) -> TrainerEnd:
        """Hand the device to a trainer when its turn comes; returns once the model serves again, or cannot.

        Its `publish` is called whatever happens, except when the engine stops before it began.
        """
        if self._ended:
            return TrainerEnd(False, STOPS)
        assert trainer.job_id not in self._jobs, f"job {trainer.job_id} has the device or waits for it already"
        future: asyncio.Future[TrainerEnd] = asyncio.get_running_loop().create_future()
        self._jobs[trainer.job_id] = future
        self._parts.trainers[trainer.job_id] = trainer
        self._hands.settled.discard(trainer.job_id)
        self._post(TrainWanted(Job(trainer.job_id, trainer.need_mib)))
        try:
            end = await future
        except asyncio.CancelledError:
            self._post(TrainCancelled(trainer.job_id))
            raise
        if not self._snapshot.off and (failure := await self._hands.settle(trainer.job_id)):
            log.error("job %s: %s", trainer.job_id, failure)
        self._parts.trainers.pop(trainer.job_id, None)
        return end

    def cancel_training(self, job_id: str) -> None:
        """End a job that has the device, or take it from the queue; one that is not here is left alone."""
        self._post(TrainCancelled(job_id))

    def expect_training(self, seconds: float) -> None:
        """The trainer's own estimate of what is left, which the ETA then counts with."""
        self._training_left_s = seconds

    def retry(self) -> None:
        """Somebody has looked after the fault: look at the device again, now."""
        self._post(RetryWanted())

    # --- the loop ---

    async def run(self) -> None:
        """Own the device until `close`, or until this task is cancelled. Nothing of ours is left then."""
        try:
            epoch, distrusted = await self._ledger.open()
            async with asyncio.TaskGroup() as group:
                self._group = group
                self._begin(self._loader.run())
                first = replace(self._snapshot, epoch=epoch + 1, distrusted=distrusted)
                await self._apply(reconcile(first, self._policy, "Looks what an earlier engine left behind."))
                while not self._is_off():
                    message = await self._mailbox.get()
                    await self._apply(scheduler.decide(self._snapshot, message, self._learned()))
                for task in self._tasks:
                    task.cancel()
        finally:
            self._group, self._ended = None, True
            self._refuse_all()
            self._tell_changed()
            await self._hands.end_everything()
            self._parts.ground.release()

    async def close(self) -> None:
        """Let the engine stop: a trainer writes a checkpoint, the server ends. Returns once `run` may be awaited."""
        self._post(OffWanted())
        await self.until(lambda _: self._is_off() or self._ended)

    def _is_off(self) -> bool:
        return self._snapshot.off and self._snapshot.state in (DeviceState.COLD, DeviceState.FAULT)

    def _post(self, message: Message) -> None:
        self._mailbox.put_nowait(message)

    def _learned(self) -> Policy:
        guess = self._policy.wake_expected_s
        return replace(self._policy, wake_expected_s=self._ledger.wake_expected_s(self._snapshot.backend, guess))

    async def _apply(self, decision: Decision) -> None:
        before, after = self._snapshot, decision.snapshot
        entered = after.step != before.step
        if after != before:
            # Intent first, so that a crash in the midst of the effects finds it; see `journal`.
            await self._ledger.write(before if before.step else None, after, self._facts(), self._policy)
        self._snapshot = after
        if entered:
            self._enter(after)
        for effect in decision.effects:
            self._do(effect, after.step)
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _enter(self, snapshot: Snapshot) -> None:
        self._hands.backend = snapshot.backend
        if snapshot.state is DeviceState.DRAINING:
            crash_point("device.after_intent_draining")
        if self._timer is not None:
            self._timer.cancel()
        self._training_left_s = None
        server = self._hands.server.current
        if snapshot.state is DeviceState.SERVING and server is not None:
            self._serving_since = self._clock.monotonic()
            self._admission.open(server)
            return
        self._admission.close()
        if snapshot.state is DeviceState.DRAINING:
            crash_point("device.admission_closed")
        if snapshot.state not in ADMITTING:
            self._admission.abort()

    # --- effects ---

    def _do(self, effect: Effect, step: int) -> None:
        match effect:
            case Look():
                self._post(LookAround())
            case Timer(seconds):
                self._set_timer(seconds, step)
            case StopTrainer(job_id):
                self._hands.stop_trainer(job_id)
            case AnswerJob(job_id, end):
                self._answer_job(job_id, end)
            case AnswerSwitch():
                if self._switch is not None and not self._switch.done():
                    self._switch.set_result(effect)
            case RefuseWaiting():
                self._admission.refuse(self._refusal)
            case RunTrainer():
                self._begin(self._perform(effect, step, None))
            case _:
                self._effect = self._begin(self._perform(effect, step, self._effect))

    def _set_timer(self, seconds: float, step: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, lambda: self._post(Expired(step)))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _perform(self, effect: Effect, step: int, previous: asyncio.Task[None] | None) -> None:
        if previous is not None and not previous.done():
            previous.cancel()
            await asyncio.wait([previous])
        try:
            observation = await self._hands.perform(effect, step)
        except Exception:  # a bug ends this effect; the device says that it cannot be used and the engine goes on
            log.exception("%s failed unexpectedly", type(effect).__name__)
            reason = f"An unexpected error in {type(effect).__name__}; the log in RUNE_HOME/logs has the details."
            observation = Faulted(self._snapshot.step, FaultKind.STUCK, reason)
        self._post(observation)
        try:
            self._memory = await self._parts.ground.sample()
        except DeviceLostError as error:
            log.error("%s", error)

    def _watch(self, server: Server, epoch: int) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        self._watcher = self._begin(self._watch_server(server, epoch))

    async def _watch_server(self, server: Server, epoch: int) -> None:
        reason = await server.died()
        served = self._clock.monotonic() - self._serving_since
        self._post(ServerDied(epoch, reason, served if self._snapshot.state in ADMITTING else 0.0))

    def _trainer_spawned(self) -> None:
        self._begin(self._ledger.write(self._snapshot, self._snapshot, self._facts(), self._policy))

    # --- answers ---

    def _answer_job(self, job_id: str, end: TrainerEnd) -> None:
        future = self._jobs.pop(job_id, None)
        if future is not None and not future.done():
            future.set_result(end)
        else:  # whoever waited has gone
            self._parts.trainers.pop(job_id, None)

    def _refuse_all(self) -> None:
        self._admission.close()
        self._admission.abort()
        self._admission.refuse(self._refusal)
        for job_id in list(self._jobs):
            self._answer_job(job_id, TrainerEnd(False, STOPS))
        if self._switch is not None and not self._switch.done():
            self._switch.set_result(AnswerSwitch(self._snapshot.backend, False, STOPS))

    def _refusal(self) -> RuneError:
        """Why a request that waits is not going to be served."""
        snapshot, failure = self._snapshot, self._hands.server.failure
        match snapshot.fault:
            case FaultKind.STARTS if failure is not None:
                return type(failure)(str(failure))
            case FaultKind.LOST:
                return DeviceLostError(snapshot.reason)
            case _:
                return DeviceBusyError(STOPS if snapshot.off or self._ended else snapshot.reason)

    def _busy(self) -> RuneError:
        """Why a request that does not want to wait is not served now."""
        status = self.status()
        if status.state is DeviceState.FAULT:
            return self._refusal()
        eta = "" if status.eta_seconds is None else f" Requests are admitted in about {status.eta_seconds:.0f} s."
        return DeviceBusyError(f"The device is {status.state}: {status.reason}{eta}")

    def _facts(self) -> Facts:
        job, server = self._snapshot.job, self._hands.server.current
        trainer = self._parts.trainers.get(job.id) if job else None
        return Facts(
            server=server.process if server else None,
            trainer=trainer.process if trainer else None,
            in_flight=self._admission.in_flight,
            waiting=self._admission.waiting,
            adapters=tuple(adapter.name for adapter in self._parts.live.held),
            oracle_sha=oracle_sha(self._parts.oracles.get(self._snapshot.backend)),
            baseline_mib=self._parts.levels.baseline,
            memory=self._memory,
            training_left_s=self._training_left_s,
        )
