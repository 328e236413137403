-- computed_bars --
-- Which bars of a series have features, and the state of the candle they were computed from.
SELECT {event}, coalesce(source_created_timestamp, 'epoch'::timestamptz)
FROM {table}
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND {event} > %(first_open)s AND {event} <= %(last_event)s
ORDER BY {event};

-- newest_computed --
-- The newest event time of a series that has features; no row without any.
SELECT {event} FROM {table}
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
ORDER BY {event} DESC
LIMIT 1;

-- computed_with --
-- The functions, by feature, with which a series was last computed as a whole.
SELECT feature_hashes FROM featurectl.computed_series
WHERE feature_table = %(table)s AND symbol = %(symbol)s AND timeframe = %(timeframe)s;

-- record_computed --
-- Note that a series is up to date with these functions as a whole.
INSERT INTO featurectl.computed_series AS s (feature_table, symbol, timeframe, feature_hashes)
VALUES (%(table)s, %(symbol)s, %(timeframe)s, %(feature_hashes)s::jsonb)
ON CONFLICT (feature_table, symbol, timeframe) DO UPDATE SET feature_hashes = excluded.feature_hashes
WHERE s.feature_hashes <> excluded.feature_hashes;
