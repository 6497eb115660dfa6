-- Every attempt of every session, whole. `step` names the place in the session where it was made, so that a session
-- that is resumed after a crash finds the attempt that was recorded already instead of making or recording it twice.
CREATE TABLE attempts (
    session_id     TEXT    NOT NULL,
    number         INTEGER NOT NULL CHECK (number >= 1),
    step           TEXT    NOT NULL,
    phase          TEXT    NOT NULL
        CHECK (phase IN ('attempt', 'decompose', 'plan', 'code', 'integrate', 'diagnose', 'repair')),
    passed         INTEGER NOT NULL CHECK (passed IN (0, 1)),
    record         TEXT    NOT NULL,
    schema_version INTEGER NOT NULL CHECK (schema_version >= 1),
    created_at     TEXT    NOT NULL,
    PRIMARY KEY (session_id, number),
    UNIQUE (session_id, step)
) STRICT, WITHOUT ROWID;

-- Export since a moment.
CREATE INDEX attempts_by_time ON attempts (created_at, session_id, number);
