-- lock_schema --
-- Let one session at a time change featurectl's schema.
SELECT pg_advisory_xact_lock(hashtextextended('featurectl:schema', 0));

-- ledger_exists --
-- Tell whether this database has a migrations ledger; to_regclass may answer from before a lock was waited for.
SELECT EXISTS (
    SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE n.nspname = 'featurectl' AND c.relname = 'migrations');

-- applied_migrations --
-- List the versions of the migrations this database has seen.
SELECT version FROM featurectl.migrations ORDER BY version;

-- record_migration --
-- Note an applied migration.
INSERT INTO featurectl.migrations (version, name) VALUES (%(version)s, %(name)s) ON CONFLICT DO NOTHING;

-- schema_exists --
-- Find a schema by name.
SELECT 1 FROM pg_namespace WHERE nspname = %(name)s;

-- columns_of --
-- List a table's columns with their types, in order; nothing when there is no such relation.
SELECT a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum;

-- primary_key_of --
-- List the columns of a table's primary key, in order.
SELECT a.attname
FROM pg_index i
JOIN LATERAL unnest(i.indkey) WITH ORDINALITY AS k(attnum, position) ON true
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = to_regclass(%(table)s) AND i.indisprimary
ORDER BY k.position;

-- comment_of --
-- The comment on a table; null where there is none.
SELECT obj_description(to_regclass(%(table)s), 'pg_class');
