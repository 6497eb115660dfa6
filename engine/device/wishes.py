"""What somebody asks for, in whatever state it comes: it is noted at once and acted on as soon as the state allows."""

from __future__ import annotations

from dataclasses import replace

from engine.api_device import BackendName
from engine.api_device import DeviceState as State
from engine.device.contracts import TrainerEnd
from engine.device.messages import (
    AnswerJob,
    AnswerSwitch,
    LookAround,
    OffWanted,
    RefuseWaiting,
    RetryWanted,
    ServeWanted,
    SwitchWanted,
    TrainCancelled,
    TrainWanted,
    Wish,
)
from engine.device.states import FaultKind, Job, Policy, Snapshot, Switch
from engine.device.transitions import Decision, cold, end_trainer, look, reclaim, reconcile, stop

STOPS = "The engine stops."
CANCELLED = TrainerEnd(False, "cancelled")
SERVER_STATES = frozenset(
    {State.STARTING, State.SERVING, State.DRAINING, State.SLEEPING, State.WAKING, State.VERIFYING}
)
"""Where the server is up, or on its way."""


def on_wish(snapshot: Snapshot, wish: Wish, policy: Policy) -> Decision:
    """Note the wish, and act on it if this state can."""
    match wish:
        case LookAround():
            return look(snapshot, policy)
        case ServeWanted():
            return _serve(snapshot, policy)
        case TrainWanted(job):
            return _train(snapshot, job, policy)
        case TrainCancelled(job_id):
            return _cancel(snapshot, job_id, policy)
        case SwitchWanted(to):
            return _switch(snapshot, to, policy)
        case RetryWanted():
            return _retry(snapshot, policy)
        case OffWanted():
            return _off(snapshot, policy)


def _serve(snapshot: Snapshot, policy: Policy) -> Decision:
    if snapshot.off or snapshot.state is State.FAULT:
        return Decision(snapshot, (RefuseWaiting(),))
    if snapshot.wanted:
        return Decision(snapshot)
    return look(replace(snapshot, wanted=True), policy)


def _train(snapshot: Snapshot, job: Job, policy: Policy) -> Decision:
    if snapshot.off:
        return Decision(snapshot, (AnswerJob(job.id, TrainerEnd(False, STOPS)),))
    noted = replace(snapshot, jobs=(*snapshot.jobs, job))
    if snapshot.fault is FaultKind.STARTS:  # a model server that does not come up is no hindrance to training
        return reconcile(noted, policy, f"Training job {job.id} wants the device.")
    return look(noted, policy)


def _cancel(snapshot: Snapshot, job_id: str, policy: Policy) -> Decision:
    place = next((index for index, job in enumerate(snapshot.jobs) if job.id == job_id), None)
    if place is None:
        return Decision(snapshot)
    jobs = list(snapshot.jobs)
    jobs[place] = replace(jobs[place], cancelled=True)
    noted = replace(snapshot, jobs=tuple(jobs))
    match snapshot.state:
        case State.PREFLIGHT if place == 0:
            return reclaim(noted, policy, CANCELLED)
        case State.TRAINING if place == 0:
            return end_trainer(noted, policy, f"Training job {job_id} is cancelled.")
        case State.RECLAIMING if place == 0:
            return Decision(noted)
        case _:
            del jobs[place]
            return Decision(replace(snapshot, jobs=tuple(jobs)), (AnswerJob(job_id, CANCELLED),))


def _switch(snapshot: Snapshot, to: BackendName, policy: Policy) -> Decision:
    refused = _refuse_switch(snapshot, to)
    if refused is not None:
        return Decision(snapshot, (refused,))
    switch = Switch(to, snapshot.backend, resume=snapshot.wanted)
    noted = replace(snapshot, switch=switch, failed_starts=0, resting=False)
    match snapshot.state:
        case State.STARTING:
            return stop(noted, policy, f"{to} is wanted instead.")
        case State.FAULT:
            return reconcile(noted, policy, f"{to} is wanted instead.")
        case _:
            return look(noted, policy)


def _refuse_switch(snapshot: Snapshot, to: BackendName) -> AnswerSwitch | None:
    backend = snapshot.backend
    switchable = (State.COLD, State.STARTING, State.SERVING)
    if snapshot.switch is not None:
        return AnswerSwitch(backend, False, f"A switch to {snapshot.switch.to} is under way.")
    if snapshot.off:
        return AnswerSwitch(backend, False, STOPS)
    if snapshot.state not in switchable and snapshot.fault is not FaultKind.STARTS:
        return AnswerSwitch(backend, False, f"Not while the device is {snapshot.state}: {snapshot.reason}")
    if snapshot.jobs and snapshot.state is not State.SERVING:
        return AnswerSwitch(backend, False, f"Not before training job {snapshot.jobs[0].id} has ended.")
    if to is backend and snapshot.state is State.SERVING:
        return AnswerSwitch(backend, True, "It serves already.")
    return None


def _retry(snapshot: Snapshot, policy: Policy) -> Decision:
    if snapshot.off:
        return Decision(snapshot)
    match snapshot.state:
        case State.FAULT:
            return reconcile(snapshot, policy, "Looks again, as asked.", failed_starts=0)
        case State.COLD if snapshot.resting:
            return look(replace(snapshot, resting=False, failed_starts=0), policy)
        case _:
            return Decision(snapshot)


def _off(snapshot: Snapshot, policy: Policy) -> Decision:
    if snapshot.off:
        return Decision(snapshot)
    running = snapshot.state in (State.PREFLIGHT, State.TRAINING, State.RECLAIMING)
    kept, dropped = (snapshot.jobs[:1], snapshot.jobs[1:]) if running else ((), snapshot.jobs)
    effects = (RefuseWaiting(), *(AnswerJob(job.id, TrainerEnd(False, STOPS)) for job in dropped))
    noted = replace(snapshot, off=True, wanted=False, jobs=kept, switch=None)
    if snapshot.switch is not None:
        effects += (AnswerSwitch(snapshot.backend, False, STOPS),)
    decision = _turn_off(noted, policy)
    return Decision(decision.snapshot, (*effects, *decision.effects))


def _turn_off(snapshot: Snapshot, policy: Policy) -> Decision:
    match snapshot.state:
        case State.RECONCILE:
            return cold(snapshot, policy, STOPS)
        case state if state in SERVER_STATES:
            return stop(snapshot, policy, STOPS)
        case State.PREFLIGHT:
            return reclaim(snapshot, policy, TrainerEnd(False, STOPS))
        case State.TRAINING:
            return end_trainer(snapshot, policy, STOPS)
        case _:
            return Decision(snapshot)
