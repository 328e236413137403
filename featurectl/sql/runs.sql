-- session_limits --
-- What a session that writes waits for at most, and how soon it ends when its client has died.
SELECT set_config('lock_timeout', %(lock)s, false), set_config('statement_timeout', %(statement)s, false),
       set_config('idle_in_transaction_session_timeout', %(idle)s, false);

-- notice_lost_client --
-- End this session's statement soon after its client has died, and not when it next has something to tell it.
SELECT set_config('client_connection_check_interval', '1s', false);

-- is_alive --
-- Hear from the server.
SELECT 1;

-- runs_at_work --
-- The runs that are at work: they hold the lock of their id.
SELECT w.run_id
FROM featurectl.runs AS w
JOIN pg_locks AS l ON (l.classid::bigint << 32 | l.objid::bigint)
    = hashtextextended('featurectl:session ' || w.run_id, 0)
WHERE w.verdict = 'running' AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());

-- close_killed --
-- Runs that say they are at work, and hold no lock, were killed.
UPDATE featurectl.runs AS r
SET verdict = 'interrupted', error = 'ended without a word: killed, or its machine went down'
WHERE r.project = %(project)s AND r.verdict = 'running' AND r.run_id NOT IN ({runs_at_work});

-- begin_run --
-- Note that a run has begun.
INSERT INTO featurectl.runs (
    run_id, project, command, arguments, version, config_hash, started_at, verdict, host, pid)
VALUES (
    %(run_id)s, %(project)s, %(command)s, %(arguments)s::jsonb, %(version)s, %(config_hash)s, %(started_at)s,
    'running', %(host)s, %(pid)s)
ON CONFLICT (run_id) DO NOTHING;

-- finish_run --
-- Note how a run ended, and what it did.
UPDATE featurectl.runs
SET verdict = %(verdict)s, exit_code = %(exit_code)s, error = %(error)s, catalog_hash = %(catalog_hash)s,
    window_start = %(window_start)s, window_end = %(window_end)s, finished_at = %(finished_at)s, seconds = %(seconds)s,
    rows_read = %(rows_read)s, rows_written = %(rows_written)s, rows_unchanged = %(rows_unchanged)s,
    rows_older = %(rows_older)s, rows_rejected = %(rows_rejected)s, steps = %(steps)s::jsonb
WHERE run_id = %(run_id)s;

-- list_runs --
-- Runs of a project, the newest first; one that says it is at work, and holds no lock, was killed.
WITH found AS (
    SELECT r.*, r.verdict = 'running' AND r.run_id NOT IN ({runs_at_work}) AS was_killed
    FROM featurectl.runs AS r
    WHERE r.project = %(project)s AND (%(since)s::timestamptz IS NULL OR r.started_at >= %(since)s)
      AND (%(command)s::text IS NULL OR r.command = %(command)s)
)
SELECT run_id, project, command, arguments, version, config_hash, catalog_hash, window_start, window_end, started_at,
       finished_at, seconds, CASE WHEN was_killed THEN 'interrupted' ELSE verdict END, exit_code, rows_read,
       rows_written, rows_unchanged, rows_older, rows_rejected, steps,
       CASE WHEN was_killed THEN 'ended without a word: killed, or its machine went down' ELSE error END, host, pid
FROM found
WHERE NOT %(failed)s OR was_killed OR verdict IN ('failed', 'partly done', 'interrupted', 'findings')
ORDER BY number DESC
LIMIT %(limit)s::bigint;

-- last_success --
-- When a command of a project last did all of its work.
SELECT max(finished_at) FROM featurectl.runs
WHERE project = %(project)s AND command = %(command)s AND verdict = 'done';

-- commands_run --
-- The commands that ever ran in a project.
SELECT DISTINCT command FROM featurectl.runs WHERE project = %(project)s ORDER BY command;

-- delete_old_runs --
-- Delete runs that began before an instant, and are not at work.
DELETE FROM featurectl.runs
WHERE project = %(project)s AND started_at < %(before)s AND verdict <> 'running';

-- delete_old_backfills --
-- Delete backfills that were finished before an instant, with their chunks.
DELETE FROM featurectl.backfills WHERE project = %(project)s AND finished_at < %(before)s;

-- delete_old_materializations --
-- Delete what was noted of materializations before an instant, but for the newest of each view.
DELETE FROM featurectl.materializations AS m
WHERE m.project = %(project)s AND m.finished_at < %(before)s AND EXISTS (
    SELECT FROM featurectl.materializations AS newer
    WHERE newer.project = m.project AND newer.view = m.view AND newer.id > m.id);
