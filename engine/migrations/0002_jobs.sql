-- The durable queue. A running row is a lease: (owner, attempt, boot_id) name the one engine that may finish it.
CREATE TABLE jobs (
    number           INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT    NOT NULL UNIQUE,
    kind             TEXT    NOT NULL,
    state            TEXT    NOT NULL
        CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'interrupted')),
    reason           TEXT    NOT NULL DEFAULT '',
    on_crash         TEXT    NOT NULL CHECK (on_crash IN ('requeue', 'wait')),
    owner            TEXT,
    boot_id          TEXT,
    attempt          INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    crashes          INTEGER NOT NULL DEFAULT 0 CHECK (crashes >= 0),
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    heartbeat_at     TEXT,
    created_at       TEXT    NOT NULL,
    started_at       TEXT,
    finished_at      TEXT,
    CHECK ((state = 'running') = (owner IS NOT NULL))
) STRICT;

-- The claim takes the oldest queued job of its kind; recovery finds the running ones.
CREATE INDEX jobs_by_state ON jobs (state, kind, number);
