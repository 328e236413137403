-- Order book, trades and signals; what was written to them since features were computed; features known one by one.

-- One row an instant: of several updates with the same time the last one counts. Sizes may be summed over levels.
CREATE TABLE IF NOT EXISTS market.order_book (
    symbol text NOT NULL,
    time timestamptz NOT NULL,
    bid double precision NOT NULL,
    bid_size double precision NOT NULL,
    ask double precision NOT NULL,
    ask_size double precision NOT NULL,
    created_timestamp timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, time)
);

-- side is the aggressor's: buy or sell, null where the source does not say.
CREATE TABLE IF NOT EXISTS market.trades (
    symbol text NOT NULL,
    time timestamptz NOT NULL,
    trade_id text NOT NULL,
    price double precision NOT NULL,
    size double precision NOT NULL,
    side text CHECK (side IN ('buy', 'sell')),
    created_timestamp timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, time, trade_id)
);

-- Scores by name; symbol * is the whole market.
CREATE TABLE IF NOT EXISTS market.signals (
    symbol text NOT NULL,
    name text NOT NULL,
    time timestamptz NOT NULL,
    score double precision NOT NULL,
    created_timestamp timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, name, time)
);

-- Which times of a symbol were written to a table; every feature table takes note of those it has been computed for.
CREATE TABLE IF NOT EXISTS featurectl.changes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL,
    symbol text NOT NULL,
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL
);

-- By series, for what is written for the whole market concerns each symbol, and a run may leave timeframes out.
CREATE TABLE IF NOT EXISTS featurectl.changes_seen (
    change_id bigint NOT NULL REFERENCES featurectl.changes (id) ON DELETE CASCADE,
    feature_table text NOT NULL,
    symbol text NOT NULL,
    timeframe text NOT NULL,
    PRIMARY KEY (change_id, feature_table, symbol, timeframe)
);

CREATE INDEX IF NOT EXISTS changes_of_symbol ON featurectl.changes (symbol, source);

-- Each feature has a hash of its own, so that a changed function makes only its own feature out of date.
ALTER TABLE featurectl.computed_series DROP COLUMN IF EXISTS functions_hash;
ALTER TABLE featurectl.computed_series ADD COLUMN IF NOT EXISTS feature_hashes jsonb NOT NULL DEFAULT '{}';
-- Up to when features of ticks and signals have been computed: every instant on their grid until then.
ALTER TABLE featurectl.computed_series ADD COLUMN IF NOT EXISTS computed_until timestamptz;
