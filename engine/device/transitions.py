"""How a state is entered: the one place that counts steps and epochs, and that says what each state does first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from engine.api_device import DeviceState as State
from engine.device.contracts import TrainerEnd
from engine.device.messages import (
    AnswerJob,
    AnswerSwitch,
    Drain,
    Effect,
    Look,
    ProveMemory,
    Reclaim,
    Reconcile,
    RefuseWaiting,
    RunTrainer,
    SleepServer,
    StartServer,
    StopServer,
    StopTrainer,
    Timer,
    VerifyServer,
    WakeServer,
)
from engine.device.states import (
    MARGIN_S,
    START_S,
    Desired,
    Done,
    FaultKind,
    Job,
    Policy,
    ServerCondition,
    Snapshot,
    backoff_s,
)

TRAINING_STATES = frozenset({State.PREFLIGHT, State.TRAINING, State.RECLAIMING})
"""Where the first job has the device."""


@dataclass(frozen=True)
class Decision:
    """What is to be, and what is to be done for it. The snapshot is written before the first effect."""

    snapshot: Snapshot
    effects: tuple[Effect, ...] = ()


def enter(snapshot: Snapshot, state: State, reason: str, *effects: Effect, **changes: Any) -> Decision:
    """Enter a state with its effects."""
    after = replace(snapshot, state=state, reason=reason, step=snapshot.step + 1, **changes)
    return Decision(after, effects)


def reconcile(snapshot: Snapshot, policy: Policy, reason: str, **changes: Any) -> Decision:
    """Look at what there really is."""
    return enter(snapshot, State.RECONCILE, reason, Reconcile(), Timer(policy.reconcile_s), fault=None, **changes)


def cold(snapshot: Snapshot, policy: Policy, reason: str, **changes: Any) -> Decision:
    """Nobody uses it; go on at once to whatever is wanted."""
    decision = enter(snapshot, State.COLD, reason, server=ServerCondition.GONE, **changes)
    return look(decision.snapshot, policy)


def rest(snapshot: Snapshot, policy: Policy, reason: str, **changes: Any) -> Decision:
    """Pause after a start that failed."""
    pause = backoff_s(snapshot.failed_starts)
    said = f"{reason} Next try in {pause:.0f} s ({snapshot.failed_starts} of {policy.start_tries} failed)."
    gone = ServerCondition.GONE
    decision = enter(snapshot, State.COLD, said, Timer(pause), server=gone, resting=True, **changes)
    after = look(decision.snapshot, policy)
    return Decision(after.snapshot, (*decision.effects, *after.effects))


def look(snapshot: Snapshot, policy: Policy) -> Decision:
    """Level-triggered: what is wanted against what is. Only COLD and SERVING are left without an observation."""
    match snapshot.state, snapshot.desired:
        case State.COLD, Desired.TRAIN if snapshot.switch is None:
            return preflight(snapshot, policy)
        case State.COLD, Desired.TRAIN | Desired.SERVE if not snapshot.resting:
            return _from_cold(snapshot, policy)
        case State.SERVING, Desired.TRAIN | Desired.OFF:
            return drain(snapshot, policy)
        case State.SERVING, Desired.SERVE if snapshot.switch is not None:
            return drain(snapshot, policy)
        case State.COLD | State.SERVING, _:
            return tell_done(snapshot)
        case _:
            return Decision(snapshot)


def _from_cold(snapshot: Snapshot, policy: Policy) -> Decision:
    switch = snapshot.switch
    if switch is None:
        return start(snapshot, policy)
    if not switch.failure:
        return start(replace(snapshot, backend=switch.to), policy)
    back = replace(snapshot, backend=switch.back)
    if switch.resume or snapshot.wanted:
        return start(back, policy)
    told = AnswerSwitch(switch.back, False, switch.failure)
    after = look(replace(back, switch=None), policy)
    return Decision(after.snapshot, (told, *after.effects))


def tell_done(snapshot: Snapshot) -> Decision:
    """The device is at rest: whoever waits for a job learns how it ended."""
    answers = tuple(AnswerJob(done.job_id, done.end) for done in snapshot.done)
    return Decision(replace(snapshot, done=()) if answers else snapshot, answers)


def start(snapshot: Snapshot, policy: Policy) -> Decision:
    """Start the model server. A switch to a backend whose answers are known must give the same again."""
    epoch = snapshot.epoch + 1
    check = snapshot.switch is not None and snapshot.backend in snapshot.known
    limit = policy.start_s.get(snapshot.backend, START_S) + policy.settle_s + policy.verify_s
    return enter(
        snapshot,
        State.STARTING,
        f"{snapshot.backend} starts and loads its model.",
        StartServer(snapshot.backend, epoch, record=not check),
        Timer(limit),
        epoch=epoch,
        server_epoch=epoch,
        server=ServerCondition.DEAD,  # until it answers nobody knows how it is
        resting=False,
        leaking=False,
    )


def serving(snapshot: Snapshot, reason: str) -> Decision:
    """Open admission: the server's answers are known to be right in this epoch."""
    switch = snapshot.switch
    said = f"{reason} {switch.failure}" if switch and switch.failure else reason
    answer = () if switch is None else (AnswerSwitch(snapshot.backend, not switch.failure, switch.failure),)
    entered = enter(
        snapshot,
        State.SERVING,
        said,
        server=ServerCondition.AWAKE,
        verified_epoch=snapshot.epoch,
        known=snapshot.known | {snapshot.backend},
        switch=None,
        wanted=True,
    )
    told = tell_done(entered.snapshot)
    # What waits is let in before the next job is looked at: a queue of jobs must not starve requests.
    return Decision(told.snapshot, (*answer, *told.effects, Look()))


