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
-- When each closed bar of a series opened, and when it was last written.
SELECT open_time, created_timestamp
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time <= %(last_open)s
ORDER BY open_time;

-- bars --
-- The closed bars of a series in a range of open times.
SELECT open_time, open, high, low, close, volume,
       coalesce(quote_volume, 'NaN'::float8), coalesce(trade_count, 'NaN'::float8), created_timestamp
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s AND open_time BETWEEN %(first_open)s AND %(last_open)s
ORDER BY open_time;

-- create_staging --
-- A table for the bars of one file, gone with the transaction.
CREATE TEMPORARY TABLE staged_candles (
    open_time timestamptz NOT NULL, open float8 NOT NULL, high float8 NOT NULL, low float8 NOT NULL,
    close float8 NOT NULL, volume float8 NOT NULL, quote_volume float8 NOT NULL, trade_count float8 NOT NULL
) ON COMMIT DROP;

-- empty_staging --
-- Make room for the next series of the same file.
TRUNCATE staged_candles;

-- merge_staging --
-- Staged bars into the candles: new ones in, changed ones over the old, equal ones untouched; counts both.
WITH merged AS (
    INSERT INTO market.candles AS c (
        symbol, timeframe, open_time, open, high, low, close, volume, quote_volume, trade_count, created_timestamp)
    SELECT %(symbol)s, %(timeframe)s, open_time, open, high, low, close, volume,
           nullif(quote_volume, 'NaN'), nullif(trade_count, 'NaN'), %(now)s
    FROM staged_candles
    ORDER BY open_time
    ON CONFLICT (symbol, timeframe, open_time) DO UPDATE
    SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
        volume = excluded.volume,
        quote_volume = coalesce(excluded.quote_volume, c.quote_volume),
        trade_count = coalesce(excluded.trade_count, c.trade_count),
        created_timestamp = greatest(excluded.created_timestamp, c.created_timestamp + interval '1 microsecond')
    WHERE (c.open, c.high, c.low, c.close, c.volume, c.quote_volume, c.trade_count)
        IS DISTINCT FROM
          (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume,
           coalesce(excluded.quote_volume, c.quote_volume), coalesce(excluded.trade_count, c.trade_count))
    RETURNING (xmax = 0) AS inserted
)
SELECT count(*) FILTER (WHERE inserted), count(*) FILTER (WHERE NOT inserted) FROM merged;
