-- lock_series --
-- Let one transaction at a time write to a series of a table.
SELECT pg_advisory_xact_lock(hashtextextended('featurectl:write ' || %(series)s, 0));

-- extent --
-- The first and last instants of a series within a span of time; nulls where it has none.
SELECT (SELECT t.{time} FROM {table} AS t WHERE {series} AND t.{time} BETWEEN {first} AND {last}
        ORDER BY t.{time} LIMIT 1),
       (SELECT t.{time} FROM {table} AS t WHERE {series} AND t.{time} BETWEEN {first} AND {last}
        ORDER BY t.{time} DESC LIMIT 1);

-- create_staging --
-- A table for rows that may be there already, gone with the transaction.
CREATE TEMPORARY TABLE staged_rows ({columns}) ON COMMIT DROP;

-- drop_staging --
-- Make room for the next series of the same transaction.
DROP TABLE staged_rows, differing_rows;

-- analyze_staging --
-- Let the planner know how many rows are staged.
ANALYZE staged_rows;

-- find_differing --
-- Those of the staged rows that are new, or differ from what is there.
CREATE TEMPORARY TABLE differing_rows ON COMMIT DROP AS
SELECT {columns}, t.{time} IS NULL AS is_new, t.{created} AS existing_created
FROM staged_rows AS s
LEFT JOIN {table} AS t ON {series} AND t.{time} BETWEEN {first} AND {last} AND {match}
WHERE CASE WHEN t.{time} IS NULL THEN {insert} ELSE ({staged}) IS DISTINCT FROM ({existing}) END;

-- count_differing --
-- How many of the staged rows are new, how many differ, and from when to when they are.
SELECT count(*) FILTER (WHERE is_new), count(*) FILTER (WHERE NOT is_new), min({time}), max({time}) FROM differing_rows;

-- merge_differing --
-- New rows in, differing ones over what is there; a changed row's created time grows.
INSERT INTO {table} AS t ({names}, {created})
SELECT {values}, greatest({now}, existing_created + interval '1 microsecond')
FROM differing_rows
ORDER BY {time}
ON CONFLICT ({key}) DO UPDATE SET ({assigned}) = ROW({assigned_values});
