-- The journal: one row for every state change, written in the transaction of the change. Append-only.
CREATE TABLE events (
    sequence       INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT    NOT NULL UNIQUE,
    kind           TEXT    NOT NULL CHECK (kind IN ('created', 'updated', 'deleted')),
    subject        TEXT    NOT NULL,
    payload        TEXT    NOT NULL,
    source         TEXT    NOT NULL,
    session_id     TEXT,
    timestamp      TEXT    NOT NULL,
    schema_version INTEGER NOT NULL
) STRICT;

-- Replay of one session.
CREATE INDEX events_by_session ON events (session_id, sequence) WHERE session_id IS NOT NULL;

CREATE TRIGGER events_are_never_changed BEFORE UPDATE ON events
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;

CREATE TRIGGER events_are_never_deleted BEFORE DELETE ON events
BEGIN
    SELECT RAISE(ABORT, 'the journal is append-only');
END;
