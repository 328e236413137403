-- begin_backfill --
-- Note what a backfill is to do.
INSERT INTO featurectl.backfills (project, plan, started_at) VALUES (%(project)s, %(plan)s::jsonb, %(now)s)
RETURNING number;

-- unfinished_backfills --
-- Backfills of a project that were not finished, the newest first.
SELECT number, plan FROM featurectl.backfills
WHERE project = %(project)s AND finished_at IS NULL
ORDER BY number DESC;

-- finish_backfill --
-- Note that all chunks of a backfill are done.
UPDATE featurectl.backfills SET finished_at = %(now)s WHERE number = %(number)s;

-- chunks_done --
-- The chunks of a backfill that are done.
SELECT view, symbol, chunk_start FROM featurectl.backfill_chunks WHERE backfill = %(number)s;

-- note_chunk --
-- Note that a chunk of a backfill is done, in the transaction that does it.
INSERT INTO featurectl.backfill_chunks (backfill, view, symbol, chunk_start, rows_read, rows_written)
VALUES (%(number)s, %(view)s, %(symbol)s, %(chunk_start)s, %(rows_read)s, %(rows_written)s)
ON CONFLICT DO NOTHING;
