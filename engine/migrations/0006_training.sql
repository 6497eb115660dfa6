-- Training jobs: what each is to learn, in which order, and what came of it. State, reason and times are the job's
-- row's: one owner of each piece of state. A published adapter's row and this one are written in one transaction, so
-- that the data, recipe, seed, base and metrics of every trained adapter are here, by its id.
CREATE TABLE training_jobs (
    id              TEXT    PRIMARY KEY REFERENCES jobs (id),
    request         TEXT    NOT NULL,
    recipe          TEXT    NOT NULL,
    adapter_id      TEXT    NOT NULL,
    data_digest     TEXT    NOT NULL CHECK (length(data_digest) = 64 AND data_digest NOT GLOB '*[^0-9a-f]*'),
    base_digest     TEXT    NOT NULL DEFAULT '',
    place           REAL    NOT NULL,
    pause_requested INTEGER NOT NULL DEFAULT 0 CHECK (pause_requested IN (0, 1)),
    from_scratch    INTEGER NOT NULL DEFAULT 0 CHECK (from_scratch IN (0, 1)),
    progress        TEXT,
    metrics         TEXT    NOT NULL DEFAULT '{}'
) STRICT, WITHOUT ROWID;

-- The claim takes the queued job with the lowest place.
CREATE INDEX training_jobs_by_place ON training_jobs (place);
-- Where an adapter came from; and whether its id is spoken for.
CREATE INDEX training_jobs_by_adapter ON training_jobs (lower(adapter_id));
