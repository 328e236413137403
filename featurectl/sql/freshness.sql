-- clocks_of_view --
-- The newest row of each entity in a view's source, and its event time online; either may be missing.
WITH RECURSIVE {entities},
computed AS (
    SELECT {entity_keys}, r.event
    FROM entities
    CROSS JOIN LATERAL (
        SELECT {event} AS event FROM {source} AS s WHERE {match} AND {until} ORDER BY {order} LIMIT 1
    ) AS r
)
SELECT c.event, o.event_timestamp, {key_texts}
FROM computed AS c FULL JOIN {online} AS o USING ({key_names});

-- newest_closed_bars --
-- The newest closed bar of every series of candles: when it closed.
WITH RECURSIVE lengths AS (
    SELECT * FROM unnest(%(timeframes)s::text[], %(lengths)s::interval[]) AS l (timeframe, length)
),
series AS ({series})
SELECT s.symbol, s.timeframe, (
    SELECT c.open_time + l.length FROM market.candles AS c
    WHERE c.symbol = s.symbol AND c.timeframe = s.timeframe AND c.open_time <= %(now)s - l.length
    ORDER BY c.open_time DESC LIMIT 1)
FROM series AS s JOIN lengths AS l USING (timeframe);

-- ends_of_rows --
-- The times of the first and of the newest row of each symbol in a table of the market, none after an instant.
WITH RECURSIVE {entities}
SELECT entities.symbol, min(first.time), max(newest.time)
FROM entities
CROSS JOIN LATERAL (
    SELECT s.time FROM {source} AS s WHERE {match} AND s.time <= {now} ORDER BY s.time LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT s.time FROM {source} AS s WHERE {match} AND s.time <= {now} ORDER BY s.time DESC LIMIT 1
) AS newest
GROUP BY entities.symbol;

-- looked_at --
-- The series of a feature table that were computed, also those for which there was nothing to say.
SELECT symbol, timeframe FROM featurectl.computed_series
WHERE feature_table = %(table)s AND computed_until IS NOT NULL;
