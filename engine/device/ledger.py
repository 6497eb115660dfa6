"""What the owner says and remembers: its row on disk, its status, and how long each state takes."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from dataclasses import dataclass
from statistics import median

from engine.api_device import BackendName, DeviceStatus
from engine.api_device import DeviceState as State
from engine.device.contracts import MemorySample, ProcessId
from engine.device.eta import KEPT, eta_seconds
from engine.device.journal import DeviceJournal, DeviceRow, Spent
from engine.device.states import Policy, Snapshot
from registry.clock import Clock, timestamp
from registry.errors import DatabaseError

LEARNED = frozenset(
    {
        (State.RECONCILE, State.COLD),
        (State.RECONCILE, State.STARTING),
        (State.STARTING, State.SERVING),
        (State.STARTING, State.VERIFYING),
        (State.DRAINING, State.SLEEPING),
        (State.DRAINING, State.STOPPING),
        (State.SLEEPING, State.PREFLIGHT),
        (State.PREFLIGHT, State.TRAINING),
        (State.TRAINING, State.RECLAIMING),
        (State.RECLAIMING, State.WAKING),
        (State.RECLAIMING, State.STARTING),
        (State.WAKING, State.VERIFYING),
        (State.VERIFYING, State.SERVING),
        (State.STOPPING, State.STARTING),
        (State.STOPPING, State.PREFLIGHT),
    }
)
"""Ways out of a state after which its duration is worth remembering: those on which nothing went wrong."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What is observed beside the snapshot."""

    server: ProcessId | None = None
    trainer: ProcessId | None = None
    in_flight: int = 0
    waiting: int = 0
    adapters: tuple[str, ...] = ()
    oracle_sha: str | None = None
    baseline_mib: int | None = None
    memory: MemorySample | None = None
    training_left_s: float | None = None


class Ledger:
    """The one writer of the device's row. Belongs to the owner's loop."""

    def __init__(self, journal: DeviceJournal, clock: Clock, ids: tuple[str, str], model: str) -> None:
        """
        Args:
            ids: the device's id and the machine's boot id.
            model: base model; with the backend's name it names a server whose sleep may not be trusted.
        """
        self._journal = journal
        self._clock = clock
        self.device_id, self._boot_id = ids
        self._model = model
        self._durations: dict[tuple[BackendName, State], deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._entered = clock.monotonic()
        self._since = timestamp(clock.now())

    async def open(self) -> tuple[int, frozenset[BackendName]]:
        """Read what earlier engines learned; gives the last epoch and the backends whose sleep is not trusted."""
        known = await self._journal.read()
        for spent in known.spent:
            self._durations[spent.backend, spent.state].append(spent.seconds)
        distrusted = frozenset(backend for backend in BackendName if self._server(backend) in known.distrusted)
        return (known.row.epoch if known.row else 0), distrusted

    @property
    def elapsed_s(self) -> float:
        """Since the entry to the present state."""
        return self._clock.monotonic() - self._entered

    def wake_expected_s(self, backend: BackendName, guess: float) -> float:
        """Of a wake, learned."""
        known = self._durations.get((backend, State.WAKING))
        return median(known) if known else guess

    async def write(self, before: Snapshot | None, after: Snapshot, facts: Facts, policy: Policy) -> None:
        """Put the row on disk. A disk that fails is noted and does not stop the device: the row is advice."""
        entered = before is None or before.step != after.step
        spent = self._leave(before, after) if before is not None and entered else None
        told = entered or before.reason != after.reason  # type: ignore[union-attr] # entered where there is none
        distrust = after.distrusted - (before.distrusted if before is not None else after.distrusted)
        names = [self._server(backend) for backend in sorted(distrust)]
        status = self.status(after, facts, policy) if told else None
        try:
            await self._journal.write(self._row(after, facts), status, spent, names)
        except DatabaseError as error:
            log.error("the device's state could not be recorded: %s", error)

    def _leave(self, before: Snapshot, after: Snapshot) -> Spent | None:
        now = self._clock.monotonic()
        seconds, self._entered = max(0.0, now - self._entered), now
        self._since = timestamp(self._clock.now())
        if (before.state, after.state) not in LEARNED:
            return None
        backend = after.backend if before.state is State.RECONCILE else before.backend
        self._durations[backend, before.state].append(seconds)
        return Spent(backend, before.state, seconds)

    def _row(self, snapshot: Snapshot, facts: Facts) -> DeviceRow:
        job = snapshot.job
        return DeviceRow(
            id=self.device_id,
            epoch=snapshot.epoch,
            state=snapshot.state,
            desired=snapshot.desired,
            backend=snapshot.backend,
            boot_id=self._boot_id,
            reason=snapshot.reason,
            job_id=job.id if job else None,
            server=facts.server,
            trainer=facts.trainer,
            need_mib=job.need_mib if job else None,
            baseline_mib=facts.baseline_mib,
            oracle_sha=facts.oracle_sha,
            sleep_trust=snapshot.may_sleep,
        )

    def status(self, snapshot: Snapshot, facts: Facts, policy: Policy) -> DeviceStatus:
        """The picture that everybody else gets."""
        return DeviceStatus(
            id=self.device_id,
            state=snapshot.state,
            reason=snapshot.reason,
            since=self._since,
            eta_seconds=self.eta_seconds(snapshot, facts, policy),
            epoch=snapshot.epoch,
            backend=snapshot.backend,
            job_id=snapshot.job.id if snapshot.job else None,
            waiting=facts.waiting,
            in_flight=facts.in_flight,
            adapters=facts.adapters,
            sleep_trusted=snapshot.may_sleep,
            free_mib=facts.memory.free_mib if facts.memory else None,
            total_mib=facts.memory.total_mib if facts.memory else None,
        )

    def eta_seconds(self, snapshot: Snapshot, facts: Facts, policy: Policy) -> float | None:
        """Until requests are admitted."""
        backend = snapshot.backend
        return eta_seconds(
            snapshot,
            self.elapsed_s,
            {state: list(values) for (name, state), values in self._durations.items() if name == backend},
            can_sleep=backend in policy.sleepers,
            training_left_s=facts.training_left_s,
        )

    def _server(self, backend: BackendName) -> str:
        return f"{backend}/{self._model}"
