-- list_series --
-- Every symbol and timeframe that has candles, found by walking the primary key.
WITH RECURSIVE series AS (
    (SELECT symbol, timeframe FROM market.candles ORDER BY symbol, timeframe LIMIT 1)
    UNION ALL
    SELECT following.* FROM series CROSS JOIN LATERAL (
        SELECT c.symbol, c.timeframe FROM market.candles AS c
        WHERE (c.symbol, c.timeframe) > (series.symbol, series.timeframe)
        ORDER BY c.symbol, c.timeframe LIMIT 1) AS following
)
SELECT symbol, timeframe FROM series;

-- describe_series --
-- Every symbol and timeframe with its first and last bar.
SELECT s.symbol, s.timeframe, n.bars, n.first, n.last
FROM ({series}) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS bars, min(open_time) AS first, max(open_time) AS last
    FROM market.candles AS c WHERE c.symbol = s.symbol AND c.timeframe = s.timeframe) AS n;

-- first_bar --
-- When the first bar of a series opened.
SELECT open_time FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
ORDER BY open_time
LIMIT 1;

-- closed_bars --
-- When each closed bar of a series opened from an instant on, and when it was last written.
SELECT open_time, created_timestamp
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time BETWEEN %(first_open)s AND %(last_open)s
ORDER BY open_time;

-- bar_before --
-- The bar that has so many others between it and an instant; no row where there are fewer.
SELECT open_time FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time < %(before)s
ORDER BY open_time DESC
OFFSET %(skipped)s
LIMIT 1;

-- bar_after --
-- The bar that has so many others between an instant and itself; no row where there are fewer.
SELECT open_time FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time > %(after)s
ORDER BY open_time
OFFSET %(skipped)s
LIMIT 1;

-- bars --
-- The closed bars of a series in a range of open times.
SELECT open_time, open, high, low, close, volume,
       coalesce(quote_volume, 'NaN'::float8), coalesce(trade_count, 'NaN'::float8), created_timestamp
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time BETWEEN %(first_open)s AND %(last_open)s
ORDER BY open_time;
