-- newest_rows --
-- The newest so many rows of each entity of a source, in place of the source.
(WITH RECURSIVE {entities}
SELECT newest.*
FROM entities
CROSS JOIN LATERAL (SELECT s.* FROM {source} AS s WHERE {match} AND {chosen} ORDER BY {order} LIMIT {rows}) AS newest);

-- named_entities --
-- Entities by their keys, as a common table.
entities AS (SELECT * FROM unnest({values}) AS named ({keys}));

-- entities --
-- The keys of a source, as text.
WITH RECURSIVE {entities} SELECT {texts} FROM entities;

-- totals --
-- By entity: its rows, the first and the last, and of each feature how many values there are, the least and greatest.
SELECT {texts}, count(*), min({event}), max({event}){features}
FROM {source} AS s
WHERE {chosen}
GROUP BY {group};

-- warmups --
-- How many rows of entities lack values before their first one, among their first rows, and until when.
SELECT {texts}{features}
FROM unnest({values}) AS e ({names})
CROSS JOIN LATERAL (
    SELECT rows.*, rows.event BETWEEN e.since AND e.until AS counts{seen}
    FROM (
        SELECT {event} AS event, row_number() OVER (ORDER BY {time}) AS place{columns}
        FROM {source} AS s WHERE {match} ORDER BY {time} LIMIT {rows}) AS rows
) AS heads
GROUP BY {texts};

-- warmup_of_feature --
-- The rows that lack one feature's value before its first, of so many at the beginning.
, count(*) FILTER (WHERE counts AND NOT {seen} AND place <= {rows}), max(event) FILTER (WHERE NOT {seen} AND place <= {rows});

-- at_fault --
-- By entity: the rows at fault, when they began and ended, and the worst value.
SELECT {texts}, count(*), min({event}), max({event}), {worst}
FROM {source} AS s
WHERE {chosen} AND {fault}
GROUP BY {group};

-- rows_at_fault --
-- The newest rows at fault: whose, when, and the value.
SELECT {texts}, {event}, {value}
FROM {source} AS s
WHERE {chosen} AND {fault}
ORDER BY {time} DESC, {texts}
LIMIT {rows};

-- lacks_value --
-- Hold a row to those that lack a value after an entity's warm-up.
{value} IS NULL AND EXISTS (SELECT FROM unnest({values}) AS e ({names}) WHERE {match} AND {event} > coalesce(e.after, '-infinity'));

-- is_repeated --
-- Hold a row to those whose value its entity has more than once.
({keys}{value}) IN (
    SELECT {keys}{value} FROM {source} AS s WHERE {chosen} AND {value} IS NOT NULL GROUP BY {keys}{value} HAVING count(*) > 1);

-- repeated --
-- By entity: the rows whose value it has more than once, when they began and ended, and how often the most frequent is.
SELECT entity, sum(times)::bigint, min(first), max(last), max(times)::float8
FROM (
    SELECT {texts} AS entity, count(*) AS times, min({event}) AS first, max({event}) AS last
    FROM {source} AS s WHERE {chosen} AND {value} IS NOT NULL
    GROUP BY {keys}{value} HAVING count(*) > 1) AS repeated
GROUP BY entity;

-- compared --
-- The rows of which a value is that of the row before, in a common table.
WITH compared AS MATERIALIZED (
    SELECT {entity} AS entity, neighbours.* FROM (
        SELECT {keys}{event} AS event, row_number() OVER series AS place, lag({event}) OVER series AS before{same}
        FROM {source} AS s WHERE {chosen}
        WINDOW series AS ({partition}ORDER BY {order})) AS neighbours
    WHERE {any})
{runs};

-- runs_by_entity --
-- By entity: the rows in runs of one value that are too long, when they began and ended, and its longest run.
SELECT {number}, entity, coalesce(sum(length) FILTER (WHERE length > {limit}), 0)::bigint,
       min(first) FILTER (WHERE length > {limit}), max(last) FILTER (WHERE length > {limit}), max(length)::float8
FROM ({runs}) AS runs
GROUP BY entity;

-- long_runs --
-- The newest runs of one value that are too long: whose, from when to when.
SELECT entity, first, last FROM ({runs}) AS runs WHERE length > {limit} ORDER BY last DESC, entity LIMIT {rows};

-- runs --
-- Runs of one value: consecutive rows that are the same as those before them, and the first of them.
SELECT entity, count(*) + 1 AS length, min(before) AS first, max(event) AS last
FROM (SELECT *, place - row_number() OVER (PARTITION BY entity ORDER BY place) AS island
      FROM compared WHERE {same}) AS islands
GROUP BY entity, island;

-- is_in_run --
-- Hold a row to runs.
EXISTS (SELECT FROM unnest({values}) AS e ({names}) WHERE {match} AND {event} BETWEEN e.since AND e.until);

