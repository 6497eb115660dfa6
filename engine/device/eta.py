"""How long until requests are admitted: medians of what each state took before, along the way that lies ahead. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from engine.api_device import DeviceState as State
from engine.device.states import ServerCondition, Snapshot

KEPT = 15
"""Durations of each state that the median is taken of: enough to outvote an odd one, few enough to follow a change."""

LONG = frozenset({State.STARTING, State.TRAINING})
"""States that say nothing until they were seen once; the others take seconds, and count as none until then."""

_WOKEN = (State.WAKING, State.VERIFYING)
_RESTARTED = (State.STOPPING, State.STARTING)
_TRAINED = (State.PREFLIGHT, State.TRAINING, State.RECLAIMING)


def eta_seconds(
    snapshot: Snapshot,
    elapsed_s: float,
    durations: Mapping[State, Sequence[float]],
    *,
    can_sleep: bool,
    training_left_s: float | None = None,
) -> float | None:
    """Seconds until SERVING; None where nobody waits for it, or it is not known.

    Args:
        elapsed_s: since the entry to the present state.
        durations: of each state, of this device and backend.
        training_left_s: the trainer's own estimate, which is better than any learned one.
    """
    if snapshot.state in (State.SERVING, State.FAULT) or snapshot.off:
        return None
    way = route(snapshot, can_sleep=can_sleep and snapshot.may_sleep)
    total = 0.0
    for place, state in enumerate(way):
        expected = median(durations[state]) if durations.get(state) else None
        if state is State.TRAINING and training_left_s is not None:
            total += training_left_s
            continue
        if expected is None and state in LONG:
            return None
        total += max(0.0, (expected or 0.0) - (elapsed_s if place == 0 else 0.0))
    return total


def route(snapshot: Snapshot, *, can_sleep: bool) -> tuple[State, ...]:
    """The states from the present one up to SERVING, the present one first; empty where it is not on its way."""
    sleeps = can_sleep and snapshot.switch is None
    back = {
        ServerCondition.ASLEEP: _WOKEN,
        ServerCondition.GONE: (State.STARTING,),
    }.get(snapshot.server, _RESTARTED)
    after_drain = (State.SLEEPING, *_TRAINED, *_WOKEN) if sleeps else (State.STOPPING, *_TRAINED, State.STARTING)
    if snapshot.switch is not None:
        after_drain = _RESTARTED
    match snapshot.state:
        case State.RECONCILE | State.COLD if not (snapshot.wanted or snapshot.switch or snapshot.jobs):
            return ()
        case State.RECONCILE:
            return (State.RECONCILE, State.STARTING)
        case State.COLD | State.STARTING:
            return (State.STARTING,)
        case State.DRAINING:
            return (State.DRAINING, *after_drain)
        case State.SLEEPING:
            return after_drain
        case State.PREFLIGHT:
            return (*_TRAINED, *back)
        case State.TRAINING:
            return (*_TRAINED[1:], *back)
        case State.RECLAIMING:
            return (State.RECLAIMING, *back)
        case State.WAKING:
            return _WOKEN
        case State.VERIFYING:
            return (State.VERIFYING,)
        case State.STOPPING:
            return (State.STOPPING, *(_TRAINED if snapshot.jobs else ()), State.STARTING)
        case _:
            return ()
