-- rows_of_view --
-- The rows that some entities have in a window of a view's source: whose, of when, and what its features hold there.
SELECT {entity} AS entity, {timeframe} AS timeframe, {event} AS at, {features}
FROM {source} AS s
{closes}
WHERE {chosen} AND {event} IS NOT NULL;

-- close_beside --
-- The close of the bar at whose end a row's features became known.
LEFT JOIN market.candles AS c
    ON c.symbol = s.symbol AND c.timeframe = s.timeframe AND c.open_time = {event} - {length};

-- has_candles --
-- Tell whether this role can read closes here.
SELECT coalesce(has_table_privilege(to_regclass('market.candles'), 'SELECT'), false);

-- newest_of_view --
-- The last event time of some entities in a window of a view's source.
SELECT max({event}) FROM {source} AS s WHERE {chosen};

-- among_entities --
-- Hold a row of a source to keys.
({keys}) IN (SELECT * FROM unnest({values}));