-- newest_of_entities --
-- When the newest row of each entity is from.
WITH RECURSIVE {entities}
SELECT {texts}, (
    SELECT {event} FROM {source} AS s WHERE {match} AND {chosen} AND {known} ORDER BY {order} LIMIT 1)
FROM entities;

-- judged_bars --
-- Bars that some rule of candles may find fault with, in a common table.
WITH neighbours AS (
    SELECT s.symbol, s.timeframe, s.open_time AS event, s.open, s.high, s.low, s.close, s.volume,
           row_number() OVER series AS place, lag(s.open_time) OVER series AS before,
           lag(s.close) OVER series AS close_before, lag(s.volume) OVER series AS volume_before,
           s.open = lag(s.open) OVER series AND s.high = lag(s.high) OVER series
               AND s.low = lag(s.low) OVER series AND s.close = lag(s.close) OVER series AS stuck_price
    FROM {source} AS s WHERE {chosen}
    WINDOW series AS (PARTITION BY s.symbol, s.timeframe ORDER BY s.open_time)),
judged AS (SELECT neighbours.*{measures} FROM neighbours),
compared AS MATERIALIZED (
    SELECT ARRAY[symbol, timeframe] AS entity, judged.* FROM judged WHERE {any})
{faults};

-- bars_by_entity --
-- By series: the bars at fault, when they began and ended, and the worst measure.
SELECT {number}, entity, count(*), min(event), max(event), max(abs({measure})) FROM ({bars}) AS bars GROUP BY entity;

-- bars_at_fault --
-- The newest bars at fault: whose, when, and the measure.
SELECT entity, event, {measure} FROM ({bars}) AS bars ORDER BY event DESC, entity LIMIT {rows};

-- bars_of_rule --
-- The bars at fault by their own prices, volumes and times, or those of the bar before.
SELECT entity, event, {measure} FROM compared WHERE {measure} IS NOT NULL;

-- spikes --
-- Bars whose volume is many times the median of the 100 before them, too.
SELECT entity, event, exp(least(ln(volume) - ln(median), 700)) AS volume_spike
FROM compared
CROSS JOIN LATERAL (
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY past.volume) AS median, count(*) AS bars
    FROM (SELECT c.volume FROM market.candles AS c
          WHERE c.symbol = compared.symbol AND c.timeframe = compared.timeframe AND c.open_time < compared.event
          ORDER BY c.open_time DESC LIMIT 100) AS past) AS usual
WHERE volume_spike IS NOT NULL AND bars >= 20 AND median > 0 AND median < 'Infinity'
  AND ln(volume) - ln(median) > ln({limit}::float8);

-- ohlc_order --
-- A price that is out of order: a high below another price, or a low above one; nothing in a bar that is in order.
CASE WHEN {bar}.high < greatest({bar}.open, {bar}.low, {bar}.close)
          AND greatest({bar}.open, {bar}.low, {bar}.close) < 'NaN' THEN {bar}.high
     WHEN {bar}.low > least({bar}.open, {bar}.close) AND {bar}.low < 'NaN' THEN {bar}.low END;

-- positive_price --
-- A price that is none: zero, negative, infinite or not a number.
CASE WHEN least({bar}.open, {bar}.high, {bar}.low, {bar}.close) <= 0
     THEN least({bar}.open, {bar}.high, {bar}.low, {bar}.close)
     WHEN greatest({bar}.open, {bar}.high, {bar}.low, {bar}.close) >= 'Infinity'
     THEN greatest({bar}.open, {bar}.high, {bar}.low, {bar}.close) END;

-- negative_volume --
-- A volume that is none: negative, infinite or not a number.
CASE WHEN {bar}.volume < 0 OR {bar}.volume >= 'Infinity' THEN {bar}.volume END;

-- off_grid --
-- How many seconds after an opening of its timeframe a bar opens.
CASE WHEN event <> {grid} THEN extract(epoch FROM event - {grid})::float8 END;

-- price_jump --
-- How far a bar opens from the close of the bar right before it, as a share of that.
CASE WHEN event - before = {step} AND open > 0 AND close_before > 0 AND open < 'Infinity' AND close_before < 'Infinity'
          AND abs(exp(least(greatest(ln(open) - ln(close_before), -700), 700)) - 1) > {limit}::float8
     THEN exp(least(greatest(ln(open) - ln(close_before), -700), 700)) - 1 END;

-- volume_spike --
-- A volume that is many times that of the bar before.
CASE WHEN volume > 0 AND volume < 'Infinity' AND volume_before >= 0 AND volume_before < 'Infinity' THEN
    CASE WHEN volume_before = 0 THEN volume
         WHEN ln(volume) - ln(volume_before) > ln({limit}::float8) THEN volume END END;

-- unlimited --
-- Let this session's statements take the time they take; whoever waits for them says how long.
SELECT set_config('statement_timeout', '0', false);
