-- rows_by_cell --
-- The rows of a view's source in a window, and those with a value of each feature, by cells of time, ends included.
WITH RECURSIVE {entities}
SELECT r.cell, sum(r.rows)::bigint, {sums}
FROM entities
CROSS JOIN LATERAL (
    SELECT date_bin({step}, {event} - interval '1 microsecond', {origin}) AS cell, count(*) AS rows, {counts}
    FROM {source} AS s WHERE {match} AND {within} GROUP BY 1
) AS r
WHERE {chosen}
GROUP BY r.cell
ORDER BY r.cell;

-- price_buckets --
-- The closed bars of a series in a range of open times, as one bar a bucket of time.
SELECT date_bin(%(step)s, open_time, %(origin)s) AS bucket,
       (array_agg(open ORDER BY open_time))[1], max(high), min(low),
       (array_agg(close ORDER BY open_time DESC))[1], sum(volume), count(*)
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time BETWEEN %(first_open)s AND %(last_open)s
GROUP BY bucket
ORDER BY bucket;

-- feature_buckets --
-- The rows that an entity has in a window of a view's source, and its features' values, by buckets of time.
SELECT date_bin({step}, {event} - {shift}, {origin}) AS bucket, count(*), {features}
FROM {source} AS s
WHERE {chosen}
GROUP BY bucket
ORDER BY bucket;

-- values_of_bucket --
-- A feature's values within a bucket: how many, the last of them, the least and the greatest.
count({value}), (array_agg({value} ORDER BY {event} DESC) FILTER (WHERE {value} IS NOT NULL))[1], min({value}), max({value});

-- newest_row --
-- The newest event of any entity in a view's source, up to an instant.
WITH RECURSIVE {entities}
SELECT max(r.event)
FROM entities
CROSS JOIN LATERAL (
    SELECT {event} AS event FROM {source} AS s WHERE {match} AND {within} ORDER BY {order} LIMIT 1
) AS r
WHERE {chosen};
