-- relations --
-- What kind of relation each of the names is, and what it takes on disk, indexes included.
SELECT t.name, c.relkind::text, pg_total_relation_size(c.oid)
FROM unnest(%(tables)s::text[]) AS t(name)
JOIN pg_class AS c ON c.oid = to_regclass(t.name);

-- ledger_size --
-- What featurectl's own schema takes on disk, indexes included.
SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = 'featurectl' AND c.relkind = 'r';

-- extent --
-- The oldest and newest time in a table, or in part of it, by two probes for each entity.
WITH RECURSIVE {entities}
SELECT min(r.first), max(r.last)
FROM entities
CROSS JOIN LATERAL (
    SELECT min({time}) AS first, max({time}) AS last FROM {table} AS s WHERE {rows_of_entity}) AS r;

-- estimate --
-- How many rows the planner thinks a table has.
EXPLAIN (FORMAT JSON) SELECT FROM {table};

-- count_rows --
-- Count the rows of a table.
SELECT count(*) FROM {table};

-- count_old --
-- Count the rows of a table that are before an instant.
WITH RECURSIVE {entities}
SELECT count(*)
FROM entities
CROSS JOIN LATERAL (SELECT 1 FROM {table} AS s WHERE {rows_of_entity} AND {time} < {instant}) AS old;

-- delete_old --
-- Delete some of the rows of a table that are before an instant, found by its primary key.
WITH RECURSIVE {entities}
DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT old.ctid
    FROM entities
    CROSS JOIN LATERAL (
        SELECT s.ctid FROM {table} AS s WHERE {rows_of_entity} AND {time} < {instant} ORDER BY {time} LIMIT {rows}) AS old
    LIMIT {rows}));
