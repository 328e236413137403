-- extents --
-- When the first and the last bar of each of these series opened.
SELECT s.symbol, s.timeframe, n.first, n.last
FROM unnest(%(symbols)s::text[], %(timeframes)s::text[]) AS s(symbol, timeframe)
CROSS JOIN LATERAL (
    SELECT min(open_time) AS first, max(open_time) AS last
    FROM market.candles AS c WHERE c.symbol = s.symbol AND c.timeframe = s.timeframe) AS n
WHERE n.first IS NOT NULL
ORDER BY s.symbol, s.timeframe;

-- holes --
-- The bars of a series between which others are missing, as far as they concern the time from first to last.
SELECT open_time, following
FROM (
    SELECT open_time, lead(open_time) OVER (ORDER BY open_time) AS following
    FROM market.candles
    WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
      AND open_time >= (
        SELECT max(open_time) FROM market.candles
        WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time <= %(first)s)
      AND open_time <= (
        SELECT min(open_time) FROM market.candles
        WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time >= %(last)s)
) AS neighbours
WHERE following - open_time > %(length)s
ORDER BY open_time;

-- declared --
-- Every range of bars that is known absent.
SELECT symbol, timeframe, first_time, last_time, reason, declared_at
FROM featurectl.known_absent
ORDER BY symbol, timeframe, first_time, last_time;

-- can_read_declared --
-- Whether there is a table of what is known absent, which this role may read.
SELECT coalesce(has_table_privilege(to_regclass('featurectl.known_absent'), 'SELECT'), false);

-- declare --
-- Note a range of bars as known absent; what is noted already changes where its reason does.
INSERT INTO featurectl.known_absent AS known (symbol, timeframe, first_time, last_time, reason, declared_at)
VALUES (%(symbol)s, %(timeframe)s, %(first)s, %(last)s, %(reason)s, %(now)s)
ON CONFLICT (symbol, timeframe, first_time, last_time) DO UPDATE SET
    reason = excluded.reason,
    declared_at = CASE WHEN known.reason = excluded.reason THEN known.declared_at ELSE excluded.declared_at END
RETURNING symbol, timeframe, first_time, last_time, reason, declared_at;

-- withdraw --
-- Take back that a range of bars is known absent.
DELETE FROM featurectl.known_absent
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND first_time = %(first)s AND last_time = %(last)s
RETURNING symbol, timeframe, first_time, last_time, reason, declared_at;
