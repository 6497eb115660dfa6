"""The scheduler, edge by edge: state and message -> state and effects (gpu-engine.md 2.2 and 2.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from support.device_world import POLICY

from engine.api_device import BackendName
from engine.api_device import DeviceState as S
from engine.device import messages as m
from engine.device.contracts import TrainerEnd
from engine.device.scheduler import decide
from engine.device.states import FaultKind, Job, ServerCondition, Snapshot, Switch, backoff_s
from engine.device.transitions import Decision

C = ServerCondition
JOB = Job("job", 100)
OK, BAD = TrainerEnd(True, ""), TrainerEnd(False, "it diverged")
OOM = TrainerEnd(False, "out of memory", retry_smaller=True)
STEP = 5


def at(state: S, **changes: object) -> Snapshot:
    """A snapshot in that state, as it is on the usual way."""
    server = {
        S.COLD: C.GONE, S.RECONCILE: C.GONE, S.STARTING: C.DEAD, S.SERVING: C.AWAKE, S.DRAINING: C.AWAKE,
        S.SLEEPING: C.AWAKE, S.VERIFYING: C.AWAKE, S.STOPPING: C.DEAD,
    }.get(state, C.ASLEEP)  # fmt: skip
    base = Snapshot(
        state, "as before", BackendName.SCRIPTED, step=STEP, epoch=3, server=server, server_epoch=2, wanted=True
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def training(state: S, **changes: object) -> Snapshot:
    """The same with a job."""
    return at(state, **{"jobs": (JOB,), **changes})


@dataclass(frozen=True)
class Case:
    """One edge."""

    before: Snapshot
    message: m.Message
    after: S
    effects: tuple[type, ...] = ()
    also: Callable[[Snapshot], bool] = lambda snapshot: True


DIED = m.ServerDied(2, "SIGKILL")
EXPIRED = m.Expired(STEP)
SWITCH = Switch(BackendName.LLAMACPP, BackendName.SCRIPTED, resume=True)
EDGES = {
    "reconciled, nobody asked": Case(at(S.RECONCILE, wanted=False), m.Reconciled(STEP), S.COLD),
    "reconciled, wanted": Case(at(S.RECONCILE), m.Reconciled(STEP), S.STARTING, (m.StartServer, m.Timer)),
    "reconciled after a crash while serving": Case(
        at(S.RECONCILE, failed_starts=1), m.Reconciled(STEP), S.COLD, (m.Timer,), lambda s: s.resting
    ),
    "a stranger": Case(
        at(S.RECONCILE), m.Faulted(STEP, FaultKind.FOREIGN, "pid 7"), S.FAULT, (m.RefuseWaiting, m.Timer),
        lambda s: s.reason == "pid 7" and s.fault is FaultKind.FOREIGN,
    ),
    "reconciling hangs": Case(at(S.RECONCILE), EXPIRED, S.FAULT, also=lambda s: s.fault is FaultKind.STUCK),
    "cold, a request": Case(at(S.COLD, wanted=False), m.ServeWanted(), S.STARTING, (m.StartServer,)),
    "cold, a job": Case(
        at(S.COLD, wanted=False), m.TrainWanted(JOB), S.PREFLIGHT, (m.ProveMemory,), lambda s: s.epoch == 4
    ),
    "cold, the pause is over": Case(at(S.COLD, resting=True), EXPIRED, S.STARTING, (m.StartServer,)),
    "cold, a job need not wait for the pause": Case(at(S.COLD, resting=True), m.TrainWanted(JOB), S.PREFLIGHT),
    "started": Case(
        at(S.STARTING), m.ServerReady(STEP, recorded=True), S.SERVING, (m.Look,), lambda s: s.verified_epoch == 3
    ),
    "started, to be compared": Case(at(S.STARTING, switch=SWITCH), m.ServerReady(STEP, False), S.VERIFYING),
    "not started": Case(
        at(S.STARTING), m.ServerFailed(STEP, "bad"), S.COLD, (m.Timer,), lambda s: "1 of 3" in s.reason and s.resting
    ),
    "not started, again and again": Case(
        at(S.STARTING, failed_starts=2), m.ServerFailed(STEP, "bad"), S.FAULT, (m.RefuseWaiting,),
        lambda s: s.fault is FaultKind.STARTS and s.reason == "bad" and not s.wanted,
    ),
    "not installed": Case(at(S.STARTING), m.ServerFailed(STEP, "install it", permanent=True), S.FAULT),
    "dies while starting": Case(at(S.STARTING), DIED, S.STOPPING, (m.StopServer,), lambda s: s.failed_starts == 1),
    "start hangs": Case(at(S.STARTING), EXPIRED, S.STOPPING, (m.StopServer,), lambda s: s.failed_starts == 1),
    "serving, looks and finds nothing": Case(at(S.SERVING), m.LookAround(), S.SERVING),
    "serving, a job": Case(at(S.SERVING), m.TrainWanted(JOB), S.DRAINING, (m.Drain, m.Timer)),
    "serving, a job that waited": Case(training(S.SERVING), m.LookAround(), S.DRAINING),
    "serving, dies": Case(at(S.SERVING), DIED, S.RECONCILE, (m.Reconcile,), lambda s: s.failed_starts == 1),
    "serving, dies at once for the third time": Case(at(S.SERVING, failed_starts=2), DIED, S.FAULT),
    "serving, dies after a long life": Case(
        at(S.SERVING, failed_starts=2), m.ServerDied(2, "SIGKILL", 3600.0), S.RECONCILE,
        also=lambda s: s.failed_starts == 1,
    ),
    "drained": Case(training(S.DRAINING), m.Drained(STEP), S.SLEEPING, (m.SleepServer, m.Timer)),
    "drained, cannot sleep": Case(
        training(S.DRAINING, backend=BackendName.OLLAMA), m.Drained(STEP), S.STOPPING, (m.StopServer,)
    ),
    "drained, not trusted": Case(
        training(S.DRAINING, distrusted=frozenset({BackendName.SCRIPTED})), m.Drained(STEP), S.STOPPING
    ),
    "drained, the job is gone": Case(at(S.DRAINING), m.Drained(STEP), S.SERVING),
    "draining hangs": Case(training(S.DRAINING), EXPIRED, S.STOPPING),
    "draining, dies": Case(training(S.DRAINING), DIED, S.STOPPING),
    "asleep": Case(training(S.SLEEPING), m.Slept(STEP), S.PREFLIGHT, (m.ProveMemory,), lambda s: s.server is C.ASLEEP),
    "asleep, the job is gone": Case(at(S.SLEEPING), m.Slept(STEP), S.WAKING, (m.WakeServer,)),
    "sleep fails": Case(training(S.SLEEPING), m.SleepFailed(STEP, "500"), S.STOPPING, (m.StopServer,)),
    "sleep hangs": Case(training(S.SLEEPING), EXPIRED, S.STOPPING),
    "dies in its sleep": Case(training(S.SLEEPING), DIED, S.STOPPING),
    "proven": Case(
        training(S.PREFLIGHT), m.Proven(STEP), S.TRAINING, (m.RunTrainer, m.Timer), lambda s: s.proved_epoch == 3
    ),
    "sleep freed too little": Case(
        training(S.PREFLIGHT), m.NotProven(STEP, "3 MiB free."), S.STOPPING, (m.StopServer,), lambda s: s.jobs == (JOB,)
    ),
    "too little with the server gone": Case(
        training(S.PREFLIGHT, server=C.GONE), m.NotProven(STEP, "3 MiB free."), S.RECLAIMING, (m.Reclaim,)
    ),
    "a stranger in the way": Case(
        training(S.PREFLIGHT), m.NotProven(STEP, "pid 7", foreign=True), S.RECLAIMING,
        also=lambda s: s.end is not None and s.end.reason == "pid 7",
    ),
    "the proof hangs": Case(training(S.PREFLIGHT), EXPIRED, S.RECLAIMING),
    "cancelled before it runs": Case(training(S.PREFLIGHT), m.TrainCancelled("job"), S.RECLAIMING, (m.Reclaim,)),
    "the GPU is lost": Case(
        training(S.PREFLIGHT), m.Faulted(STEP, FaultKind.LOST, "Xid 79"), S.FAULT, (m.RefuseWaiting, m.AnswerJob)
    ),
    "trained": Case(training(S.TRAINING), m.TrainerEnded("job", OK), S.RECLAIMING, (m.Reclaim, m.Timer)),
    "training takes too long": Case(training(S.TRAINING), EXPIRED, S.RECLAIMING, (m.StopTrainer, m.Timer)),
    "training is cancelled": Case(training(S.TRAINING), m.TrainCancelled("job"), S.RECLAIMING, (m.StopTrainer,)),
    "the sleeping server dies": Case(training(S.TRAINING), DIED, S.TRAINING, (), lambda s: s.server is C.DEAD),
    "a request while it trains": Case(training(S.TRAINING, wanted=False), m.ServeWanted(), S.TRAINING),
    "stopped at last": Case(training(S.RECLAIMING, end=BAD), m.TrainerEnded("job", BAD), S.RECLAIMING, (m.Reclaim,)),
    "reclaimed": Case(
        training(S.RECLAIMING, end=OK), m.Reclaimed(STEP, True), S.WAKING, (m.WakeServer,), lambda s: s.epoch == 4
    ),
    "reclaimed, no server": Case(
        training(S.RECLAIMING, end=OK, server=C.GONE, wanted=False), m.Reclaimed(STEP, True), S.COLD, (m.AnswerJob,)
    ),
    "reclaimed, the server had been stopped": Case(
        training(S.RECLAIMING, end=OK, server=C.GONE), m.Reclaimed(STEP, True), S.STARTING
    ),
    "reclaimed, the server died": Case(
        training(S.RECLAIMING, end=OK, server=C.DEAD), m.Reclaimed(STEP, True), S.STOPPING
    ),
    "memory is not back": Case(
        training(S.RECLAIMING, end=OK), m.Reclaimed(STEP, False, "3 MiB free."), S.STOPPING, (m.StopServer,)
    ),
    "the server leaks": Case(training(S.RECLAIMING, end=OK, leaking=True), m.Reclaimed(STEP, True), S.STOPPING),
    "a stranger stays": Case(
        training(S.RECLAIMING, end=OK), m.Reclaimed(STEP, True, "pid 7", foreign=True), S.FAULT, (m.AnswerJob,)
    ),
    "out of memory at its start": Case(
        training(S.RECLAIMING, end=OOM), m.Reclaimed(STEP, True), S.PREFLIGHT, (m.ProveMemory,),
        lambda s: s.jobs[0].smaller and s.epoch == 4,
    ),
    "out of memory once more": Case(
        training(S.RECLAIMING, end=OOM, jobs=(replace(JOB, smaller=True),)), m.Reclaimed(STEP, True), S.WAKING
    ),
    "the trainer cannot be ended": Case(
        training(S.RECLAIMING, end=BAD), EXPIRED, S.FAULT, (m.StopTrainer, m.AnswerJob),
        lambda s: s.fault is FaultKind.STUCK,
    ),
    "woke": Case(at(S.WAKING), m.Woke(STEP), S.VERIFYING, (m.VerifyServer, m.Timer)),
    "wake fails": Case(at(S.WAKING), m.WakeFailed(STEP, "500"), S.WAKING, (m.WakeServer,), lambda s: s.wake_retried),
    "wake fails twice": Case(at(S.WAKING, wake_retried=True), m.WakeFailed(STEP, "500"), S.STOPPING, (m.StopServer,)),
    "wake hangs": Case(at(S.WAKING), EXPIRED, S.STOPPING),
    "dies at its wake": Case(at(S.WAKING), DIED, S.STOPPING),
    "verified": Case(at(S.VERIFYING), m.Verified(STEP), S.SERVING, (m.Look,), lambda s: s.verified_epoch == s.epoch),
    "wrong text": Case(
        at(S.VERIFYING), m.NotVerified(STEP, "!!!!", wrong=True), S.STOPPING, (m.StopServer,),
        lambda s: not s.may_sleep,
    ),
    "no text": Case(
        at(S.VERIFYING), m.NotVerified(STEP, "no answer", wrong=False), S.STOPPING, also=lambda s: s.may_sleep
    ),
    "verifying hangs": Case(at(S.VERIFYING), EXPIRED, S.STOPPING),
    "dies while verified": Case(at(S.VERIFYING), DIED, S.STOPPING),
    "stopped, wanted": Case(at(S.STOPPING), m.Stopped(STEP), S.STARTING),
    "stopped, a job": Case(training(S.STOPPING), m.Stopped(STEP), S.PREFLIGHT, also=lambda s: s.server is C.GONE),
    "stopped after too many starts": Case(at(S.STOPPING, failed_starts=3), m.Stopped(STEP), S.FAULT),
    "stop hangs": Case(at(S.STOPPING), EXPIRED, S.FAULT, also=lambda s: s.fault is FaultKind.STUCK),
    "a minute later": Case(at(S.FAULT, fault=FaultKind.FOREIGN), EXPIRED, S.RECONCILE, (m.Reconcile,)),
    "asked to look again": Case(
        at(S.FAULT, fault=FaultKind.STARTS, failed_starts=2), m.RetryWanted(), S.RECONCILE,
        also=lambda s: s.failed_starts == 0,
    ),
    "a job needs no server": Case(at(S.FAULT, fault=FaultKind.STARTS), m.TrainWanted(JOB), S.RECONCILE),
    "a job waits for a lost GPU": Case(at(S.FAULT, fault=FaultKind.LOST), m.TrainWanted(JOB), S.FAULT),
    "a request to a fault": Case(at(S.FAULT, fault=FaultKind.LOST), m.ServeWanted(), S.FAULT, (m.RefuseWaiting,)),
    "switch": Case(at(S.SERVING), m.SwitchWanted(BackendName.VLLM), S.DRAINING),
    "switch, drained": Case(at(S.DRAINING, switch=SWITCH), m.Drained(STEP), S.STOPPING),
    "switch, stopped": Case(
        at(S.STOPPING, switch=SWITCH), m.Stopped(STEP), S.STARTING, (m.StartServer,),
        lambda s: s.backend is BackendName.LLAMACPP,
    ),
    "switch fails": Case(
        at(S.STARTING, switch=SWITCH, backend=BackendName.LLAMACPP), m.ServerFailed(STEP, "bad"), S.STARTING,
        (m.StartServer,), lambda s: s.backend is BackendName.SCRIPTED and s.failed_starts == 0,
    ),
    "switch from idle fails": Case(
        at(S.STARTING, switch=replace(SWITCH, resume=False), wanted=False), m.ServerFailed(STEP, "bad"), S.COLD,
        (m.AnswerSwitch,),
    ),
    "switch while it trains": Case(
        training(S.TRAINING), m.SwitchWanted(BackendName.VLLM), S.TRAINING, (m.AnswerSwitch,)
    ),
    "off while serving": Case(at(S.SERVING), m.OffWanted(), S.STOPPING, (m.StopServer,)),
    "off while training": Case(training(S.TRAINING), m.OffWanted(), S.RECLAIMING, (m.StopTrainer,)),
    "off, reclaimed": Case(training(S.RECLAIMING, end=BAD, off=True), m.Reclaimed(STEP, True), S.STOPPING),
    "off, stopped": Case(at(S.STOPPING, off=True), m.Stopped(STEP), S.COLD),
    "off while waiting": Case(at(S.COLD, jobs=(JOB,)), m.OffWanted(), S.COLD, (m.AnswerJob,)),
}  # fmt: skip


@pytest.mark.parametrize("case", EDGES.values(), ids=EDGES.keys())
def test_edge(case: Case) -> None:
    decision = decide(case.before, case.message, POLICY)
    assert decision.snapshot.state is case.after
    kinds = [type(effect) for effect in decision.effects]
    assert [kind for kind in case.effects if kind not in kinds] == [], f"effects {decision.effects}"
    assert case.also(decision.snapshot), decision.snapshot
    assert decision.snapshot.reason or decision.snapshot.state is case.before.state, "each state says why"


STALE = [m.Expired(4), m.Reconciled(4), m.ServerReady(4, True), m.Slept(4), m.Proven(4), m.Woke(4), m.Verified(4)]
STALE += [m.Stopped(4), m.Drained(4), m.ServerDied(1, "an older server"), m.TrainerEnded("another", OK)]


@pytest.mark.parametrize("state", S)
def test_what_comes_too_late_changes_nothing(state: S) -> None:
    before = training(state)
    for message in STALE:
        assert decide(before, message, POLICY) == Decision(before)


@pytest.mark.parametrize("state", S)
def test_every_state_has_a_way_out_that_needs_nobody(state: S) -> None:
    """Bounded exits: deadlines alone bring any state to rest."""
    snapshot, seen = training(state, end=BAD, fault=FaultKind.STUCK if state is S.FAULT else None), 0
    while snapshot.state not in (S.SERVING, S.COLD, S.FAULT):
        snapshot = decide(snapshot, m.Expired(snapshot.step), POLICY).snapshot
        seen += 1
        assert seen < 8


def test_the_pause_doubles_up_to_a_minute() -> None:
    assert [backoff_s(number) for number in (1, 2, 3, 4, 7, 100)] == [1, 2, 4, 8, 60, 60]


def test_a_job_is_told_its_end_when_the_device_is_at_rest() -> None:
    woken = decide(training(S.RECLAIMING, end=OK), m.Reclaimed(STEP, True), POLICY)
    assert not any(isinstance(effect, m.AnswerJob) for effect in woken.effects)
    awake = decide(woken.snapshot, m.Woke(woken.snapshot.step), POLICY).snapshot
    assert m.AnswerJob("job", OK) in decide(awake, m.Verified(awake.step), POLICY).effects


def test_requests_get_their_turn_between_two_jobs() -> None:
    """SERVING is really entered; the next job is looked at behind what waits in the mailbox."""
    verified = decide(training(S.VERIFYING), m.Verified(STEP), POLICY)
    assert verified.snapshot.state is S.SERVING and verified.effects[-1] == m.Look()
