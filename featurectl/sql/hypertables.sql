-- hypertables --
-- Those of the tables that are hypertables, with their chunk interval in seconds.
SELECT t.name, extract(epoch FROM d.time_interval)::float8
FROM unnest(%(tables)s::text[]) AS t(name)
JOIN timescaledb_information.hypertables AS h
    ON to_regclass(quote_ident(h.hypertable_schema) || '.' || quote_ident(h.hypertable_name)) = to_regclass(t.name)
JOIN timescaledb_information.dimensions AS d
    ON d.hypertable_schema = h.hypertable_schema AND d.hypertable_name = h.hypertable_name AND d.dimension_number = 1;

-- columnstore_settings --
-- How the chunks of hypertables are laid out when they are compressed; nulls, or no row, where they are not.
SELECT t.name, s.segmentby, s.orderby
FROM unnest(%(tables)s::text[]) AS t(name)
JOIN timescaledb_information.hypertable_columnstore_settings AS s ON s.hypertable::oid = to_regclass(t.name)::oid;

-- policies --
-- The policies of hypertables: the procedure, its interval in seconds (0 where it goes by another), when it runs next.
SELECT t.name, j.proc_name,
       coalesce(extract(epoch FROM coalesce(j.config ->> 'compress_after', j.config ->> 'drop_after')::interval), 0)::float8,
       CASE WHEN j.scheduled AND isfinite(j.next_start) THEN j.next_start END
FROM unnest(%(tables)s::text[]) AS t(name)
JOIN timescaledb_information.jobs AS j
    ON to_regclass(quote_ident(j.hypertable_schema) || '.' || quote_ident(j.hypertable_name)) = to_regclass(t.name)
WHERE j.proc_name IN ('policy_compression', 'policy_retention');

-- chunks --
-- The time ranges of a hypertable's chunks, oldest first, and whether they are compressed.
SELECT c.range_start, c.range_end, c.is_compressed
FROM timescaledb_information.chunks AS c
WHERE to_regclass(quote_ident(c.hypertable_schema) || '.' || quote_ident(c.hypertable_name)) = to_regclass(%(table)s)
ORDER BY c.range_start;

-- size --
-- What a hypertable takes on disk, indexes included.
SELECT hypertable_size(to_regclass(%(table)s));

-- compressed_sizes --
-- What a hypertable's compressed chunks took before, and what they take.
SELECT before_compression_total_bytes, after_compression_total_bytes
FROM hypertable_columnstore_stats(to_regclass(%(table)s));

-- create_hypertable --
-- Turn a table into a hypertable; its rows, where there are any, move into chunks.
SELECT create_hypertable({table}, by_range({time}, INTERVAL {interval}),
                         create_default_indexes => false, if_not_exists => true, migrate_data => true);

-- set_chunk_interval --
-- Give new chunks another length; those that are there keep theirs.
SELECT set_chunk_time_interval({table}, INTERVAL {interval});

-- enable_columnstore --
-- Say how chunks are laid out when they are compressed; those that are compressed stay as they are.
ALTER TABLE {table} SET (
    timescaledb.enable_columnstore = true, timescaledb.segmentby = {segment_by}, timescaledb.orderby = {order_by});

-- add_columnstore_policy --
-- Compress chunks of a certain age.
CALL add_columnstore_policy({table}, after => INTERVAL {interval}, if_not_exists => true);

-- remove_columnstore_policy --
-- Compress chunks no more.
CALL remove_columnstore_policy({table}, if_exists => true);

-- add_retention_policy --
-- Drop chunks of a certain age.
SELECT add_retention_policy({table}, drop_after => INTERVAL {interval}, if_not_exists => true);

-- remove_retention_policy --
-- Drop chunks no more.
SELECT remove_retention_policy({table}, if_exists => true);

-- old_chunks --
-- The chunks all of whose rows are before an instant.
SELECT show_chunks({table}, older_than => {instant});

-- drop_chunks --
-- Drop the chunks all of whose rows are before an instant; gives their names.
SELECT drop_chunks({table}, older_than => {instant});
