-- create_view --
-- The rows of one view with the features of others beside them, each as of the row's event time.
CREATE SCHEMA IF NOT EXISTS {schema};
CREATE VIEW {name} AS
SELECT {columns}
FROM {spine} AS spine
{joins};

-- comment_on_view --
-- Say whose a view is; by it we know the views we may replace and drop.
COMMENT ON VIEW {name} IS {comment};

-- drop_view --
-- Remove a view; nothing is lost, it holds no rows of its own.
DROP VIEW IF EXISTS {name};

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
