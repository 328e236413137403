-- oldest_score --
-- The first score of these symbols, of whatever name, found by walking the primary key.
WITH RECURSIVE kinds AS (
    SELECT symbol, (SELECT min(g.name) FROM market.signals AS g WHERE g.symbol = s.symbol) AS name
    FROM unnest(%(symbols)s::text[]) AS s (symbol)
    UNION ALL
    SELECT k.symbol, (SELECT min(g.name) FROM market.signals AS g WHERE g.symbol = k.symbol AND g.name > k.name)
    FROM kinds AS k WHERE k.name IS NOT NULL
)
SELECT min((SELECT min(g.time) FROM market.signals AS g WHERE g.symbol = k.symbol AND g.name = k.name))
FROM kinds AS k WHERE k.name IS NOT NULL;

-- next_score --
-- When the first score at or after an instant was given, of these symbols and names.
SELECT min(found.time)
FROM unnest(%(symbols)s::text[]) AS s (symbol) CROSS JOIN unnest(%(names)s::text[]) AS n (name)
CROSS JOIN LATERAL (
    SELECT g.time FROM market.signals AS g
    WHERE g.symbol = s.symbol AND g.name = n.name AND g.time >= %(first)s
    ORDER BY g.time LIMIT 1) AS found;

-- scores --
-- The scores of a symbol and of the whole market in a span of time; of equal times the symbol's own comes last.
SELECT time, score, array_position(%(names)s::text[], name)::float8
FROM market.signals
WHERE symbol = ANY(%(symbols)s) AND name = ANY(%(names)s) AND time BETWEEN %(first)s AND %(last)s
ORDER BY time, symbol <> '*';
