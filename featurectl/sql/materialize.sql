-- probe_newest --
-- The newest row of the window for each of the entities, one probe each.
{entities},
newest AS MATERIALIZED (
    SELECT {keys}, r.*
    FROM entities
    CROSS JOIN LATERAL (
        SELECT {values}
        FROM {source} AS s
        WHERE {match} AND {window}
        ORDER BY {order}
        LIMIT 1
    ) AS r
);

-- scan_newest --
-- The newest row of the window for each entity, by reading the source once.
newest AS MATERIALIZED (
    SELECT DISTINCT ON ({source_keys}) {keys}, {values}
    FROM {source} AS s
    WHERE {known} AND {window}
    ORDER BY {source_keys}, {order}
);

-- upsert_newest --
-- Each entity's newest row of the window, upserted unless the online row is newer; counts what happened.
WITH RECURSIVE {newest},
older AS (
    SELECT count(*) AS count
    FROM newest AS n JOIN {online} AS o USING ({key_names})
    WHERE NOT {force} AND (n.event_timestamp, coalesce(n.created_timestamp, '-infinity'))
        < (o.event_timestamp, coalesce(o.created_timestamp, '-infinity'))
),
written AS (
    INSERT INTO {online} AS o ({key_names}, {assigned})
    SELECT {key_names}, {assigned} FROM newest ORDER BY {key_names}
    ON CONFLICT ({key_names}) DO UPDATE SET ({assigned}) = ROW({assigned_values})
    WHERE ({force} OR (excluded.event_timestamp, coalesce(excluded.created_timestamp, '-infinity'))
        >= (o.event_timestamp, coalesce(o.created_timestamp, '-infinity')))
      AND ({existing_values}) IS DISTINCT FROM ({assigned_values})
    RETURNING 1
)
SELECT (SELECT count(*) FROM newest), (SELECT count(*) FROM written), (SELECT count FROM older);

-- keys_as_indexed --
-- The order in which an index of a table begins with these columns; no row where none does.
SELECT first_columns
FROM (
    SELECT array_agg(a.attname::text ORDER BY k.position) AS first_columns
    FROM pg_index i
    JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_am m ON m.oid = c.relam AND m.amname = 'btree'
    JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, position)
        ON k.position <= least(cardinality(%(columns)s::text[]), i.indnkeyatts)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    WHERE i.indrelid = to_regclass(%(table)s) AND i.indisvalid AND i.indpred IS NULL
    GROUP BY i.indexrelid
) AS indexes
WHERE first_columns @> %(columns)s::text[] AND first_columns <@ %(columns)s::text[]
ORDER BY first_columns <> %(columns)s::text[]
LIMIT 1;

-- record --
-- Note a materialization, in its own transaction.
INSERT INTO featurectl.materializations (
    project, view, incremental, window_start, window_end, entities, rows_written, rows_unchanged, rows_older,
    finished_at)
VALUES (
    %(project)s, %(view)s, %(incremental)s, %(window_start)s, %(window_end)s, %(entities)s, %(rows_written)s,
    %(rows_unchanged)s, %(rows_older)s, %(finished_at)s);

-- last_materialized --
-- When each view of a project was last materialized.
SELECT view, max(finished_at) FROM featurectl.materializations WHERE project = %(project)s GROUP BY view;

-- add_intervals --
-- Add to what a view has been materialized for; intervals that meet or overlap become one.
INSERT INTO featurectl.materialized_intervals AS m (project, view, intervals)
VALUES (%(project)s, %(view)s, %(intervals)s)
ON CONFLICT (project, view) DO UPDATE SET intervals = m.intervals + excluded.intervals;

-- intervals_of_project --
-- What the views of a project have been materialized for.
SELECT view, intervals FROM featurectl.materialized_intervals WHERE project = %(project)s;

-- forget_intervals --
-- Remove what views have been materialized for.
DELETE FROM featurectl.materialized_intervals WHERE project = %(project)s AND view = ANY(%(views)s);
