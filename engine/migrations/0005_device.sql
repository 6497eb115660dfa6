-- Who has the device, as last decided. Intent is written before an action, its outcome after it was observed: a
-- crash between the two is seen by comparing the row with what there really is. Advice; observation is the truth.
CREATE TABLE devices (
    id                 TEXT    PRIMARY KEY,
    epoch              INTEGER NOT NULL CHECK (epoch >= 0),
    state              TEXT    NOT NULL
        CHECK (state IN ('reconcile', 'cold', 'starting', 'serving', 'draining', 'sleeping', 'preflight', 'training',
                         'reclaiming', 'waking', 'verifying', 'stopping', 'fault')),
    desired            TEXT    NOT NULL CHECK (desired IN ('serve', 'train', 'off')),
    backend            TEXT    NOT NULL,
    job_id             TEXT,
    boot_id            TEXT    NOT NULL,
    server_pid         INTEGER CHECK (server_pid >= 2),
    server_start_time  INTEGER,
    trainer_pid        INTEGER CHECK (trainer_pid >= 2),
    trainer_start_time INTEGER,
    need_mib           INTEGER,
    baseline_mib       INTEGER,
    oracle_sha         TEXT,
    sleep_trust        INTEGER NOT NULL CHECK (sleep_trust IN (0, 1)),
    reason             TEXT    NOT NULL,
    t                  TEXT    NOT NULL,
    CHECK ((server_pid IS NULL) = (server_start_time IS NULL)),
    CHECK ((trainer_pid IS NULL) = (trainer_start_time IS NULL))
) STRICT, WITHOUT ROWID;

-- Model servers that answered wrongly after a wake on this device: never put to sleep again.
CREATE TABLE device_distrust (
    device_id TEXT NOT NULL REFERENCES devices (id),
    server    TEXT NOT NULL,
    reason    TEXT NOT NULL,
    t         TEXT NOT NULL,
    PRIMARY KEY (device_id, server)
) STRICT, WITHOUT ROWID;

-- How long each state lasted, from which the ETA of the next handover is learned. The newest few of each are kept.
CREATE TABLE device_durations (
    number    INTEGER PRIMARY KEY AUTOINCREMENT,
    device_id TEXT    NOT NULL REFERENCES devices (id),
    backend   TEXT    NOT NULL,
    state     TEXT    NOT NULL,
    seconds   REAL    NOT NULL CHECK (seconds >= 0)
) STRICT;

CREATE INDEX device_durations_by_state ON device_durations (device_id, backend, state, number);
