-- What was measured. A sample's key is the digest of everything that its outcome depends on: the task with its hidden
-- inputs, the prompt, the sampling, the model and the adapter. So nothing is measured twice, by whatever report.
CREATE TABLE evaluation_samples (
    key        TEXT    PRIMARY KEY CHECK (length(key) = 64),
    outcome    TEXT    NOT NULL CHECK (outcome IN ('passed', 'failed')),
    reason     TEXT    NOT NULL,
    code       TEXT    NOT NULL,
    backend    TEXT    NOT NULL,
    proven     INTEGER NOT NULL CHECK (proven IN (0, 1)),
    tokens     INTEGER NOT NULL CHECK (tokens >= 0),
    created_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- A report's key is the digest of what was asked for and of its samples' keys.
CREATE TABLE evaluations (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    key            TEXT    NOT NULL UNIQUE CHECK (length(key) = 64),
    adapter        TEXT    NOT NULL,
    adapter_digest TEXT,
    suite          TEXT    NOT NULL,
    split          TEXT    NOT NULL,
    report         TEXT    NOT NULL
) STRICT;

CREATE INDEX evaluations_by_adapter ON evaluations (adapter_digest, suite, split, number);
CREATE INDEX evaluations_by_name ON evaluations (adapter, number);
