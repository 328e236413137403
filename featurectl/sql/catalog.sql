-- read_catalog --
-- The whole published catalog of one project as a single JSON document.
SELECT json_build_object(
    'project', c.project,
    'version', c.version,
    'content_hash', c.content_hash,
    'published_at', c.published_at,
    'schema_version', (SELECT max(m.version) FROM featurectl.migrations m),
    -- Where an upgrade waits for `apply`, there is no such column yet.
    'registry_stamp', to_jsonb(c) -> 'registry' ->> 'stamp',
    'entities', (
        SELECT coalesce(json_agg(json_build_object(
            'name', e.entity, 'join_key', e.join_key, 'value_type', e.value_type,
            'description', e.description, 'tags', e.tags) ORDER BY e.entity), '[]')
        FROM featurectl.catalog_entities e WHERE e.project = c.project),
    'views', (
        SELECT coalesce(json_agg(json_build_object(
            'name', v.view, 'join_keys', v.join_keys, 'ttl_seconds', v.ttl_seconds, 'online', v.online,
            'source_table', v.source_table, 'source_query', v.source_query,
            'timestamp_column', v.timestamp_column, 'created_column', v.created_column,
            'online_table', v.online_table, 'computed_from', v.computed_from, 'functions_file', v.functions_file,
            'functions_hash', v.functions_hash,
            'description', v.description, 'tags', v.tags,
            'fields', (
                SELECT coalesce(json_agg(json_build_object(
                    'name', f.field, 'value_type', f.value_type, 'column_type', f.column_type,
                    'source_column', f.source_column, 'description', f.description, 'tags', f.tags)
                    ORDER BY f.position), '[]')
                FROM featurectl.catalog_fields f WHERE f.project = v.project AND f.view = v.view)
            ) ORDER BY v.view), '[]')
        FROM featurectl.catalog_views v WHERE v.project = c.project),
    'services', (
        SELECT coalesce(json_agg(json_build_object(
            'name', s.service, 'description', s.description, 'tags', s.tags,
            'features', (
                SELECT coalesce(json_agg(json_build_array(x.view, x.feature) ORDER BY x.position), '[]')
                FROM featurectl.catalog_service_features x WHERE x.project = s.project AND x.service = s.service)
            ) ORDER BY s.service), '[]')
        FROM featurectl.catalog_services s WHERE s.project = c.project)
)
FROM featurectl.catalogs c
WHERE c.project = %(project)s;

-- delete_catalog --
-- Remove what a project published, before it publishes again in the same transaction.
WITH e AS (DELETE FROM featurectl.catalog_entities WHERE project = %(project)s),
     v AS (DELETE FROM featurectl.catalog_views WHERE project = %(project)s),
     f AS (DELETE FROM featurectl.catalog_fields WHERE project = %(project)s),
     s AS (DELETE FROM featurectl.catalog_services WHERE project = %(project)s)
DELETE FROM featurectl.catalog_service_features WHERE project = %(project)s;

-- delete_header --
-- Remove the header of what a project published.
DELETE FROM featurectl.catalogs WHERE project = %(project)s;

-- publish_header --
-- Give the published catalog its next version; the same content keeps its version.
INSERT INTO featurectl.catalogs AS c (project, version, content_hash, published_at, published_by)
VALUES (%(project)s, 1, %(content_hash)s, %(published_at)s, %(published_by)s)
ON CONFLICT (project) DO UPDATE
SET version = c.version + 1, content_hash = excluded.content_hash,
    published_at = excluded.published_at, published_by = excluded.published_by
WHERE c.content_hash <> excluded.content_hash
RETURNING version;

-- publish_registry --
-- Keep what Feast's registry held when a catalog was published, also where the catalog's content is the same.
UPDATE featurectl.catalogs SET registry = %(registry)s::jsonb
WHERE project = %(project)s AND registry IS DISTINCT FROM %(registry)s::jsonb;

-- publish_entity --
-- Publish one entity.
INSERT INTO featurectl.catalog_entities (project, entity, join_key, value_type, description, tags)
VALUES (%(project)s, %(name)s, %(join_key)s, %(value_type)s, %(description)s, %(tags)s::jsonb);

-- publish_view --
-- Publish one view, without its fields.
INSERT INTO featurectl.catalog_views (
    project, view, join_keys, ttl_seconds, online, source_table, source_query, timestamp_column, created_column,
    online_table, computed_from, functions_file, functions_hash, description, tags)
VALUES (
    %(project)s, %(name)s, %(join_keys)s, %(ttl_seconds)s, %(online)s, %(source_table)s, %(source_query)s,
    %(timestamp_column)s, %(created_column)s, %(online_table)s, %(computed_from)s, %(functions_file)s, %(functions_hash)s,
    %(description)s, %(tags)s::jsonb);

-- publish_field --
-- Publish one field of a view.
INSERT INTO featurectl.catalog_fields (
    project, view, position, field, value_type, column_type, source_column, description, tags)
VALUES (
    %(project)s, %(view)s, %(position)s, %(name)s, %(value_type)s, %(column_type)s, %(source_column)s,
    %(description)s, %(tags)s::jsonb);

-- publish_service --
-- Publish one service, without its features.
INSERT INTO featurectl.catalog_services (project, service, description, tags)
VALUES (%(project)s, %(name)s, %(description)s, %(tags)s::jsonb);

-- publish_service_feature --
-- Publish one feature of a service.
INSERT INTO featurectl.catalog_service_features (project, service, position, view, feature)
VALUES (%(project)s, %(service)s, %(position)s, %(view)s, %(feature)s);

-- published_projects --
-- The projects that have published a catalog.
SELECT project FROM featurectl.catalogs ORDER BY project;
