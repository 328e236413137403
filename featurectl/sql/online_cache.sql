-- announce --
-- Tell those that cache rows of an online table that it was written to, once that is committed; nobody, where none do.
SELECT pg_notify('featurectl_online', {table})
FROM {written} AS w
WHERE CASE
    WHEN pg_try_advisory_lock(hashtextextended('featurectl:online rows are cached', 0))
    THEN NOT pg_advisory_unlock(hashtextextended('featurectl:online rows are cached', 0))
    ELSE true
END;

-- announced --
-- A write to an online table that tells of itself, where it writes anything.
WITH written AS (
{write}
RETURNING 1
)
{announce};

-- listen --
-- Hear what is announced.
LISTEN featurectl_online;

-- say --
-- Announce a text of one's own.
SELECT pg_notify('featurectl_online', %(text)s);

-- be_told --
-- Have writers announce what they write, for as long as this session lives.
SELECT pg_advisory_lock_shared(hashtextextended('featurectl:online rows are cached', 0));

-- writers --
-- The transactions that have written to tables of a schema, or are about to, and have not ended.
SELECT l.virtualtransaction
FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE l.locktype = 'relation' AND l.mode = 'RowExclusiveLock'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND n.nspname = %(schema)s;
