-- log_change --
-- Note which times of a symbol were written to, so that what was computed from them is computed again.
INSERT INTO featurectl.changes (source, symbol, first_time, last_time)
VALUES (%(source)s, %(symbol)s, %(first)s, %(last)s);

-- unseen_changes --
-- Which times of a source were written to, for these symbols, since a series of a feature table was computed.
SELECT c.id, c.source, c.first_time, c.last_time
FROM featurectl.changes AS c
WHERE c.source = ANY(%(sources)s) AND c.symbol = ANY(%(symbols)s) AND NOT EXISTS (
    SELECT FROM featurectl.changes_seen AS s
    WHERE s.change_id = c.id AND s.feature_table = %(table)s AND s.symbol = %(symbol)s
        AND s.timeframe = %(timeframe)s);

-- mark_seen --
-- Note that a series of features is up to date with these changes.
INSERT INTO featurectl.changes_seen (change_id, feature_table, symbol, timeframe)
SELECT change_id, %(table)s, %(symbol)s, %(timeframe)s FROM unnest(%(ids)s::bigint[]) AS change_id
ON CONFLICT DO NOTHING;

-- forget_seen --
-- Drop the changes that no series waits for any more, and what was noted of tables that no view names any more.
WITH forgotten AS (
    DELETE FROM featurectl.computed_series AS s
    WHERE NOT EXISTS (SELECT FROM featurectl.catalog_views AS v WHERE v.source_table = s.feature_table)
),
watchers AS (
    SELECT DISTINCT s.feature_table, s.symbol, s.timeframe, k.source
    FROM featurectl.computed_series AS s
    JOIN featurectl.catalog_views AS v ON v.source_table = s.feature_table
    JOIN (VALUES ('candles', 'market.candles'), ('ticks', 'market.order_book'), ('ticks', 'market.trades'),
                 ('signals', 'market.signals')) AS k (computed_from, source) ON k.computed_from = v.computed_from
),
concerned AS (
    SELECT c.id, w.feature_table, w.symbol, w.timeframe FROM featurectl.changes AS c
    JOIN watchers AS w ON w.source = c.source AND w.symbol = c.symbol
    UNION ALL
    SELECT c.id, w.feature_table, w.symbol, w.timeframe FROM featurectl.changes AS c
    JOIN watchers AS w ON w.source = c.source AND c.symbol = '*' AND c.source = 'market.signals'
),
waited_for AS (
    SELECT n.id FROM concerned AS n
    WHERE NOT EXISTS (
        SELECT FROM featurectl.changes_seen AS s
        WHERE s.change_id = n.id AND s.feature_table = n.feature_table AND s.symbol = n.symbol
            AND s.timeframe = n.timeframe)
)
DELETE FROM featurectl.changes AS c
WHERE NOT EXISTS (SELECT FROM waited_for AS f WHERE f.id = c.id);

-- series_states --
-- With which functions, and up to when, the series of a symbol in a feature table were computed.
SELECT timeframe, feature_hashes, computed_until FROM featurectl.computed_series
WHERE feature_table = %(table)s AND symbol = %(symbol)s;

-- announce_series --
-- Have the changes kept from now on that a series will have to see, before it is computed for the first time.
INSERT INTO featurectl.computed_series (feature_table, symbol, timeframe)
SELECT %(table)s, %(symbol)s, timeframe FROM unnest(%(timeframes)s::text[]) AS timeframe
ON CONFLICT DO NOTHING;

-- note_series --
-- Note with which functions, and up to when, a series was computed.
UPDATE featurectl.computed_series
SET feature_hashes = %(hashes)s::jsonb, computed_until = %(until)s
WHERE feature_table = %(table)s AND symbol = %(symbol)s AND timeframe = %(timeframe)s
    AND (feature_hashes, computed_until) IS DISTINCT FROM (%(hashes)s::jsonb, %(until)s);

-- forget_series --
-- Drop what was noted of a symbol's series in other timeframes, which are not computed any more.
DELETE FROM featurectl.computed_series
WHERE feature_table = %(table)s AND symbol = %(symbol)s AND timeframe <> ALL(%(timeframes)s);

-- forget_symbols --
-- Drop what was noted of other symbols' series in a feature table: there is nothing left of which to compute them.
DELETE FROM featurectl.computed_series WHERE feature_table = %(table)s AND symbol <> ALL(%(symbols)s);
