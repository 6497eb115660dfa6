-- The history of what was changed: one row each, in the change's own transaction. Undo and redo move along it.
CREATE TABLE registry_changes (
    number      INTEGER PRIMARY KEY,
    subject     TEXT NOT NULL CHECK (subject GLOB 'adapter/?*' OR subject GLOB 'alias/?*'),
    what        TEXT NOT NULL CHECK (what <> ''),
    -- Objects with the same keys: a column of the adapter, or the name of an alias, which has an @ in it.
    was         TEXT NOT NULL CHECK (was GLOB '{*}'),
    became      TEXT NOT NULL CHECK (became GLOB '{*}'),
    forced      INTEGER NOT NULL CHECK (forced IN (0, 1)),
    state       TEXT NOT NULL CHECK (state IN ('done', 'undone', 'dropped')),
    recorded_at TEXT NOT NULL
) STRICT;
CREATE INDEX registry_changes_by_state ON registry_changes (state, number);
CREATE INDEX registry_changes_of ON registry_changes (subject, number);

-- The score that a change gave; it counts while that change is done. NULL: from before there was a history.
ALTER TABLE adapter_evaluations ADD COLUMN change INTEGER REFERENCES registry_changes (number);

-- Promotions carry what they rest on, and may stay at a tier: an adapter can become the champion of the one it is at.
-- SQLite cannot drop a CHECK, so the table is made again.
CREATE TABLE adapter_promotions_with_evidence (
    number      INTEGER PRIMARY KEY,
    adapter_id  TEXT NOT NULL REFERENCES adapters (id),
    from_tier   TEXT NOT NULL CHECK (from_tier IN ('task', 'domain', 'project')),
    to_tier     TEXT NOT NULL CHECK (to_tier IN ('task', 'domain', 'project')),
    reason      TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    evidence    TEXT CHECK (evidence GLOB '{*}'),
    forced      INTEGER NOT NULL DEFAULT 0 CHECK (forced IN (0, 1)),
    change      INTEGER REFERENCES registry_changes (number)
) STRICT;
INSERT INTO adapter_promotions_with_evidence (number, adapter_id, from_tier, to_tier, reason, recorded_at)
SELECT number, adapter_id, from_tier, to_tier, reason, recorded_at FROM adapter_promotions;
DROP TABLE adapter_promotions;
ALTER TABLE adapter_promotions_with_evidence RENAME TO adapter_promotions;
CREATE INDEX adapter_promotions_of ON adapter_promotions (adapter_id, number);
