-- of_view --
-- The rows that some entities have in a window of a view's source, and what its features hold there.
SELECT count(*), min({event}), max({event}),
       (SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {source} AS s WHERE {chosen}) AS entities),
       {features}
FROM {source} AS s
WHERE {chosen};

-- of_number --
-- One feature's values: their number, mean, sample deviation, least and greatest, and quartiles between.
count({value}), avg({value}), stddev_samp({value}), min({value}), max({value}),
       percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY {value});

-- among_entities --
-- Hold a row of a source to keys.
({keys}) IN (SELECT * FROM unnest({values}));

-- unlimited --
-- Let this session's statements take the time they take; whoever waits for them says how long.
SELECT set_config('statement_timeout', '0', false);
