-- create_view --
-- The rows of one view with the features of others beside them, each as of the row's event time.
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE OR REPLACE VIEW {name} AS
SELECT {columns}
FROM {spine} AS spine
{joins};

-- comment_on_view --
-- Say whose a view is; by it we know the views we may replace and drop.
COMMENT ON VIEW {name} IS {comment};

-- drop_view --
-- Remove a view; nothing is lost, it holds no rows of its own.
DROP VIEW IF EXISTS {name};

-- grant_select --
-- Let a role read a view.
GRANT SELECT ON {name} TO {role};

-- grant_select_on --
-- Let a role read a view, and let others.
GRANT SELECT ON {name} TO {role} WITH GRANT OPTION;

-- readers_of_view --
-- Those but its owner who may read a view, null for everybody, and whether they may let others.
SELECT CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, bool_or(a.is_grantable)
FROM pg_class c
CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.oid = to_regclass(%(view)s) AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner
GROUP BY a.grantee
ORDER BY 1;

-- dependents_of_view --
-- What would keep a view from being dropped: relations that read it, and whatever else uses it or its row type.
SELECT DISTINCT coalesce(n.nspname || '.' || r.relname, pg_describe_object(d.classid, d.objid, 0))
FROM pg_class c
JOIN pg_type t ON t.oid = c.reltype
JOIN pg_depend d ON d.deptype = 'n' AND (
    (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid)
    OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray)))
LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
LEFT JOIN pg_class r ON r.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE w.ev_class END
LEFT JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.oid = to_regclass(%(view)s) AND r.oid IS DISTINCT FROM c.oid
ORDER BY 1;

-- views_of_ours --
-- The SQL views that featurectl made, their comments, and the tables they read.
SELECT format('%s.%s', n.nspname, c.relname), d.description, array(
    SELECT DISTINCT format('%s.%s', tn.nspname, t.relname)
    FROM pg_rewrite r
    JOIN pg_depend p ON p.classid = 'pg_rewrite'::regclass AND p.objid = r.oid AND p.refclassid = 'pg_class'::regclass
    JOIN pg_class t ON t.oid = p.refobjid AND t.oid <> c.oid
    JOIN pg_namespace tn ON tn.oid = t.relnamespace
    WHERE r.ev_class = c.oid)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_description d ON d.objoid = c.oid AND d.classoid = 'pg_class'::regclass AND d.objsubid = 0
WHERE c.relkind = 'v' AND starts_with(d.description, 'featurectl: rows of view ');
