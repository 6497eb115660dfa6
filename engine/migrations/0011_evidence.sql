-- Looks at a candidate. Another seed draws other hidden inputs, so whoever looks again with one has a second chance to
-- be lucky: what a look must show grows with the looks before it. A row is written before its first answer is measured,
-- so a look that was broken off counts; the same seed again is the same look.
CREATE TABLE evidence_looks (
    number         INTEGER PRIMARY KEY AUTOINCREMENT,
    adapter_digest TEXT    NOT NULL CHECK (length(adapter_digest) = 64),
    task_type      TEXT    NOT NULL,
    suite          TEXT    NOT NULL,
    seed           INTEGER NOT NULL CHECK (seed >= 0),
    looked_at      TEXT    NOT NULL,
    UNIQUE (adapter_digest, task_type, suite, seed)
) STRICT;

-- Perplexity and KL divergence on a fixed text, measured once: they depend on nothing but these three digests.
CREATE TABLE text_drifts (
    adapter_digest TEXT NOT NULL CHECK (length(adapter_digest) = 64),
    base_digest    TEXT NOT NULL CHECK (length(base_digest) = 64),
    text_digest    TEXT NOT NULL CHECK (length(text_digest) = 64),
    figures        TEXT NOT NULL CHECK (figures GLOB '{*'),
    measured_at    TEXT NOT NULL,
    PRIMARY KEY (adapter_digest, base_digest, text_digest)
) STRICT, WITHOUT ROWID;
