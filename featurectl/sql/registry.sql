-- registry_stamp --
-- What differs whenever a definition in Feast's registry was written or deleted since, even with the same content.
SELECT encode(sha256(convert_to(
    coalesce(string_agg(concat_ws(' ', o.kind, o.name, o.written), ',' ORDER BY o.kind, o.name), ''), 'UTF8')), 'hex')
FROM (
    SELECT 'entity' AS kind, entity_name AS name, xmin::text AS written
    FROM {entities} WHERE project_id = %(project)s
    UNION ALL
    SELECT 'view', feature_view_name, xmin::text FROM {feature_views} WHERE project_id = %(project)s
    UNION ALL
    SELECT 'stream view', feature_view_name, xmin::text FROM {stream_feature_views} WHERE project_id = %(project)s
    UNION ALL
    SELECT 'service', feature_service_name, xmin::text FROM {feature_services} WHERE project_id = %(project)s
) AS o;

-- registry_objects --
-- Each definition in Feast's registry, as Feast serialized it.
SELECT 'entity', entity_name, entity_proto FROM {entities} WHERE project_id = %(project)s
UNION ALL
SELECT 'view', feature_view_name, feature_view_proto FROM {feature_views} WHERE project_id = %(project)s
UNION ALL
SELECT 'stream view', feature_view_name, feature_view_proto FROM {stream_feature_views} WHERE project_id = %(project)s
UNION ALL
SELECT 'service', feature_service_name, feature_service_proto FROM {feature_services} WHERE project_id = %(project)s;

-- published_registry --
-- The hashes of what Feast's registry held when a project's catalog was published.
SELECT registry -> 'objects' FROM featurectl.catalogs WHERE project = %(project)s;

-- short_lock_wait --
-- Let the rest of the transaction give up where somebody holds a table of Feast's registry.
SELECT set_config('lock_timeout', '200ms', true);

-- registry_names --
-- The names of all views and services in Feast's registry, those that no catalog has among them.
SELECT 'view', feature_view_name FROM {feature_views} WHERE project_id = %(project)s
UNION ALL
SELECT 'view', feature_view_name FROM {stream_feature_views} WHERE project_id = %(project)s
UNION ALL
SELECT 'view', feature_view_name FROM {on_demand_feature_views} WHERE project_id = %(project)s
UNION ALL
SELECT 'service', feature_service_name FROM {feature_services} WHERE project_id = %(project)s;

-- forget_lost_views --
-- Remove the versions of views that are not there.
DELETE FROM {feature_view_version_history} AS h
WHERE h.project_id = %(project)s
  AND (h.project_id, h.feature_view_name) NOT IN (
    SELECT project_id, feature_view_name FROM {feature_views}
    UNION ALL
    SELECT project_id, feature_view_name FROM {stream_feature_views}
    UNION ALL
    SELECT project_id, feature_view_name FROM {on_demand_feature_views}
    UNION ALL
    SELECT project_id, feature_view_name FROM {label_views});
