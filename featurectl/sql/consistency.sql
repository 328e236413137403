-- keys_of_source --
-- Each key of a view's source, once.
WITH RECURSIVE {entities} SELECT {keys} FROM entities;

-- keys_online --
-- The keys of a view's online table.
SELECT {keys} FROM {table} AS o;

-- as_stored --
-- Numbers as the columns of a feature table hold them.
SELECT {values};
