"""Takes training jobs from the queue, one at a time, and has each of them the device when its turn comes.

    queued ──claim──► preparing ──► waiting for the device, training, publishing ──► settled
                          │                  │
                          └ stop: ended here └ stop: the device's owner ends the trainer

Preparing needs no device: the base model is unpacked, the data is looked at, the disk is measured. What an earlier
attempt finished is published without the device. Whatever happens, the job's row is settled once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from engine.device.contracts import Trainer, TrainerEnd
from engine.device.wishes import STOPS
from engine.errors import LeaseLostError, RuneError
from engine.training.ending import Ending
from engine.training.jobs import Claimed, TrainingJobs
from engine.training.trainer import JobTrainer
from registry.errors import RegistryError

UNEXPECTED = "An unexpected error; the log in RUNE_HOME/logs has the details."

log = logging.getLogger(__name__)


class Seat(Protocol):
    """What the worker asks of the device's owner."""

    async def train(self, trainer: Trainer) -> TrainerEnd:
        """Hand the device to a trainer when its turn comes; returns once it is handed back."""
        ...

    def cancel_training(self, job_id: str) -> None:
        """End a job that has the device, or waits for it; one that is not there is left alone."""
        ...


Prepare = Callable[[Claimed], Awaitable[JobTrainer]]


class TrainingWorker:
    """Owner of the training job that runs."""

    def __init__(self, jobs: TrainingJobs, prepare: Prepare, seat: Seat) -> None:
        self._jobs = jobs
        self._prepare = prepare
        self._seat = seat
        self._wake = asyncio.Event()
        self._job_id = ""
        self._preparing: asyncio.Task[None] | None = None
        self._unwanted = False

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    def stop(self, job_id: str) -> None:
        """Stop the job if it runs; its row must say already what is wanted."""
        if job_id != self._job_id:
            return
        self._unwanted = True
        if self._preparing is not None:
            self._preparing.cancel()
        else:
            self._seat.cancel_training(job_id)

    async def run(self) -> None:
        """Work until cancelled, or until the device's owner says that the engine stops."""
        while True:
            claimed = await self._next()
            self._job_id, self._unwanted = claimed.job.id, False
            try:
                if await self._work(claimed) == STOPS:
                    return
            finally:
                self._job_id = ""

    async def _next(self) -> Claimed:
        while True:
            self._wake.clear()  # before the look: what is queued during it must wake us again
            claimed = await self._jobs.claim()
            if claimed is not None:
                return claimed
            await self._wake.wait()

    async def _work(self, claimed: Claimed) -> str:
        """Work on one job to its end; gives the reason of that end."""
        try:
            trainer = await self._ready(claimed)
            if trainer is None:
                return ""
            if await trainer.recall():
                await trainer.publish()
                return ""
            return await self._train(claimed, trainer)
        except Exception:  # the job's work ends here; the engine goes on with the others
            log.exception("training job %s failed unexpectedly", claimed.job.id)
            await self._settle(claimed, Ending.FAILED, UNEXPECTED)
            return UNEXPECTED

    async def _ready(self, claimed: Claimed) -> JobTrainer | None:
        """The trainer; None where the job was settled instead."""
        trainers: list[JobTrainer] = []

        async def prepare() -> None:
            try:
                trainers.append(await self._prepare(claimed))
            except (RuneError, RegistryError, OSError) as error:
                log.warning("training job %s cannot be prepared: %s", claimed.job.id, error)
                await self._settle(claimed, Ending.FAILED, str(error))

        try:
            async with asyncio.TaskGroup() as group:  # in a task of its own, so that `stop` cancels it and not us
                self._preparing = group.create_task(prepare(), name=f"preparing {claimed.job.id}")
        except asyncio.CancelledError:  # the engine stops
            await self._settle(claimed, Ending.STOPPED, "the engine stopped")
            raise
        finally:
            self._preparing = None
        # Also what was asked for in the very moment of the claim, when nothing of ours could hear it.
        if trainers and not self._unwanted and not await self._jobs.is_unwanted(claimed.job.id):
            return trainers[0]
        if trainers or self._unwanted:
            await self._settle(claimed, Ending.STOPPED, "stopped before its first step")
        return None

    async def _train(self, claimed: Claimed, trainer: JobTrainer) -> str:
        if self._unwanted:  # nothing is awaited from here until the owner has the job: `stop` reaches it there
            await self._settle(claimed, Ending.STOPPED, "stopped before its first step")
            return ""
        end = await self._seat.train(trainer)
        asked = self._unwanted or end.reason == STOPS
        await trainer.close(Ending.STOPPED if asked else Ending.FAILED, end.reason)
        if not end.succeeded:
            log.warning("training job %s: %s", claimed.job.id, end.reason)
        return end.reason

    async def _settle(self, claimed: Claimed, ending: Ending, reason: str) -> None:
        try:
            await self._jobs.settle(claimed.claim, ending, reason, None)
        except LeaseLostError:
            log.info("training job %s had ended already", claimed.job.id)
