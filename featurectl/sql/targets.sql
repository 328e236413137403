-- closes --
-- The closed bars of a series, with their closes, that targets of the instants of a window are made of.
SELECT open_time, close
FROM market.candles
WHERE symbol = %(symbol)s AND timeframe = %(timeframe)s
  AND open_time BETWEEN coalesce(%(first)s::timestamptz - 2 * %(step)s::interval, '-infinity')
                    AND least(%(last)s::timestamptz + %(ahead)s::interval, %(now)s::timestamptz - %(step)s::interval)
ORDER BY open_time;
