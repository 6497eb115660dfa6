"""Does what the scheduler decided, one effect at a time, and says what came of it. Decides nothing.

Whatever fails here becomes an observation with a plain sentence; only a bug becomes an exception. Each effect may be
cancelled at any moment: the state it belongs to was left, and the effects of the next one clean up.
"""

from __future__ import annotations

import asyncio
import logging

from engine.api_device import BackendName
from engine.device.contracts import Trainer, TrainerEnd
from engine.device.messages import (
    Drain,
    Drained,
    Effect,
    Faulted,
    NotProven,
    Observation,
    ProveMemory,
    Proven,
    Reclaim,
    Reclaimed,
    Reconcile,
    Reconciled,
    RunTrainer,
    SleepServer,
    StartServer,
    Stopped,
    StopServer,
    TrainerEnded,
    VerifyServer,
    WakeServer,
)
from engine.device.server_hands import FAILURES, Parts, ServerHands
from engine.device.states import FaultKind
from engine.errors import DeviceBusyError, DeviceLostError
from registry.crash import crash_point

SPAWN_POLL_S = 0.02
"""Between two looks whether the trainer has been spawned; nothing hangs on it, its guardian has written it down."""

log = logging.getLogger(__name__)


class Hands:
    """Carries out effects."""

    def __init__(self, parts: Parts, backend: BackendName) -> None:
        self._parts = parts
        self._runs: dict[str, asyncio.Task[TrainerEnd]] = {}
        self.server = ServerHands(parts)
        self.backend = backend
        """That serves, or will; kept up to date by the owner."""
        self.settled: set[str] = set()
        """Jobs whose `publish` was called."""

    async def perform(self, effect: Effect, step: int) -> Observation:
        """Carry out an effect of that step.

        Raises:
            Exception: a bug.
        """
        try:
            return await self._perform(effect, step)
        except DeviceLostError as error:
            return Faulted(step, FaultKind.LOST, str(error))

    async def _perform(self, effect: Effect, step: int) -> Observation:
        match effect:
            case Reconcile():
                return await self._reconcile(step)
            case StartServer():
                return await self.server.start(effect, step)
            case Drain(limit_s):
                return Drained(step, await self._parts.admission.drain(limit_s))
            case SleepServer():
                return await self.server.sleep(step)
            case ProveMemory():
                return await self._prove(effect, step)
            case RunTrainer():
                return await self._run_trainer(effect)
            case Reclaim():
                return await self._reclaim(effect, step)
            case WakeServer(settle_s):
                return await self.server.wake(settle_s, step)
            case VerifyServer():
                return await self.server.verify(step)
            case StopServer():
                await self.server.stop()
                return Stopped(step)
            case _:
                raise AssertionError(f"{effect} is the owner's to do")

    # --- the device ---

    async def _reconcile(self, step: int) -> Observation:
        ground, settle_s = self._parts.ground, self._parts.settings.settle_s
        await self.end_everything()
        try:
            await ground.take()
        except DeviceBusyError as error:
            return Faulted(step, FaultKind.HELD, str(error))
        if alive := await ground.sweep():
            pids = ", ".join(str(process.pid) for process in alive)
            return Faulted(step, FaultKind.STUCK, f"Processes of an earlier engine cannot be ended: pid {pids}.")
        if not ground.exact:
            self._parts.levels.baseline = (await ground.sample()).free_mib
            return Reconciled(step)
        proof = await ground.prove(0, margin_mib=0, settle_s=settle_s, borrowed=self._borrowed)
        if proof.foreign:
            return Faulted(step, FaultKind.FOREIGN, proof.reason)
        self._parts.levels.baseline = proof.free_mib
        return Reconciled(step)

    @property
    def _borrowed(self) -> bool:
        """An Ollama server is not ours and uses the GPU too: with it the device is shared by nature."""
        return self.backend is BackendName.OLLAMA

    async def end_everything(self) -> None:
        """End every tree of ours; returns when none is left."""
        for run in self._runs.values():
            run.cancel()
        if self._runs:
            await asyncio.wait(list(self._runs.values()))
        await self.server.stop()

    # --- the trainer ---

    async def _prove(self, effect: ProveMemory, step: int) -> Observation:
        ground, settings = self._parts.ground, self._parts.settings
        host_mib = self._parts.trainers[effect.job_id].host_mib
        host = await ground.prove_host(host_mib, margin_mib=settings.margin_mib)
        if not host.proven:  # a sleeping server may hold its weights there: it is stopped then, and this tried again
            return NotProven(step, f"The trainer does not fit in the machine's memory. {host.reason}")
        proof = await ground.prove(
            effect.need_mib,
            margin_mib=settings.margin_mib,
            settle_s=settings.settle_s,
            ours=self.server.ours(),
            borrowed=self._borrowed,
        )
        if not proof.proven:
            return NotProven(step, proof.reason, foreign=bool(proof.foreign))
        crash_point("device.proof_done")
        return Proven(step)

    async def _run_trainer(self, effect: RunTrainer) -> Observation:
        trainer = self._parts.trainers[effect.job_id]
        async with asyncio.TaskGroup() as group:
            run = group.create_task(_run(trainer, effect.epoch), name=f"trainer {effect.job_id}")
            self._runs[effect.job_id] = run
            watch = group.create_task(self._until_spawned(trainer))
            try:
                await asyncio.wait([run])
            finally:
                watch.cancel()
                del self._runs[effect.job_id]
        crash_point("device.trainer_finished")
        end = TrainerEnd(False, "it was stopped") if run.cancelled() else run.result()
        return TrainerEnded(effect.job_id, end)

    async def _until_spawned(self, trainer: Trainer) -> None:
        while trainer.process is None:  # noqa: ASYNC110 # its spawn is the trainer's own business and tells nobody
            await asyncio.sleep(SPAWN_POLL_S)
        crash_point("device.trainer_spawned")
        self._parts.spawned()

    def stop_trainer(self, job_id: str) -> None:
        """Ask a trainer to write a checkpoint and end; its end is what `RunTrainer` says."""
        run = self._runs.get(job_id)
        if run is not None:
            run.cancel()

    async def _reclaim(self, effect: Reclaim, step: int) -> Observation:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._memory_back(step))
            failure = await self.settle(effect.job_id) if effect.settle else ""
        seen = looking.result()
        if isinstance(seen, Faulted) or not failure:
            return seen
        return Reclaimed(step, seen.memory_back, seen.reason or failure, seen.foreign, published=False)

    async def _memory_back(self, step: int) -> Reclaimed | Faulted:
        """Enough for the server's wake, and nobody on the device but us."""
        need = self._parts.levels.wake_need if self.server.current is not None else 0
        settle_s = self._parts.settings.settle_s
        ours = self.server.ours()
        try:
            proof = await self._parts.ground.prove(
                need, margin_mib=0, settle_s=settle_s, ours=ours, borrowed=self._borrowed
            )
        except DeviceLostError as error:
            return Faulted(step, FaultKind.LOST, str(error))
        back = proof.proven or proof.free_mib >= need
        reason = "" if back and not proof.foreign else proof.reason
        return Reclaimed(step, back, reason, foreign=bool(proof.foreign))

    async def settle(self, job_id: str) -> str:
        """Publish or discard what the job made, once; gives what went wrong."""
        if job_id in self.settled:
            return ""
        trainer = self._parts.trainers[job_id]
        self.settled.add(job_id)
        try:
            adapter = await trainer.publish()
        except FAILURES as error:
            log.error("what job %s made could not be published: %s", job_id, error)
            return f"What it made could not be published: {error}"
        if adapter is not None:
            self._parts.live.use(adapter)
        return ""


async def _run(trainer: Trainer, epoch: int) -> TrainerEnd:
    try:
        return await trainer.run(epoch)
    except FAILURES as error:
        return TrainerEnd(False, str(error))
