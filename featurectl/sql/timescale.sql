-- extension --
-- The version of TimescaleDB in this database; no row without it.
SELECT extversion FROM pg_extension WHERE extname = 'timescaledb';

-- available --
-- The version of TimescaleDB that could be created in this database; no row where the server does not have it.
SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb';

-- allow_decompression --
-- Let a transaction change as many rows of compressed chunks as it must; no row where there is no such limit.
SELECT set_config(name, '0', true)
FROM (VALUES ('timescaledb.max_tuples_decompressed_per_dml_transaction')) AS limits (name)
WHERE current_setting(name, true) IS NOT NULL;

-- license --
-- The licence the extension runs under: apache lacks columnstore and policies.
SELECT current_setting('timescaledb.license', true);
