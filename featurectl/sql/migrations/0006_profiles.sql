-- What features looked like over windows, to compare later ones with; one of a project's profiles is its baseline.
CREATE TABLE IF NOT EXISTS featurectl.profiles (
    project text NOT NULL,
    name text NOT NULL,
    window_start timestamptz,
    window_end timestamptz,
    is_baseline boolean NOT NULL DEFAULT false,
    saved_at timestamptz NOT NULL,
    PRIMARY KEY (project, name)
);

CREATE UNIQUE INDEX IF NOT EXISTS profiles_baseline ON featurectl.profiles (project) WHERE is_baseline;

-- Entity *_1h is all of a timeframe together, an empty one all of a view without timeframes. pieces are counts by piece of the window and bin, row after row.
CREATE TABLE IF NOT EXISTS featurectl.profile_features (
    project text NOT NULL,
    name text NOT NULL,
    view text NOT NULL,
    feature text NOT NULL,
    entity text NOT NULL,
    scale text NOT NULL,
    row_count bigint NOT NULL,
    null_count bigint NOT NULL,
    value_count bigint NOT NULL,
    mean double precision,
    std double precision,
    sketch double precision[] NOT NULL,
    edges double precision[] NOT NULL,
    pieces bigint[] NOT NULL,
    statistics jsonb NOT NULL,
    PRIMARY KEY (project, name, view, feature, entity),
    FOREIGN KEY (project, name) REFERENCES featurectl.profiles (project, name) ON DELETE CASCADE
);
