-- What Feast's registry held when a catalog was published: a hash of each definition, and a stamp that any write changes.
ALTER TABLE featurectl.catalogs ADD COLUMN IF NOT EXISTS registry jsonb;
