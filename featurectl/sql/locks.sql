-- try_lock --
-- Take a named lock for the session; false when another session holds it.
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0));

-- wait_for_lock --
-- Take a named lock for the session, once nobody else has it.
SELECT pg_advisory_lock(hashtextextended(%(name)s, 0));

-- unlock --
-- Give a named lock back.
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0));

-- holder --
-- Who holds a named lock: process id of the backend, application, client address and start.
SELECT a.pid, a.application_name, coalesce(host(a.client_addr), 'local'), a.backend_start
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%(name)s, 0)
LIMIT 1;
