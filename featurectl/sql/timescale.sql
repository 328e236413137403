-- extension --
-- The version of TimescaleDB in this database; no row without it.
SELECT extversion FROM pg_extension WHERE extname = 'timescaledb';

-- available --
-- The version of TimescaleDB that could be created in this database; no row where the server does not have it.
SELECT default_version FROM pg_available_extensions WHERE name = 'timescaledb';

-- license --
-- The licence the extension runs under: apache lacks columnstore and policies.
SELECT current_setting('timescaledb.license', true);
