-- candle_timeframes --
-- Those of the timeframes in which a symbol has candles.
SELECT t.name FROM unnest(%(timeframes)s::text[]) AS t (name)
WHERE EXISTS (SELECT FROM market.candles AS c WHERE c.symbol = %(symbol)s AND c.timeframe = t.name);

-- next_tick --
-- The first tick of a symbol at or after an instant.
SELECT time FROM {table} WHERE symbol = %(symbol)s AND time >= %(first)s ORDER BY time LIMIT 1;

-- last_tick --
-- The last tick of a symbol before an instant.
SELECT time FROM {table} WHERE symbol = %(symbol)s AND time < %(before)s ORDER BY time DESC LIMIT 1;

-- ticks --
-- Ticks of a symbol in a span of time, in the order of their key.
SELECT {columns} FROM {table}
WHERE symbol = %(symbol)s AND time >= %(first)s AND time < %(end)s
ORDER BY {order}
LIMIT %(limit)s;
