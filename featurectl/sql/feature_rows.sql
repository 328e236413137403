-- newest_row --
-- The newest event time of a series of features.
SELECT t.{event} FROM {table} AS t WHERE {series} ORDER BY t.{event} DESC LIMIT 1;

-- following_row --
-- The first event time of a series of features at or after an instant.
SELECT t.{event} FROM {table} AS t WHERE {series} AND t.{event} >= {first} ORDER BY t.{event} LIMIT 1;

-- rows_between --
-- The event times of a series of features in a span of time.
SELECT t.{event} FROM {table} AS t WHERE {series} AND t.{event} BETWEEN {first} AND {last} ORDER BY t.{event};

-- has_values --
-- Whether a series has values of certain features until an instant.
SELECT EXISTS (SELECT FROM {table} AS t WHERE {series} AND t.{event} <= {last} AND ({any_value}));
