-- computed_bars --
-- Which bars of a series have features, and the state of the candle they were computed from.
SELECT {event}, coalesce(source_created_timestamp, 'epoch'::timestamptz)
FROM {table}
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
ORDER BY {event};

-- computed_with --
-- The functions with which a series was last computed as a whole.
SELECT functions_hash FROM featurectl.computed_series
WHERE feature_table = %(table)s AND symbol = %(symbol)s AND timeframe = %(timeframe)s;

-- record_computed --
-- Note that a series is up to date with these functions as a whole.
INSERT INTO featurectl.computed_series AS s (feature_table, symbol, timeframe, functions_hash)
VALUES (%(table)s, %(symbol)s, %(timeframe)s, %(functions_hash)s)
ON CONFLICT (feature_table, symbol, timeframe) DO UPDATE SET functions_hash = excluded.functions_hash
WHERE s.functions_hash <> excluded.functions_hash;

-- create_staging --
-- A table for the features of one series, gone with the transaction.
CREATE TEMPORARY TABLE staged_features (
    event_timestamp timestamptz NOT NULL, source_created_timestamp timestamptz NOT NULL{columns}
) ON COMMIT DROP;

-- merge_staging --
-- Staged features into the view's table; rows that stay as they were are not written.
WITH merged AS (
    INSERT INTO {table} AS f (symbol, timeframe, {event}, {created}, source_created_timestamp{features})
    SELECT %(symbol)s, %(timeframe)s, event_timestamp, %(now)s, source_created_timestamp{staged}
    FROM staged_features
    ORDER BY event_timestamp
    ON CONFLICT (symbol, timeframe, {event}) DO UPDATE
    SET ({assigned}) = ROW({assigned_values}),
        {created} = greatest(excluded.{created}, f.{created} + interval '1 microsecond')
    WHERE ({existing_values}) IS DISTINCT FROM ({assigned_values})
    RETURNING (xmax = 0) AS inserted
)
SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted) FROM merged;
