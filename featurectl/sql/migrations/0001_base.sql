-- The schemas, the candles, the published catalog and the ledger of materializations.
CREATE SCHEMA IF NOT EXISTS featurectl;
CREATE SCHEMA IF NOT EXISTS market;
CREATE SCHEMA IF NOT EXISTS features;

CREATE TABLE IF NOT EXISTS featurectl.migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- created_timestamp grows with every change of a row: it tells which features are out of date.
CREATE TABLE IF NOT EXISTS market.candles (
    symbol text NOT NULL,
    timeframe text NOT NULL,
    open_time timestamptz NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision NOT NULL,
    quote_volume double precision,
    trade_count double precision,
    created_timestamp timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, timeframe, open_time)
);

CREATE TABLE IF NOT EXISTS featurectl.catalogs (
    project text PRIMARY KEY,
    version integer NOT NULL,
    content_hash text NOT NULL,
    published_at timestamptz NOT NULL,
    published_by text NOT NULL
);

CREATE TABLE IF NOT EXISTS featurectl.catalog_entities (
    project text NOT NULL,
    entity text NOT NULL,
    join_key text NOT NULL,
    value_type text NOT NULL,
    description text NOT NULL,
    tags jsonb NOT NULL,
    PRIMARY KEY (project, entity)
);

CREATE TABLE IF NOT EXISTS featurectl.catalog_views (
    project text NOT NULL,
    view text NOT NULL,
    join_keys text[] NOT NULL,
    ttl_seconds double precision NOT NULL,
    online boolean NOT NULL,
    source_table text,
    source_query text,
    timestamp_column text NOT NULL,
    created_column text,
    online_table text,
    computed_from text,
    functions_file text,
    functions_hash text,
    description text NOT NULL,
    tags jsonb NOT NULL,
    PRIMARY KEY (project, view)
);

CREATE TABLE IF NOT EXISTS featurectl.catalog_fields (
    project text NOT NULL,
    view text NOT NULL,
    position integer NOT NULL,
    field text NOT NULL,
    value_type text NOT NULL,
    column_type text NOT NULL,
    source_column text NOT NULL,
    description text NOT NULL,
    tags jsonb NOT NULL,
    PRIMARY KEY (project, view, field)
);

CREATE TABLE IF NOT EXISTS featurectl.catalog_services (
    project text NOT NULL,
    service text NOT NULL,
    description text NOT NULL,
    tags jsonb NOT NULL,
    PRIMARY KEY (project, service)
);

CREATE TABLE IF NOT EXISTS featurectl.catalog_service_features (
    project text NOT NULL,
    service text NOT NULL,
    position integer NOT NULL,
    view text NOT NULL,
    feature text NOT NULL,
    PRIMARY KEY (project, service, position)
);

-- With which functions a series was computed as a whole; other functions make all of it out of date.
CREATE TABLE IF NOT EXISTS featurectl.computed_series (
    feature_table text NOT NULL,
    symbol text NOT NULL,
    timeframe text NOT NULL,
    functions_hash text NOT NULL,
    PRIMARY KEY (feature_table, symbol, timeframe)
);

CREATE TABLE IF NOT EXISTS featurectl.materializations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project text NOT NULL,
    view text NOT NULL,
    incremental boolean NOT NULL,
    window_start timestamptz,
    window_end timestamptz NOT NULL,
    entities bigint NOT NULL,
    rows_written bigint NOT NULL,
    rows_unchanged bigint NOT NULL,
    rows_older bigint NOT NULL,
    finished_at timestamptz NOT NULL
);

CREATE INDEX IF NOT EXISTS materializations_newest ON featurectl.materializations (project, view, id DESC);
