-- Long-running operations: what each was asked for, how far it is and what came of it. State, reason and times are
-- the job's row's: one owner of each piece of state.
CREATE TABLE operations (
    id       TEXT PRIMARY KEY REFERENCES jobs (id),
    kind     TEXT NOT NULL,
    request  TEXT NOT NULL,
    progress TEXT,
    result   TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX operations_by_kind ON operations (kind);
