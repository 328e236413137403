-- try_lock --
-- Take a named lock for the session; false when another session holds it.
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0));

-- wait_for_lock --
-- Take a named lock for the session, once nobody else has it.
SELECT pg_advisory_lock(hashtextextended(%(name)s, 0));

-- unlock --
-- Give a named lock back.
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0));

-- show_limits --
-- How long this session waits for locks, and for statements.
SELECT current_setting('lock_timeout'), current_setting('statement_timeout');

-- set_limits --
-- Have this session wait for locks, and for statements, so long and no longer.
SELECT set_config('lock_timeout', %(lock)s, false), set_config('statement_timeout', %(statement)s, false);

-- has_ledger --
-- Whether this database has a ledger of runs that this role may read.
SELECT coalesce(has_table_privilege(to_regclass('featurectl.runs'), 'SELECT'), false);

-- holders --
-- Who holds named locks, of sessions of this database: client address and start, where this role may see them.
SELECT n.name, NULL, NULL, host(a.client_addr), a.pid, a.backend_start
FROM unnest(%(names)s::text[]) AS n (name)
JOIN pg_locks AS l ON (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended('featurectl:' || n.name, 0)
JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY n.name;

-- holders_by_ledger --
-- Who holds named locks: the run whose own lock the same session holds, or the session alone.
WITH held AS (
    SELECT pid, (classid::bigint << 32 | objid::bigint) AS key
    FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT n.name, r.run_id, r.command, coalesce(r.host, host(a.client_addr)), coalesce(r.pid, a.pid),
       coalesce(r.started_at, a.backend_start)
FROM unnest(%(names)s::text[]) AS n (name)
JOIN held AS l ON l.key = hashtextextended('featurectl:' || n.name, 0)
JOIN pg_stat_activity AS a USING (pid)
LEFT JOIN featurectl.runs AS r ON r.verdict = 'running' AND EXISTS (
    SELECT FROM held AS own
    WHERE own.pid = l.pid AND own.key = hashtextextended('featurectl:session ' || r.run_id, 0))
ORDER BY n.name;
