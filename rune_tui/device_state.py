"""What the terminal knows of the device and of its training jobs: folded from snapshots and events. Knows no Textual.

Events of the subjects `device/<id>` (a whole `DeviceStatus`), `training/<job>` (a whole `TrainProgress`, or fields of
the `TrainJob` that changed) and `job/<job>` (likewise) come here. Whatever cannot be read whole makes its subject
`stale`, and whoever owns the connection reads it again. An engine that has no such route says so once: `served` is
then False, and the panes say it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import ValidationError

from engine.api_device import BackendInfo, BackendName, DeviceState, DeviceStatus
from engine.api_models import FINAL_STATES, Event, RunState
from engine.api_training import TrainJob, TrainProgress
from rune_tui.draft import Draft

MAX_LOSSES = 512
"""Points of a loss curve, an even number: more than a terminal has columns; at so many, neighbours are averaged."""

MAX_JOBS = 500
"""Jobs that a terminal shows; `rune-tui jobs list` has the others."""

TRAIN_JOB = "train"
"""Kind of the jobs that are shown here; sessions have a pane of their own."""

_STEP_FIELDS = frozenset({"step", "loss"})
"""What tells the event of a step from one of the job."""

READY_STATES = frozenset({DeviceState.SERVING, DeviceState.COLD, DeviceState.FAULT})
"""States that last; the others are on their way to one of them."""


@dataclass(frozen=True)
class DeviceRead:
    """The device, read again; None where the engine has no such route."""

    status: DeviceStatus | None


@dataclass(frozen=True)
class JobList:
    """The training jobs, read again; None where the engine has no such route."""

    jobs: tuple[TrainJob, ...] | None


@dataclass(frozen=True)
class BackendList:
    """The backends, read again."""

    backends: tuple[BackendInfo, ...]


@dataclass(frozen=True)
class Curve:
    """Losses of a job in the order of its steps; `stride` of them were averaged into each point."""

    points: tuple[float, ...] = ()
    stride: int = 1
    rest: tuple[float, ...] = ()
    """Losses that do not fill a point yet."""

    def added(self, loss: float) -> Curve:
        """With one more step."""
        rest = (*self.rest, loss)
        if len(rest) < self.stride:
            return replace(self, rest=rest)
        points = (*self.points, _mean(rest))
        if len(points) < MAX_LOSSES:
            return Curve(points, self.stride)
        return Curve(tuple(_mean(points[index : index + 2]) for index in range(0, MAX_LOSSES, 2)), self.stride * 2)

    @property
    def losses(self) -> tuple[float, ...]:
        """What can be drawn."""
        return (*self.points, _mean(self.rest)) if self.rest else self.points


def _mean(losses: tuple[float, ...]) -> float:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.nan


@dataclass(frozen=True)
class Workshop:
    """The device, its backends and its training jobs."""

    device: DeviceStatus | None = None
    device_served: bool = True
    """False: the engine has no route for it."""
    device_heard: datetime | None = None
    """When `device` was said, on this terminal's clock: its ETA counts from then."""
    backends: Mapping[str, BackendInfo] = field(default_factory=dict[str, BackendInfo])
    jobs: Mapping[str, TrainJob] = field(default_factory=dict[str, TrainJob])
    jobs_served: bool = True
    heard: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """Job -> when it last said how far it is."""
    curves: Mapping[str, Curve] = field(default_factory=dict[str, Curve])
    """Job -> its losses since this terminal attached."""
    device_stale: bool = False
    jobs_stale: bool = False
    selected_job: str = ""

    @property
    def job(self) -> TrainJob | None:
        """The job under the cursor."""
        return self.jobs.get(self.selected_job)

    @property
    def backend(self) -> BackendInfo | None:
        """What is known of the backend that serves, or will."""
        return self.backends.get(self.device.backend) if self.device is not None else None

    @property
    def ticks(self) -> bool:
        """Whether something counts down by the second."""
        moving = self.device is not None and (self.device.state not in READY_STATES or bool(self.device.eta_seconds))
        return moving or any(job.state is RunState.RUNNING for job in self.jobs.values())

    def ordered_jobs(self) -> list[TrainJob]:
        """The running one, the queue in its order, then the newest."""
        newest = sorted(self.jobs.values(), key=lambda job: (job.finished_at or job.created_at, job.id), reverse=True)
        return sorted(newest, key=_rank)

    def queue_length(self) -> int:
        """Jobs that wait."""
        return sum(job.state is RunState.QUEUED for job in self.jobs.values())


def _rank(job: TrainJob) -> tuple[int, int]:
    match job.state:
        case RunState.RUNNING:
            return 0, 0
        case RunState.QUEUED:
            return 1, job.position if job.position is not None else 1 << 30
        case RunState.INTERRUPTED:
            return 2, 0
        case _:
            return 3, 0


def device_eta_s(workshop: Workshop, now: datetime) -> float | None:
    """Seconds until requests are admitted, counted down since they were said; None: now, or unknown."""
    status, heard = workshop.device, workshop.device_heard
    if status is None or not status.eta_seconds or heard is None:  # 0.0 is now
        return None
    return max(0.0, status.eta_seconds - (now - heard).total_seconds())


