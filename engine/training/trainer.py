"""One training job's process tree, as the owner of the device sees it: `engine.device.contracts.Trainer`.

    ready ──run──► spawned ──words──► ended ──publish──► settled
              │        │ silent for three heartbeats, or an unknown word: TERM, grace, KILL
              │        │ cancelled: TERM (the child writes a checkpoint), grace, KILL
              └ an earlier attempt finished but was not published: nothing is started, the result stands

What its end means is in `outcome`; the files that it made are checked by the registry.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from engine.api_training import TrainProgress
from engine.config import Config
from engine.device.contracts import LiveAdapter, ProcessId, TrainerEnd
from engine.device.guarded import Command, Exit, Guarded, spawn
from engine.device.lock import DeviceLock
from engine.errors import DeviceBusyError, LeaseLostError, RuneError, StartInterruptedError, TrainingError
from engine.logs import tail
from engine.training.ending import Ending
from engine.training.jobs import Claimed, TrainingJobs
from engine.training.kill_switch import KillSwitch
from engine.training.outcome import Heard, Outcome, outcome_of
from engine.training.protocol import Answer, Checkpoint, End, Failure, Loading, Metrics, Progress, Shrunk, Word
from engine.training.protocol import parse as parse_word
from engine.training.publish import publish
from engine.training.spec import TrainSpec
from engine.training.workplace import Workplace
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Transaction
from registry.errors import DatabaseError, RegistryError
from registry.files import run_to_end
from registry.models import Adapter, NewAdapter, Source
from registry.registry import Registry

ROLE = "trainer"
MISSED_BEATS = 3
"""A trainer that is silent for so many heartbeats has hung."""
FIRST_WORD_S = 120.0
"""Until it says anything: an interpreter that starts on a machine that swaps."""
PROGRESS_S = 1.0
"""Steps that come faster are not all told: each is a row of the journal."""
EVALUATION_S = 0.2
"""The same for steps with a held-out loss, of which there are few."""
TAIL_BYTES = 2000
"""Of the log, in the reason of a job that failed without saying why."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_HOME", "RUNE_TRAIN_FAULT")
"""All that the child sees of our environment."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What trainers are made of."""

    config: Config
    home: Path
    jobs: TrainingJobs
    registry: Registry
    clock: Clock
    lock: Callable[[], DeviceLock | None]
    """The device's, held by the engine for as long as it owns the device."""
    expect: Callable[[float], object] = lambda seconds: None
    """Told how many seconds of training are left, as the child estimates."""
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "engine.training.qlora")
    """The child; it gets the path of its spec as the last argument."""


