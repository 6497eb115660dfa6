-- Adapters: one row each, immutable but for tier, scores, archived, quarantined and verified_at.

CREATE TABLE adapters (
    id                 TEXT NOT NULL PRIMARY KEY
                       CHECK (length(id) BETWEEN 1 AND 100 AND id NOT GLOB '*[^A-Za-z0-9._-]*' AND id NOT GLOB '.*'),
    version            INTEGER NOT NULL CHECK (version >= 1),
    task_type          TEXT NOT NULL,
    base_model_id      TEXT NOT NULL CHECK (base_model_id <> ''),
    rank               INTEGER NOT NULL CHECK (rank >= 1),
    alpha              REAL NOT NULL CHECK (alpha > 0),
    target_modules     TEXT NOT NULL CHECK (target_modules GLOB '[[]"*"]'),
    created_at         TEXT NOT NULL,
    digest             TEXT NOT NULL CHECK (length(digest) = 64 AND digest NOT GLOB '*[^0-9a-f]*'),
    file_hash          TEXT NOT NULL CHECK (length(file_hash) = 64 AND file_hash NOT GLOB '*[^0-9a-f]*'),
    file_size_bytes    INTEGER NOT NULL CHECK (file_size_bytes > 0),
    pass_rate          REAL CHECK (pass_rate BETWEEN 0 AND 1),
    fitness_score      REAL CHECK (fitness_score BETWEEN 0 AND 1),
    tier               TEXT NOT NULL CHECK (tier IN ('task', 'domain', 'project')),
    source             TEXT NOT NULL CHECK (source IN ('distillation', 'evolution', 'manual', 'qlora',
                                                       'hypernetwork', 'phased-pipeline', 'iteration')),
    session_id         TEXT,
    agent_id           TEXT,
    training_task_hash TEXT,
    is_archived        INTEGER NOT NULL DEFAULT 0 CHECK (is_archived IN (0, 1)),
    is_quarantined     INTEGER NOT NULL DEFAULT 0 CHECK (is_quarantined IN (0, 1)),
    generation         INTEGER NOT NULL CHECK (generation >= 0),
    verified_at        TEXT NOT NULL
) STRICT;

-- Two ids that differ only in case would be one file name on some disks and one word to a reader.
CREATE UNIQUE INDEX adapters_id_any_case ON adapters (lower(id));
CREATE INDEX adapters_digest ON adapters (digest);
CREATE INDEX adapters_training_task ON adapters (training_task_hash) WHERE training_task_hash IS NOT NULL;

-- One index for each main filter and sort order that a page asks for: a page is then a walk of `limit` entries.
-- The columns after `id` let the other filters be tested without reading the rows that they drop.
CREATE INDEX adapters_by_created ON adapters (created_at, id, is_archived, task_type, tier, source);
CREATE INDEX adapters_by_fitness ON adapters (ifnull(fitness_score, -1.0), id, is_archived, task_type, tier, source);
CREATE INDEX adapters_by_id ON adapters (id, is_archived, task_type, tier, source);
CREATE INDEX adapters_task_by_created ON adapters (task_type, created_at, id, is_archived, tier, source);
CREATE INDEX adapters_task_by_fitness ON adapters (task_type, ifnull(fitness_score, -1.0), id, is_archived, tier, source);
CREATE INDEX adapters_task_by_id ON adapters (task_type, id, is_archived, tier, source);
CREATE INDEX adapters_tier_by_created ON adapters (tier, created_at, id, is_archived, source);
CREATE INDEX adapters_tier_by_fitness ON adapters (tier, ifnull(fitness_score, -1.0), id, is_archived, source);
CREATE INDEX adapters_tier_by_id ON adapters (tier, id, is_archived, source);
CREATE INDEX adapters_source_by_created ON adapters (source, created_at, id, is_archived);
CREATE INDEX adapters_source_by_fitness ON adapters (source, ifnull(fitness_score, -1.0), id, is_archived);
CREATE INDEX adapters_source_by_id ON adapters (source, id, is_archived);

-- Lineage. parent_id is checked when a child is published; it is no foreign key, so that a registry restored from
-- an older snapshot can still show children of what it has lost.
CREATE TABLE adapter_parents (
    child_id  TEXT NOT NULL REFERENCES adapters (id),
    position  INTEGER NOT NULL CHECK (position >= 0),
    parent_id TEXT NOT NULL,
    PRIMARY KEY (child_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX adapter_children ON adapter_parents (parent_id, child_id);

CREATE TABLE adapter_evaluations (
    number        INTEGER PRIMARY KEY,
    adapter_id    TEXT NOT NULL REFERENCES adapters (id),
    fitness_score REAL NOT NULL CHECK (fitness_score BETWEEN 0 AND 1),
    pass_rate     REAL CHECK (pass_rate BETWEEN 0 AND 1),
    session_id    TEXT,
    recorded_at   TEXT NOT NULL
) STRICT;
CREATE INDEX adapter_evaluations_of ON adapter_evaluations (adapter_id, number);

CREATE TABLE adapter_promotions (
    number      INTEGER PRIMARY KEY,
    adapter_id  TEXT NOT NULL REFERENCES adapters (id),
    from_tier   TEXT NOT NULL CHECK (from_tier IN ('task', 'domain', 'project')),
    to_tier     TEXT NOT NULL CHECK (to_tier IN ('task', 'domain', 'project') AND to_tier <> from_tier),
    reason      TEXT NOT NULL,
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX adapter_promotions_of ON adapter_promotions (adapter_id, number);

-- Names that move: `code-gen@champion` is this adapter today.
CREATE TABLE adapter_aliases (
    name       TEXT NOT NULL PRIMARY KEY,
    adapter_id TEXT NOT NULL REFERENCES adapters (id),
    updated_at TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Files made by us from a blob's weights (its GGUF form), each with its own digest.
CREATE TABLE derived_files (
    digest          TEXT NOT NULL,
    name            TEXT NOT NULL CHECK (name IN ('adapter.gguf')),
    file_hash       TEXT NOT NULL CHECK (length(file_hash) = 64),
    file_size_bytes INTEGER NOT NULL CHECK (file_size_bytes > 0),
    PRIMARY KEY (digest, name)
) STRICT, WITHOUT ROWID;
