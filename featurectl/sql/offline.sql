-- point_in_time --
-- Each spine row with the newest row of each view at or before its event time, within the view's TTL.
SELECT {spine_columns}{features}
FROM {spine} AS spine
{joins}
ORDER BY {order};

-- join_view --
-- One view's part of a point-in-time join.
LEFT JOIN LATERAL (
    SELECT {columns}
    FROM {source} AS s
    WHERE {match} AND {event} <= spine.{spine_event}{ttl}
    ORDER BY {order}
    LIMIT 1
) AS {alias} ON true;

-- spine_of_window --
-- The spine when there is only a window: every event time at which one of the views has a row for an entity.
(SELECT wanted.entity_id, wanted.symbol, wanted.timeframe, wanted.position, events.event_timestamp
 FROM unnest({entity_ids}::text[], {symbols}::text[], {timeframes}::text[])
      WITH ORDINALITY AS wanted(entity_id, symbol, timeframe, position)
 CROSS JOIN LATERAL (SELECT DISTINCT e.event_timestamp FROM ({events}) AS e) AS events);

-- events_of_view --
-- One view's event times for one entity.
SELECT {event} AS event_timestamp FROM {source} AS s WHERE {match} AND {window};
