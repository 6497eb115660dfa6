"""What the device's owner has on disk: one row for each device, how long its states took, whose sleep is not trusted.

The row is written before what it says is done, with one event `device/<id>` in the same transaction; what was then
observed is the next row. It is advice: the next engine believes it only where the processes that it names live.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.api_device import BackendName, DeviceState, DeviceStatus
from engine.api_models import EventKind
from engine.device.contracts import ProcessId
from engine.device.eta import KEPT
from engine.device.states import Desired
from registry.clock import Clock, timestamp
from registry.db import Database, Reader, Row, Transaction
from registry.journal import Recorder

_COLUMNS = (
    "id, epoch, state, desired, backend, job_id, boot_id, server_pid, server_start_time, trainer_pid,"
    " trainer_start_time, need_mib, baseline_mib, oracle_sha, sleep_trust, reason, t"
)
_SELECT = f"SELECT {_COLUMNS} FROM devices WHERE id = ?"
_PUT = f"""
INSERT INTO devices ({_COLUMNS})
VALUES (:id, :epoch, :state, :desired, :backend, :job_id, :boot_id, :server_pid, :server_start_time, :trainer_pid,
        :trainer_start_time, :need_mib, :baseline_mib, :oracle_sha, :sleep_trust, :reason, :t)
ON CONFLICT (id) DO UPDATE SET
    epoch = excluded.epoch, state = excluded.state, desired = excluded.desired, backend = excluded.backend,
    job_id = excluded.job_id, boot_id = excluded.boot_id, server_pid = excluded.server_pid,
    server_start_time = excluded.server_start_time, trainer_pid = excluded.trainer_pid,
    trainer_start_time = excluded.trainer_start_time, need_mib = excluded.need_mib,
    baseline_mib = excluded.baseline_mib, oracle_sha = excluded.oracle_sha, sleep_trust = excluded.sleep_trust,
    reason = excluded.reason, t = excluded.t
"""
_ADD_DURATION = "INSERT INTO device_durations (device_id, backend, state, seconds) VALUES (?, ?, ?, ?)"
_FORGET_DURATIONS = """
DELETE FROM device_durations WHERE device_id = ? AND backend = ? AND state = ? AND number NOT IN (
    SELECT number FROM device_durations WHERE device_id = ? AND backend = ? AND state = ? ORDER BY number DESC LIMIT ?)
"""
_DURATIONS = "SELECT backend, state, seconds FROM device_durations WHERE device_id = ? ORDER BY number"
_DISTRUST = "INSERT OR IGNORE INTO device_distrust (device_id, server, reason, t) VALUES (?, ?, ?, ?)"
_DISTRUSTED = "SELECT server FROM device_distrust WHERE device_id = ?"


@dataclass(frozen=True)
class DeviceRow:
    """The row of a device."""

    id: str
    epoch: int
    state: DeviceState
    desired: Desired
    backend: BackendName
    boot_id: str
    reason: str
    job_id: str | None = None
    server: ProcessId | None = None
    trainer: ProcessId | None = None
    need_mib: int | None = None
    baseline_mib: int | None = None
    oracle_sha: str | None = None
    sleep_trust: bool = True


@dataclass(frozen=True)
class Spent:
    """A state that was left, and how long it took."""

    backend: BackendName
    state: DeviceState
    seconds: float


@dataclass(frozen=True)
class Remembered:
    """What an engine finds of its predecessors."""

    row: DeviceRow | None
    spent: tuple[Spent, ...]
    """Oldest first."""
    distrusted: frozenset[str]
    """Names of model servers, as they were given to `write`."""


class DeviceJournal:
    """The device's rows in the engine's database."""

    def __init__(self, db: Database, recorder: Recorder, clock: Clock, device_id: str) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock
        self._id = device_id

    async def read(self) -> Remembered:
        """What is known of this device."""
        return await self._db.read(self._read)

    def _read(self, reader: Reader) -> Remembered:
        found = reader.execute(_SELECT, (self._id,)).fetchone()
        spent = tuple(
            Spent(BackendName(row["backend"]), DeviceState(row["state"]), row["seconds"])
            for row in reader.execute(_DURATIONS, (self._id,))
        )
        distrusted = frozenset(row["server"] for row in reader.execute(_DISTRUSTED, (self._id,)))
        return Remembered(None if found is None else _row(found), spent, distrusted)

    async def write(
        self, row: DeviceRow, status: DeviceStatus | None, spent: Spent | None = None, distrust: Sequence[str] = ()
    ) -> None:
        """Put the row, what was learned, and the event, in one transaction.

        Args:
            status: the event's payload; None where the state is the same as before and there is nothing to tell.
            distrust: names of model servers whose sleep is not trusted from now on.
        """
        await self._db.write(lambda tx: self._write(tx, row, status, spent, distrust))

    def _write(
        self,
        tx: Transaction,
        row: DeviceRow,
        status: DeviceStatus | None,
        spent: Spent | None,
        distrust: Sequence[str],
    ) -> None:
        now = timestamp(self._clock.now())
        is_new = tx.execute(_SELECT, (row.id,)).fetchone() is None
        tx.execute(_PUT, {**_values(row), "t": now})
        if spent is not None:
            key = (row.id, spent.backend, spent.state)
            tx.execute(_ADD_DURATION, (*key, spent.seconds))
            tx.execute(_FORGET_DURATIONS, (*key, *key, KEPT))
        for server in distrust:
            tx.execute(_DISTRUST, (row.id, server, row.reason, now))
        if status is not None:
            kind = EventKind.CREATED if is_new else EventKind.UPDATED
            payload = status.model_dump(mode="json")
            self._recorder.record(tx, kind=kind, subject=f"device/{row.id}", payload=payload)


def _values(row: DeviceRow) -> Mapping[str, object]:
    return {
        "id": row.id,
        "epoch": row.epoch,
        "state": row.state,
        "desired": row.desired,
        "backend": row.backend,
        "job_id": row.job_id,
        "boot_id": row.boot_id,
        "server_pid": row.server.pid if row.server else None,
        "server_start_time": row.server.start_time if row.server else None,
        "trainer_pid": row.trainer.pid if row.trainer else None,
        "trainer_start_time": row.trainer.start_time if row.trainer else None,
        "need_mib": row.need_mib,
        "baseline_mib": row.baseline_mib,
        "oracle_sha": row.oracle_sha,
        "sleep_trust": int(row.sleep_trust),
        "reason": row.reason,
    }


def _row(row: Row) -> DeviceRow:
    return DeviceRow(
        id=row["id"],
        epoch=row["epoch"],
        state=DeviceState(row["state"]),
        desired=Desired(row["desired"]),
        backend=BackendName(row["backend"]),
        boot_id=row["boot_id"],
        reason=row["reason"],
        job_id=row["job_id"],
        server=_process(row["server_pid"], row["server_start_time"]),
        trainer=_process(row["trainer_pid"], row["trainer_start_time"]),
        need_mib=row["need_mib"],
        baseline_mib=row["baseline_mib"],
        oracle_sha=row["oracle_sha"],
        sleep_trust=bool(row["sleep_trust"]),
    )


def _process(pid: int | None, start_time: int | None) -> ProcessId | None:
    return None if pid is None or start_time is None else ProcessId(pid, start_time)
