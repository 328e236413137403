-- point_in_time --
-- Each spine row with the newest row of each view at or before its event time, within the view's TTL.
SELECT {columns}
FROM {spine} AS spine
{joins}
ORDER BY {order};

-- join_view --
-- One view's part of a point-in-time join.
LEFT JOIN LATERAL (
    SELECT {columns}
    FROM {source} AS s
    WHERE {match}
    ORDER BY {order}
    LIMIT 1
) AS {alias} ON true;

-- rows_of_keys --
-- A view's rows of a window for the keys of a table, as a join outside the database wants them.
SELECT {code}::int4 AS code, {event} AS event, {created} AS created{features}
FROM {keys} AS wanted
JOIN {source} AS s ON {match}
WHERE {window};

-- spine_of_query --
-- A spine that a query gives, with its rows' numbers and instants.
(SELECT row_number() OVER () - 1 AS {row}, {event} AS {at}, q.* FROM {query} AS q);

-- extent_of_spine --
-- How many rows a spine has, and its first and last instants.
SELECT count(*) AS rows, min({at}) AS first, max({at}) AS last FROM {spine} AS spine;

-- rows_of_spine --
-- Some rows of a spine in their order.
SELECT {columns} FROM {spine} AS spine WHERE {row} >= {start} AND {row} < {end} ORDER BY {row};

-- spine_of_window --
-- The spine when there is only a window: every event time at which one of the views has a row for an entity.
(SELECT wanted.entity_id, wanted.symbol, wanted.timeframe, wanted.position, events.event_timestamp,
        events.event_timestamp AS {at}
 FROM unnest({entity_ids}::text[], {symbols}::text[], {timeframes}::text[])
      WITH ORDINALITY AS wanted(entity_id, symbol, timeframe, position)
 CROSS JOIN LATERAL (SELECT DISTINCT e.event_timestamp FROM ({events}) AS e) AS events);

-- window_of_view --
-- The rows of a window that one view has for some entities; of equal events the latest write.
SELECT DISTINCT ON (wanted.position, {event})
       wanted.entity_id, wanted.symbol, wanted.timeframe, {event} AS event_timestamp, {features}
FROM unnest({entity_ids}::text[], {symbols}::text[], {timeframes}::text[])
     WITH ORDINALITY AS wanted(entity_id, symbol, timeframe, position)
JOIN {source} AS s ON {match}
WHERE {window}
ORDER BY wanted.position, {event}, {written} DESC NULLS LAST;

-- events_of_view --
-- One view's event times for one entity.
SELECT {event} AS event_timestamp FROM {source} AS s WHERE {match} AND {window};

-- newest_by_probe --
-- The newest row of a window for each entity, found by an index.
WITH RECURSIVE {entities}
SELECT r.*
FROM entities
CROSS JOIN LATERAL (
    SELECT {columns} FROM {source} AS s WHERE {match} AND {window} ORDER BY {order} LIMIT 1
) AS r;

-- newest_by_scan --
-- The newest row of a window for each entity, in one pass over the window.
SELECT DISTINCT ON ({keys}) {columns}
FROM {source} AS s
WHERE {known} AND {window}
ORDER BY {keys}, {order};

-- append --
-- Append what a temporary table holds to another table.
INSERT INTO {target} ({columns}) SELECT {values} FROM {incoming} AS s;

-- place_of_table --
-- Whether a table exists, and the parts of its name.
SELECT to_regclass({name}) IS NOT NULL AS exists, parse_ident({name}) AS parts;

-- rows_of_window --
-- A view's rows of a window as they are.
SELECT {columns} FROM {source} AS s WHERE {window} ORDER BY {order};