def job_eta_s(workshop: Workshop, job: TrainJob, now: datetime) -> float | None:
    """Seconds until the job ends, counted down; None where it is not running or has not said."""
    if job.state is not RunState.RUNNING or job.progress is None or not math.isfinite(job.progress.eta_seconds):
        return None
    heard = workshop.heard.get(job.id)
    passed = (now - heard).total_seconds() if heard is not None else 0.0
    return max(0.0, job.progress.eta_seconds - passed)


class WorkshopFold:
    """A workshop, open for one batch."""

    def __init__(self, workshop: Workshop, now: datetime) -> None:
        self._workshop = workshop
        self._now = now
        self._jobs = Draft(workshop.jobs)
        self._heard = Draft(workshop.heard)
        self._curves = Draft(workshop.curves)

    def read_device(self, status: DeviceStatus | None) -> None:
        """What GET /device, or an event, says; None: there is no such route."""
        self._set(device=status, device_served=status is not None, device_heard=self._now, device_stale=False)

    def read_jobs(self, jobs: tuple[TrainJob, ...] | None) -> None:
        """What GET /jobs says; None: there is no such route."""
        fresh = {job.id: job for job in jobs or ()}
        for job_id, job in fresh.items():
            known = self._jobs.read.get(job_id)
            if job.progress is not None and (known is None or known.progress != job.progress):
                self._heard.edit()[job_id] = self._now
        self._jobs.replace(fresh)
        self._set(jobs_served=jobs is not None, jobs_stale=False)

    def read_backends(self, backends: tuple[BackendInfo, ...]) -> None:
        """What GET /device/backends says."""
        self._set(backends={str(info.name): info for info in backends})

    def device_event(self, event: Event) -> None:
        """An event of the subject `device/<id>`."""
        try:
            self.read_device(DeviceStatus.model_validate(event.payload))
        except ValidationError:
            self._set(device_stale=True)

    def training_event(self, job_id: str, event: Event) -> None:
        """An event of the subject `training/<job>`: one step, or the fields of the job that changed."""
        if not event.payload.keys() >= _STEP_FIELDS:
            self._change(job_id, event, kind=TRAIN_JOB)
            return
        try:
            progress = TrainProgress.model_validate(event.payload)
        except ValidationError:
            self._set(jobs_stale=True)
            return
        curves = self._curves.edit()
        curves[job_id] = curves.get(job_id, Curve()).added(progress.loss)
        self._heard.edit()[job_id] = self._now
        if (job := self._jobs.read.get(job_id)) is None:
            self._set(jobs_stale=True)
        else:
            self._jobs.edit()[job_id] = job.model_copy(update={"progress": progress})

    def job_event(self, job_id: str, event: Event) -> None:
        """An event of the subject `job/<job>`; those of sessions are not for here."""
        self._change(job_id, event, kind=str(event.payload.get("kind", "")))

    def _change(self, job_id: str, event: Event, kind: str) -> None:
        """A job that moves changes the places of others too, so the whole list is read again after each change."""
        job = self._jobs.read.get(job_id)
        if job is None and kind != TRAIN_JOB:
            return
        if event.kind == "deleted":
            self._jobs.drop(job_id)
        elif (changed := _merged(job, event)) is not None:
            self._jobs.edit()[job_id] = changed
        self._set(jobs_stale=True)

    def finish(self) -> Workshop:
        """The workshop after the batch."""
        self._trim()
        jobs = self._jobs.read
        selected = self._workshop.selected_job
        known = Draft(self._curves.read)
        for job_id in [key for key in known.read if key not in jobs and not self._workshop.jobs_stale]:
            known.drop(job_id)
        self._set(jobs=jobs, heard=self._heard.read, curves=known.read)
        if selected not in jobs:
            self._set(selected_job=next((job.id for job in self._workshop.ordered_jobs()), ""))
        return self._workshop

    def _trim(self) -> None:
        if len(self._jobs.read) <= MAX_JOBS:
            return
        jobs = self._jobs.edit()
        ended = sorted((job for job in jobs.values() if job.state in FINAL_STATES), key=lambda job: job.created_at)
        for job in ended[: len(jobs) - MAX_JOBS]:
            del jobs[job.id]

    def _set(self, **changes: object) -> None:
        if any(getattr(self._workshop, name) is not value for name, value in changes.items()):
            self._workshop = replace(self._workshop, **changes)


def _merged(job: TrainJob | None, event: Event) -> TrainJob | None:
    fields = {key: value for key, value in event.payload.items() if key in TrainJob.model_fields}
    try:
        return TrainJob.model_validate({**(job.model_dump() if job is not None else {}), **fields})
    except ValidationError:
        return None


def select_job(workshop: Workshop, job_id: str) -> Workshop:
    """Another job under the cursor."""
    return replace(workshop, selected_job=job_id if job_id in workshop.jobs else "")


def reread_workshop(workshop: Workshop) -> Workshop:
    """What was stale is being read again now."""
    return replace(workshop, device_stale=False, jobs_stale=False)


def switched_to(workshop: Workshop, name: BackendName) -> bool:
    """Whether that backend is the one that serves."""
    return workshop.device is not None and workshop.device.backend is name
