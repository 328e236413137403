-- server --
-- What the server is, what it thinks the time is, and who we are to it.
SELECT current_setting('server_version'), now(), current_user, current_database(),
       has_database_privilege(current_database(), 'CREATE');
