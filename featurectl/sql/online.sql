-- read --
-- Online rows of several views by key, one row for each of the keys asked for, in their order.
SELECT {columns}
FROM unnest({arrays}) WITH ORDINALITY AS k({names}, position)
{views}
ORDER BY k.position;

-- read_view --
-- One view's share of a read.
LEFT JOIN {online} AS {alias} ON {match};

-- write --
-- Rows into a view's online table, each unless the row there is newer; of rows with one key the newest.
{overwrite}
WHERE (excluded.event_timestamp, coalesce(excluded.created_timestamp, '-infinity'))
    >= (o.event_timestamp, coalesce(o.created_timestamp, '-infinity'));

-- overwrite --
-- Rows into a view's online table, whatever is there; sorted, so that two such statements never wait in a circle.
INSERT INTO {online} AS o ({names})
SELECT DISTINCT ON ({key_values}) {values}
FROM unnest({arrays}) WITH ORDINALITY AS r({aliases}, position)
ORDER BY {key_values}, {event} DESC, {created} DESC NULLS LAST, position DESC
ON CONFLICT ({key}) DO UPDATE SET ({assigned}) = ROW({assigned_values});

-- project_tables --
-- The tables of a schema whose comment begins as those of one project's online tables do.
SELECT c.relname, d.description
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE n.nspname = %(schema)s AND c.relkind = 'r' AND d.description LIKE 'featurectl: online rows of view %%'
ORDER BY c.relname;
