-- read --
-- Online rows of a view by key.
SELECT {columns} FROM unnest({arrays}) AS k({names}) JOIN {online} AS o USING ({names});

-- write --
-- One row into a view's online table, unless the row there is newer.
INSERT INTO {online} AS o ({names}) VALUES ({values})
ON CONFLICT ({key}) DO UPDATE SET ({assigned}) = ROW({assigned_values})
WHERE (excluded.event_timestamp, coalesce(excluded.created_timestamp, '-infinity'))
    >= (o.event_timestamp, coalesce(o.created_timestamp, '-infinity'));
