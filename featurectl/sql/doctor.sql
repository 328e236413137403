-- server --
-- What the server is, what it thinks the time is, and who we are to it.
SELECT current_setting('server_version'), now(), current_user, current_database(),
       has_database_privilege(current_database(), 'CREATE');

-- registry_views --
-- The feature views in Feast's registry and when the last of them changed.
SELECT array_agg(feature_view_name ORDER BY feature_view_name), max(last_updated_timestamp)
FROM {views}
WHERE project_id = %(project)s;
