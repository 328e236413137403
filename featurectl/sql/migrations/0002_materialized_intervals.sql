-- What the compute engine has materialized, kept where no stale copy of Feast's registry overwrites it.
-- An interval [start, end] of whole microseconds stands as [start, end + 1 microsecond), so that adjacent ones merge.
CREATE TABLE IF NOT EXISTS featurectl.materialized_intervals (
    project text NOT NULL,
    view text NOT NULL,
    intervals tstzmultirange NOT NULL,
    PRIMARY KEY (project, view)
);