def drain(snapshot: Snapshot, policy: Policy) -> Decision:
    """Close admission and let requests in flight finish."""
    if snapshot.off:
        return stop(snapshot, policy, "The engine stops.")
    job = snapshot.job
    why = f"training job {job.id}" if job else f"{snapshot.switch.to if snapshot.switch else ''}"
    reason = f"Requests in flight finish; then the device goes to {why}."
    timer = Timer(policy.drain_s + MARGIN_S)
    return enter(snapshot, State.DRAINING, reason, Drain(policy.drain_s), timer, failed_starts=0)


def sleep(snapshot: Snapshot, policy: Policy) -> Decision:
    """Ask the server for its memory."""
    timer = Timer(policy.sleep_s)
    return enter(snapshot, State.SLEEPING, f"{snapshot.backend} gives its memory back.", SleepServer(), timer)


def preflight(snapshot: Snapshot, policy: Policy) -> Decision:
    """Prove the trainer's memory."""
    job = snapshot.job
    assert job is not None
    return enter(
        snapshot,
        State.PREFLIGHT,
        f"Waits until {job.need_mib} MiB are free for training job {job.id}.",
        ProveMemory(job.need_mib, job.id),
        Timer(policy.settle_s + MARGIN_S),
        epoch=snapshot.epoch + 1,
        end=None,
        resting=False,
    )


def train(snapshot: Snapshot, policy: Policy) -> Decision:
    """The proof is there: start the trainer."""
    job = snapshot.job
    assert job is not None
    effects = (RunTrainer(job.id, snapshot.epoch), Timer(policy.train_s))
    reason = f"Training job {job.id} has the device."
    return enter(snapshot, State.TRAINING, reason, *effects, proved_epoch=snapshot.epoch)


def end_trainer(snapshot: Snapshot, policy: Policy, reason: str) -> Decision:
    """End a trainer that runs; its end is then an observation."""
    job = snapshot.job
    assert job is not None
    limit = Timer(policy.trainer_grace_s + policy.stop_s)
    said = TrainerEnd(False, reason)
    return enter(snapshot, State.RECLAIMING, f"{reason} It writes a checkpoint.", StopTrainer(job.id), limit, end=said)


def reclaim(snapshot: Snapshot, policy: Policy, end: TrainerEnd) -> Decision:
    """The trainer's tree is gone: its memory and what it made."""
    job = snapshot.job
    assert job is not None
    settle = not retries(snapshot, job, end)
    reason = "Publishes what was trained." if end.succeeded else f"Training ended: {end.reason or 'no reason given.'}"
    effects = (Reclaim(job.id, settle, end), Timer(policy.settle_s + policy.publish_s))
    return enter(snapshot, State.RECLAIMING, reason, *effects, end=end)


def retries(snapshot: Snapshot, job: Job, end: TrainerEnd) -> bool:
    """Whether the job is tried once more with a smaller micro-batch."""
    return end.retry_smaller and not (end.succeeded or job.smaller or job.cancelled or snapshot.off)


def wake(snapshot: Snapshot, policy: Policy, *, again: bool = False, reason: str = "") -> Decision:
    """Give the server its memory back. Tried twice; never by putting it to sleep again, which does nothing."""
    settle = policy.settle_wake_s if again else policy.settle_s
    timer = Timer(settle + 10 * policy.wake_expected_s + 30)
    said = reason or f"{snapshot.backend} takes its memory back."
    epoch = snapshot.epoch if again else snapshot.epoch + 1
    return enter(snapshot, State.WAKING, said, WakeServer(settle), timer, epoch=epoch, wake_retried=again)


def verify(snapshot: Snapshot, policy: Policy) -> Decision:
    """Compare what it says with what it said."""
    reason = f"{snapshot.backend} must answer as it did before."
    timer = Timer(policy.verify_s)
    return enter(snapshot, State.VERIFYING, reason, VerifyServer(), timer, server=ServerCondition.AWAKE)


def stop(snapshot: Snapshot, policy: Policy, reason: str, **changes: Any) -> Decision:
    """End the server's tree."""
    server = ServerCondition.DEAD
    timer = Timer(policy.stop_s + policy.settle_s)
    return enter(snapshot, State.STOPPING, reason, StopServer(), timer, **{"server": server, **changes})


def fault(snapshot: Snapshot, policy: Policy, kind: FaultKind, reason: str) -> Decision:
    """It cannot be used. Everyone who waits is told why; it is looked at again every minute and on request."""
    in_hand = snapshot.job if snapshot.state in TRAINING_STATES else None
    end = snapshot.end or TrainerEnd(False, reason)
    done = (*snapshot.done, *(() if in_hand is None else (Done(in_hand.id, end),)))
    effects: tuple[Effect, ...] = (RefuseWaiting(), Timer(policy.fault_s))
    if in_hand is not None and snapshot.state is not State.PREFLIGHT:
        effects += (StopTrainer(in_hand.id),)
    if snapshot.switch is not None:
        effects += (AnswerSwitch(snapshot.backend, False, snapshot.switch.failure or reason),)
    gone = snapshot.server is ServerCondition.GONE
    entered = enter(
        snapshot,
        State.FAULT,
        reason,
        *effects,
        fault=kind,
        wanted=False,
        resting=False,
        switch=None,
        end=None,
        jobs=snapshot.jobs[1:] if in_hand is not None else snapshot.jobs,
        done=done,
        server=snapshot.server if gone else ServerCondition.DEAD,
    )
    told = tell_done(entered.snapshot)
    return Decision(told.snapshot, (*entered.effects, *told.effects))
