-- save_profile --
-- Note a profile by its name; one of that name keeps being the baseline if it was.
INSERT INTO featurectl.profiles (project, name, window_start, window_end, saved_at)
VALUES (%(project)s, %(name)s, %(window_start)s, %(window_end)s, %(saved_at)s)
ON CONFLICT (project, name) DO UPDATE SET
    window_start = excluded.window_start, window_end = excluded.window_end, saved_at = excluded.saved_at;

-- forget_features --
-- Make room for what a profile holds now.
DELETE FROM featurectl.profile_features WHERE project = %(project)s AND name = %(name)s;

-- save_feature --
-- Note what a feature of one entity, or of all, looked like.
INSERT INTO featurectl.profile_features (
    project, name, view, feature, entity, scale, row_count, null_count, value_count, mean, std, sketch, edges, pieces,
    statistics)
VALUES (
    %(project)s, %(name)s, %(view)s, %(feature)s, %(entity)s, %(scale)s, %(rows)s, %(nulls)s, %(values)s, %(mean)s,
    %(std)s, %(sketch)s, %(edges)s, %(pieces)s, %(statistics)s);

-- list_profiles --
-- The profiles of a project, the newest first, with the number of their features and entities.
SELECT p.name, p.window_start, p.window_end, p.is_baseline, p.saved_at,
       count(DISTINCT (f.view, f.feature)), count(DISTINCT f.entity) FILTER (WHERE f.entity <> '' AND f.entity NOT LIKE '*%%')
FROM featurectl.profiles AS p LEFT JOIN featurectl.profile_features AS f USING (project, name)
WHERE p.project = %(project)s
GROUP BY p.project, p.name
ORDER BY p.saved_at DESC, p.name;

-- read_features --
-- What a profile holds, of some views.
SELECT view, feature, nullif(entity, ''), scale, row_count, null_count, value_count, mean, std, sketch, edges, pieces
FROM featurectl.profile_features
WHERE project = %(project)s AND name = %(name)s AND view = ANY(%(views)s)
ORDER BY view, feature, entity;

-- read_statistics --
-- The figures that a profile was saved with.
SELECT statistics FROM featurectl.profile_features
WHERE project = %(project)s AND name = %(name)s
ORDER BY view, feature, entity;

-- unset_baseline --
-- Leave a project without a baseline.
UPDATE featurectl.profiles SET is_baseline = false WHERE project = %(project)s AND is_baseline;

-- set_baseline --
-- Make a profile the baseline of its project.
UPDATE featurectl.profiles SET is_baseline = true WHERE project = %(project)s AND name = %(name)s;

-- drop_profile --
-- Forget a profile.
DELETE FROM featurectl.profiles WHERE project = %(project)s AND name = %(name)s;
