-- What sweeps did. A sweep is an operation; for each task type that it looked at it keeps the plan that it made at
-- first, so that a sweep that goes on after a crash does what was planned and counts it once.
CREATE TABLE evolution_sweeps (
    sweep     TEXT    NOT NULL,
    task_type TEXT    NOT NULL,
    before    INTEGER NOT NULL CHECK (before >= 0),
    pruned    TEXT    NOT NULL CHECK (pruned GLOB '[[{]*'),
    summary   TEXT    CHECK (summary IS NULL OR summary GLOB '[[{]*'),
    PRIMARY KEY (sweep, task_type)
) STRICT, WITHOUT ROWID;

-- Merges that sweeps made, each written with its child's row. The same parents are never merged twice.
-- outcome is what the gate came to; NULL: it was never looked at, and the child is not to be served.
CREATE TABLE evolution_merges (
    child_id   TEXT    NOT NULL PRIMARY KEY,
    parents    TEXT    NOT NULL UNIQUE CHECK (parents GLOB '[[{]*'),
    sweep      TEXT    NOT NULL,
    task_type  TEXT    NOT NULL,
    operator   TEXT    NOT NULL CHECK (operator GLOB '[[{]*'),
    generation INTEGER NOT NULL CHECK (generation >= 1),
    outcome    TEXT    CHECK (outcome IN ('promoted', 'challenger', 'kept')),
    created_at TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX evolution_merges_open ON evolution_merges (task_type) WHERE outcome IS NULL;

-- Adapters that exist to be compared with: in no population, and archived once they were measured. The row is
-- written before the adapter is made, so that one of which only the making was finished is never taken for more.
CREATE TABLE evolution_controls (
    adapter_id TEXT    NOT NULL PRIMARY KEY,
    sweep      TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    result     TEXT    CHECK (result IS NULL OR result GLOB '[[{]*'),
    ended      INTEGER NOT NULL DEFAULT 0 CHECK (ended IN (0, 1))
) STRICT, WITHOUT ROWID;
