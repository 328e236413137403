-- The ledger of runs, how far backfills are, and which bars are known not to exist.

-- A run that is at work holds the advisory lock of its id: one that says it is running and does not was killed.
CREATE TABLE IF NOT EXISTS featurectl.runs (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id text NOT NULL UNIQUE,
    project text NOT NULL,
    command text NOT NULL,
    arguments jsonb NOT NULL,
    version text NOT NULL,
    config_hash text NOT NULL,
    catalog_hash text,
    window_start timestamptz,
    window_end timestamptz,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    seconds double precision,
    verdict text NOT NULL CHECK (
        verdict IN ('running', 'done', 'findings', 'partly done', 'failed', 'skipped', 'interrupted')),
    exit_code integer,
    rows_read bigint NOT NULL DEFAULT 0,
    rows_written bigint NOT NULL DEFAULT 0,
    rows_unchanged bigint NOT NULL DEFAULT 0,
    rows_older bigint NOT NULL DEFAULT 0,
    rows_rejected bigint NOT NULL DEFAULT 0,
    steps jsonb NOT NULL DEFAULT '[]',
    error text,
    host text NOT NULL,
    pid integer NOT NULL
);

CREATE INDEX IF NOT EXISTS runs_newest ON featurectl.runs (project, number DESC);
CREATE INDEX IF NOT EXISTS runs_at_work ON featurectl.runs (project) WHERE verdict = 'running';

-- plan is what was asked for, with its functions; a backfill that was not finished can be resumed with the same.
CREATE TABLE IF NOT EXISTS featurectl.backfills (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project text NOT NULL,
    plan jsonb NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz
);

-- Written in the transaction that computes the chunk.
CREATE TABLE IF NOT EXISTS featurectl.backfill_chunks (
    backfill bigint NOT NULL REFERENCES featurectl.backfills (number) ON DELETE CASCADE,
    view text NOT NULL,
    symbol text NOT NULL,
    chunk_start timestamptz NOT NULL,
    rows_read bigint NOT NULL,
    rows_written bigint NOT NULL,
    PRIMARY KEY (backfill, view, symbol, chunk_start)
);

-- Bars that were never there, by their open times, both included; * stands for every symbol or timeframe.
CREATE TABLE IF NOT EXISTS featurectl.known_absent (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL,
    reason text NOT NULL,
    declared_at timestamptz NOT NULL,
    PRIMARY KEY (symbol, timeframe, first_time, last_time),
    CHECK (first_time <= last_time)
);
