-- What a session was asked and how far it is. Its state is its job's: one owner of each piece of state.
CREATE TABLE sessions (
    id            TEXT    PRIMARY KEY REFERENCES jobs (id),
    task          TEXT    NOT NULL,
    run_id        TEXT,
    outcome       TEXT
        CHECK (outcome IN ('verified', 'verified-in-process', 'self-checked', 'failed', 'error', 'cancelled')),
    phases        TEXT    NOT NULL DEFAULT '[]',
    attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    tokens        INTEGER NOT NULL DEFAULT 0 CHECK (tokens >= 0),
    seconds       REAL    NOT NULL DEFAULT 0 CHECK (seconds >= 0),
    adapter       TEXT,
    backend       TEXT    NOT NULL DEFAULT '',
    model         TEXT    NOT NULL DEFAULT '',
    sandbox_level TEXT    NOT NULL DEFAULT '',
    code          TEXT,
    summary       TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX sessions_by_run ON sessions (run_id) WHERE run_id IS NOT NULL;