class JobTrainer:
    """Trains one claimed job.

    Args:
        spec: complete but for what an attempt changes.
        need_mib: estimate of the peak, of the recipe as it is in the spec.
        host_mib: estimate of what it takes of the machine's memory where the device is a GPU.
        kill_switch: measures the model while it is trained; None where the recipe has it off.
    """

    def __init__(
        self,
        parts: Parts,
        claimed: Claimed,
        spec: TrainSpec,
        need_mib: int,
        host_mib: int = 0,
        kill_switch: KillSwitch | None = None,
    ) -> None:
        self._parts = parts
        self._claimed = claimed
        self._spec = spec
        self._need_mib = need_mib
        self._host_mib = host_mib
        self._kill_switch = kill_switch
        self._place = Workplace.of_job(parts.home, claimed.job.id)
        self._child: Guarded | None = None
        self._heard = Heard()
        self._outcome: Outcome | None = None
        self._newest: TrainProgress | None = None
        self._last = claimed.job.progress
        self._told_at = -math.inf
        self._settled = False
        self._live: LiveAdapter | None = None

    @property
    def job_id(self) -> str:
        """Of the job."""
        return self._claimed.job.id

    @property
    def spec(self) -> TrainSpec:
        """What the child is asked."""
        return self._spec

    @property
    def need_mib(self) -> int:
        """Estimate of its peak."""
        return self._need_mib

    @property
    def host_mib(self) -> int:
        """Estimate of what it takes of the machine's memory beside a GPU's."""
        return self._host_mib

    @property
    def process(self) -> ProcessId | None:
        """Its guardian, while it lives."""
        return self._child.process if self._child is not None and not self._child.ended else None

    # --- the child's life ---

    async def recall(self) -> bool:
        """Whether an earlier attempt finished and only `publish` is left, for which the device is not needed."""
        earlier = await run_to_end(self._place.result)
        if earlier is not None:
            self._outcome = Outcome(Ending.SUCCEEDED, metrics=earlier)
        return earlier is not None

    async def run(self, epoch: int) -> TrainerEnd:
        """See `contracts.Trainer`. A second run after `retry_smaller` takes half as many sequences at once."""
        if self._outcome is not None:
            await self._shrink()
        if await self.recall():
            return TrainerEnd(True, "")
        try:
            return await self._attempt(epoch)
        finally:
            if self._kill_switch is not None:
                self._kill_switch.close()

    async def _attempt(self, epoch: int) -> TrainerEnd:
        try:
            self._child = await self._spawn(epoch)
        except (DeviceBusyError, StartInterruptedError) as error:  # what a crash left behind is being ended; or killed
            return self._ended(Outcome(Ending.CRASHED, str(error)))
        except (RuneError, OSError) as error:
            return self._ended(Outcome(Ending.FAILED, f"The trainer could not be started: {error}"))
        crash_point("training.after_spawn")
        outcome = await self._conclude(await self._until_ended(self._child))
        crash_point("training.after_end")
        return self._ended(outcome)

    def _ended(self, outcome: Outcome) -> TrainerEnd:
        self._outcome = outcome
        return outcome.end(can_shrink=self._spec.recipe.micro_batch > 1)

    async def _spawn(self, epoch: int) -> Guarded:
        self._heard = Heard()
        if self._kill_switch is not None:
            await self._kill_switch.open()
            look = self._kill_switch.spec(self._parts.config.model.context_tokens)
            self._spec = self._spec.model_copy(update={"look": look})
        await run_to_end(lambda: self._place.begin(self._spec))
        device = self._parts.config.device
        return await spawn(
            Command(
                role=ROLE,
                argv=(*self._parts.program, str(self._place.spec)),
                env=_environment(device.gpu, epoch),
                log=self._place.log,
                records=self._parts.home / "run" / "guardians",
                epoch=epoch,
                term_grace_s=device.trainer_grace_s,
                lock=self._parts.lock(),
                pipe_stdout=True,
            )
        )

    async def _until_ended(self, child: Guarded) -> Exit:
        try:
            await self._listen(child)
            return await child.wait()
        except asyncio.CancelledError:
            self._heard.asked = True
            ended = await self._stop(child)
            self._outcome = await self._conclude(ended)
            raise

    async def _stop(self, child: Guarded) -> Exit:
        """TERM, grace, KILL. Cancelled meanwhile: KILL, since whoever asked twice does not want to wait."""
        child.request_stop(self._parts.config.device.trainer_grace_s)
        try:
            return await child.wait()
        except asyncio.CancelledError:
            child.request_stop(0)
            await child.wait()
            raise

    async def _listen(self, child: Guarded) -> None:
        """Take in its words until it closes its output; stop it when they are not what they should be."""
        assert child.stdout is not None, "the trainer's output is piped"
        limit = max(FIRST_WORD_S, self._silence_s)
        while not self._heard.complaint:
            try:
                async with asyncio.timeout(limit):
                    line = await child.stdout.readline()
                if not line:
                    break
                await self._hear(parse_word(line))
            except TimeoutError:
                self._heard.complaint = f"The trainer said nothing for {limit:.0f} s: it hangs."
            except ValueError:  # the stream's own limit of a line
                self._heard.complaint = "The trainer wrote a line without an end."
            except RuneError as error:
                self._heard.complaint = str(error)
            limit = self._silence_s
        if self._heard.complaint:
            log.error("job %s: %s", self.job_id, self._heard.complaint)
            await self._stop(child)
        await self._tell()

    @property
    def _silence_s(self) -> float:
        return MISSED_BEATS * self._parts.config.device.heartbeat_s

    async def _hear(self, word: Word) -> None:
        match word:
            case Progress():
                await self._progress(word)
            case Answer():
                await self._look(word)
            case End(metrics=metrics):
                self._heard.metrics = metrics
            case Failure(reason=reason):
                self._heard.reason = reason
            case Shrunk(micro_batch=micro_batch, accumulation=accumulation):
                log.warning("job %s: memory ran out; %d x %d from now on", self.job_id, accumulation, micro_batch)
            case Loading(note=note):
                log.info("job %s: %s", self.job_id, note)
            case Checkpoint(step=step):
                log.debug("job %s: checkpoint of step %d", self.job_id, step)
            case _:
                return

    async def _progress(self, word: Progress) -> None:
        self._heard.steps = word.step
        self._parts.expect(word.eta_seconds)
        self._newest = self._last = word.of_job(self.job_id)
        wait = PROGRESS_S if word.held_out_loss is None else EVALUATION_S
        if self._parts.clock.monotonic() - self._told_at >= wait or word.step == word.steps:
            await self._tell()

    async def _look(self, answer: Answer) -> None:
        """Have the model judged once its last answer is there; tell the score, then let the child go on or end it."""
        if self._kill_switch is None:
            raise TrainingError("The trainer answers tasks, and has no kill switch.")
        judged = await self._kill_switch.take(answer)
        if judged is None:
            return
        log.info("job %s: %.2f solved after step %d", self.job_id, judged.score, judged.look.step)
        if warning := self._kill_switch.warning(judged):
            log.warning("job %s: %s", self.job_id, warning)
        if judged.look.step and self._last is not None:
            scores = {"score": judged.score, "baseline_score": judged.baseline_score}
            self._newest = self._last.model_copy(update=scores)
            await self._tell()
        self._kill_switch.rule(judged)

    async def _tell(self) -> None:
        """Store the newest step, once. That it cannot be stored is no reason to stop the training."""
        progress, self._newest = self._newest, None
        if progress is None:
            return
        self._told_at = self._parts.clock.monotonic()
        try:
            await self._parts.jobs.progress(self._claimed.claim, progress)
        except (DatabaseError, ValueError) as error:
            log.error("job %s: step %d is not recorded: %s", self.job_id, progress.step, error)

    # --- what its end means ---

    async def _conclude(self, ended: Exit) -> Outcome:
        outcome = outcome_of(ended, self._heard)
        if (metrics := outcome.metrics) is not None:
            await run_to_end(lambda: self._place.finish(metrics))
        if outcome.unexplained:
            last = await run_to_end(lambda: tail(self._place.log, TAIL_BYTES))
            outcome = replace(outcome, reason=f"{outcome.reason}; {self._place.log} ends: {last or 'empty'}")
        return outcome

    async def _shrink(self) -> None:
        half = max(1, self._spec.recipe.micro_batch // 2)
        self._spec = self._spec.model_copy(
            update={"recipe": self._spec.recipe.model_copy(update={"micro_batch": half})}
        )
        await self._parts.jobs.shrink(self._claimed.claim, half)

    # --- the end of the job ---

    async def publish(self) -> LiveAdapter | None:
        """See `contracts.Trainer`. Where `run` never was, the job is left to `settle`."""
        if self._outcome is None or self._settled:
            return self._live
        if self._outcome.metrics is not None and self._outcome.ending is Ending.SUCCEEDED:
            await self._publish(self._outcome.metrics)
        else:
            await self.settle(self._outcome.ending, self._outcome.reason)
        return self._live

    async def close(self, ending: Ending, reason: str) -> None:
        """End the job if nothing has ended it: by what `run` came to, or where it never was, as the caller says."""
        if self._outcome is None:
            await self.settle(ending, reason)
        else:
            await self.publish()

    async def settle(self, ending: Ending, reason: str) -> None:
        """End the job without an adapter; harmless where it has been ended."""
        if self._settled:
            return
        self._settled = True
        try:
            await self._parts.jobs.settle(self._claimed.claim, ending, reason, None)
        except LeaseLostError:
            log.error("job %s was taken from this engine while it ran; its end is dropped", self.job_id)

    async def _publish(self, metrics: Metrics) -> None:
        crash_point("training.before_publish")
        request = self._claimed.job.request
        new = NewAdapter(
            id=self._claimed.job.adapter_id,
            task_type=request.task_type,
            source=Source.QLORA,
            base_model_id=self._spec.base_model_id,
            session_id=request.sessions[0] if len(request.sessions) == 1 else None,
            parent_ids=(request.warm_start,) if request.warm_start else (),
        )

        def end_job(tx: Transaction, _adapter: Adapter, no_gguf: str) -> None:
            scores = self._kill_switch.metrics() if self._kill_switch else {}
            values: dict[str, JsonValue] = {**_finite(metrics), **scores, **({"no_gguf": no_gguf} if no_gguf else {})}
            self._parts.jobs.settle_in(tx, self._claimed.claim, Ending.SUCCEEDED, "", values)

        try:
            loadable = await publish(self._parts.registry, self._parts.config, self._place, new, end_job)
        except LeaseLostError:
            self._settled = True
            log.error("job %s was taken from this engine while it ran; its adapter is dropped", self.job_id)
        except (RegistryError, OSError) as error:
            log.error("job %s: its adapter is not published: %s", self.job_id, error)
            await self.settle(Ending.FAILED, f"The adapter could not be published: {error}")
        else:
            self._settled = True
            self._live = LiveAdapter(loadable.adapter.digest, str(loadable.directory), loadable.gguf_sha256)
            await run_to_end(self._place.remove)


def _finite(metrics: Metrics) -> Mapping[str, JsonValue]:
    values = metrics.model_dump(mode="json")
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _environment(gpu: str, epoch: int) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    own = {
        "PYTHONPATH": str(Path(__file__).parents[2]),  # from a checkout the packages are on our path and nowhere else
        "PYTHONUNBUFFERED": "1",
        "RUNE_EPOCH": str(epoch),
        "HF_HUB_OFFLINE": "1",  # a model comes from this disk: nothing is looked up elsewhere
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        # Of the trainer alone: in a model server it would make sleep free nothing.
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    return inherited | own | ({"CUDA_VISIBLE_DEVICES": gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if gpu else {})
