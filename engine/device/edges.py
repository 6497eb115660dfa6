"""The edges of the state machine, one function for each state. `scheduler` has the picture."""

from __future__ import annotations

from dataclasses import replace

from engine.device.contracts import TrainerEnd
from engine.device.messages import (
    Drained,
    Expired,
    NotProven,
    NotVerified,
    Observation,
    Proven,
    Reclaimed,
    Reconciled,
    ServerDied,
    ServerFailed,
    ServerReady,
    SleepFailed,
    Slept,
    Stopped,
    TrainerEnded,
    Verified,
    WakeFailed,
    Woke,
)
from engine.device.states import STABLE_S, Done, FaultKind, Policy, ServerCondition, Snapshot
from engine.device.transitions import (
    Decision,
    cold,
    end_trainer,
    fault,
    look,
    preflight,
    reclaim,
    reconcile,
    rest,
    retries,
    serving,
    sleep,
    stop,
    train,
    verify,
    wake,
)

IDLE = "No model server runs; the first request starts one."


def from_reconcile(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """RECONCILE."""
    match message:
        case Reconciled() if snapshot.failed_starts and snapshot.wanted:
            return rest(snapshot, policy, snapshot.reason)
        case Reconciled():
            return cold(snapshot, policy, IDLE)
        case Expired():
            return fault(snapshot, policy, FaultKind.STUCK, "The device could not be looked at in time.")
        case _:
            return Decision(snapshot)


def from_cold(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """COLD."""
    match message:
        case Expired():
            return look(replace(snapshot, resting=False), policy)
        case _:
            return Decision(snapshot)


def from_starting(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """STARTING."""
    match message:
        case ServerReady(recorded=True):
            return serving(snapshot, f"{snapshot.backend} serves.")
        case ServerReady():
            return verify(snapshot, policy)
        case ServerFailed(_, reason, permanent):
            return start_failed(snapshot, policy, reason, permanent=permanent)
        case ServerDied(_, reason):
            return _stop_counted(snapshot, policy, reason)
        case Expired():
            return _stop_counted(snapshot, policy, f"{snapshot.backend} was not ready in time.")
        case _:
            return Decision(snapshot)


def start_failed(snapshot: Snapshot, policy: Policy, reason: str, *, permanent: bool = False) -> Decision:
    """Back to the old backend, or a pause, or a fault. Nothing of the server is left."""
    switch = snapshot.switch
    if switch is not None and not switch.failure:
        failed = replace(snapshot, switch=replace(switch, failure=f"{switch.to} did not serve: {reason}"))
        return cold(failed, policy, reason)
    counted = replace(snapshot, failed_starts=snapshot.failed_starts + 1, server=ServerCondition.GONE)
    if permanent or counted.failed_starts >= policy.start_tries:
        # One more try for each later request; a user who says that it is mended gets them all.
        once_more = replace(counted, failed_starts=max(0, policy.start_tries - 1))
        return fault(once_more, policy, FaultKind.STARTS, reason)
    return rest(counted, policy, reason)


def _stop_counted(snapshot: Snapshot, policy: Policy, reason: str) -> Decision:
    """As `start_failed`, but of a server whose tree must be ended first."""
    switch = snapshot.switch
    if switch is not None and not switch.failure:
        failed = replace(snapshot, switch=replace(switch, failure=f"{switch.to} did not serve: {reason}"))
        return stop(failed, policy, reason)
    return stop(snapshot, policy, reason, failed_starts=snapshot.failed_starts + 1)


def from_serving(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """SERVING."""
    match message:
        case ServerDied(_, reason, served_s):
            failed = 1 if served_s >= STABLE_S else snapshot.failed_starts + 1
            if failed >= policy.start_tries:
                return fault(replace(snapshot, failed_starts=failed - 1), policy, FaultKind.STARTS, reason)
            dead = ServerCondition.DEAD
            return reconcile(snapshot, policy, reason, server=dead, failed_starts=failed)
        case _:
            return Decision(snapshot)


def from_draining(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """DRAINING."""
    match message:
        case Drained() if snapshot.switch is not None:
            return stop(snapshot, policy, f"Makes room for {snapshot.switch.to}.")
        case Drained() if not snapshot.jobs:
            return serving(snapshot, f"{snapshot.backend} serves on: nobody wants the device any more.")
        case Drained() if snapshot.backend not in policy.sleepers:
            return stop(snapshot, policy, f"{snapshot.backend} cannot sleep: it is stopped.")
        case Drained() if not snapshot.may_sleep:
            why = f"{snapshot.backend} once answered wrongly after its sleep: it is stopped instead."
            return stop(snapshot, policy, why)
        case Drained():
            return sleep(snapshot, policy)
        case ServerDied(_, reason):
            return stop(snapshot, policy, reason)
        case Expired():
            return stop(snapshot, policy, "Requests in flight did not end in time.")
        case _:
            return Decision(snapshot)


def from_sleeping(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """SLEEPING. A 200 is not believed: the effect saw that it sleeps and lives; its memory is PREFLIGHT's business."""
    match message:
        case Slept(_, leaking):
            asleep = replace(snapshot, server=ServerCondition.ASLEEP, leaking=leaking)
            return preflight(asleep, policy) if asleep.jobs else wake(asleep, policy)
        case SleepFailed(_, reason) | ServerDied(_, reason):
            return stop(snapshot, policy, reason)
        case Expired():
            return stop(snapshot, policy, f"{snapshot.backend} was not asleep after {policy.sleep_s:.0f} s.")
        case _:
            return Decision(snapshot)


def from_preflight(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """PREFLIGHT."""
    match message:
        case Proven():
            return train(snapshot, policy)
        case NotProven(_, reason, foreign):
            if snapshot.server is not ServerCondition.GONE and not foreign:
                return stop(snapshot, policy, f"{reason} The sleeping model server is stopped to make room.")
            return reclaim(snapshot, policy, TrainerEnd(False, reason))
        case Expired():
            return reclaim(snapshot, policy, TrainerEnd(False, "Free memory could not be measured in time."))
        case ServerDied():
            return Decision(replace(snapshot, server=ServerCondition.DEAD))
        case _:
            return Decision(snapshot)


def from_training(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """TRAINING."""
    match message:
        case TrainerEnded(_, end):
            return reclaim(snapshot, policy, end)
        case Expired():
            return end_trainer(snapshot, policy, f"Training took more than {policy.train_s / 3600:.0f} h.")
        case ServerDied(_, reason):
            noted = f"{snapshot.reason} The sleeping model server died meanwhile: {reason}"
            return Decision(replace(snapshot, server=ServerCondition.DEAD, reason=noted))
        case _:
            return Decision(snapshot)


def from_reclaiming(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """RECLAIMING."""
    match message:
        case TrainerEnded(_, end):
            return reclaim(snapshot, policy, end)
        case Reclaimed():
            return _reclaimed(snapshot, message, policy)
        case ServerDied():
            return Decision(replace(snapshot, server=ServerCondition.DEAD))
        case Expired():
            return fault(snapshot, policy, FaultKind.STUCK, "The trainer's processes could not be ended in time.")
        case _:
            return Decision(snapshot)


def _reclaimed(snapshot: Snapshot, seen: Reclaimed, policy: Policy) -> Decision:
    job, end = snapshot.job, snapshot.end
    assert job is not None and end is not None
    if seen.foreign:
        return fault(snapshot, policy, FaultKind.FOREIGN, seen.reason)
    if retries(snapshot, job, end):
        smaller = (replace(job, smaller=True), *snapshot.jobs[1:])
        return preflight(replace(snapshot, jobs=smaller), policy)
    if not seen.published and end.succeeded:
        end = TrainerEnd(False, seen.reason)
    done = (*snapshot.done, Done(job.id, end))
    return _after_training(replace(snapshot, jobs=snapshot.jobs[1:], end=None, done=done), seen, policy)


def _after_training(snapshot: Snapshot, seen: Reclaimed, policy: Policy) -> Decision:
    match snapshot.server:
        case ServerCondition.GONE:
            return cold(snapshot, policy, IDLE)
        case ServerCondition.ASLEEP if snapshot.off:
            return stop(snapshot, policy, "The engine stops.")
        case ServerCondition.ASLEEP if not seen.memory_back:
            return stop(snapshot, policy, seen.reason)
        case ServerCondition.ASLEEP if snapshot.leaking:
            return stop(snapshot, policy, f"{snapshot.backend} keeps more memory with each sleep: it is restarted.")
        case ServerCondition.ASLEEP:
            return wake(snapshot, policy)
        case _:
            return stop(snapshot, policy, "The model server died during training.")


def from_waking(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """WAKING."""
    match message:
        case Woke():
            return verify(snapshot, policy)
        case WakeFailed(_, reason) if not snapshot.wake_retried:
            return wake(snapshot, policy, again=True, reason=f"{reason} Tried once more.")
        case WakeFailed(_, reason) | ServerDied(_, reason):
            return stop(snapshot, policy, reason)
        case Expired():
            return stop(snapshot, policy, f"{snapshot.backend} did not wake in time.")
        case _:
            return Decision(snapshot)


def from_verifying(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """VERIFYING."""
    match message:
        case Verified():
            return serving(snapshot, f"{snapshot.backend} serves, verified.")
        case NotVerified(_, reason, wrong):
            distrusted = snapshot.distrusted | {snapshot.backend} if wrong and snapshot.switch is None else None
            noted = snapshot if distrusted is None else replace(snapshot, distrusted=distrusted)
            return _not_served(noted, policy, reason)
        case ServerDied(_, reason):
            return _not_served(snapshot, policy, reason)
        case Expired():
            return _not_served(snapshot, policy, f"{snapshot.backend} could not be verified in time.")
        case _:
            return Decision(snapshot)


def _not_served(snapshot: Snapshot, policy: Policy, reason: str) -> Decision:
    if snapshot.switch is None:
        return stop(snapshot, policy, reason)
    return _stop_counted(snapshot, policy, reason)


def from_stopping(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """STOPPING."""
    match message:
        case Stopped() if snapshot.failed_starts >= policy.start_tries:
            gone = replace(snapshot, server=ServerCondition.GONE, failed_starts=max(0, policy.start_tries - 1))
            return fault(gone, policy, FaultKind.STARTS, snapshot.reason)
        case Stopped() if snapshot.failed_starts and not snapshot.off:
            return rest(snapshot, policy, snapshot.reason)
        case Stopped():
            return cold(snapshot, policy, snapshot.reason)
        case Expired():
            return fault(snapshot, policy, FaultKind.STUCK, "The model server's processes could not be ended in time.")
        case _:
            return Decision(snapshot)


def from_fault(snapshot: Snapshot, message: Observation, policy: Policy) -> Decision:
    """FAULT."""
    match message:
        case Expired() if not snapshot.off:
            return reconcile(snapshot, policy, "Looks whether the device can be used again.")
        case _:
            return Decision(snapshot)
