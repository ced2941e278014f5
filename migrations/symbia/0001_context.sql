-- What every read model shares: who asks (set for one transaction by the reader), and how a schema is closed.
-- Roles exist already; this schema holds nothing that a replay could not give back.

CREATE FUNCTION symbia.org() RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('symbia.org_id', true), '') $$;
CREATE FUNCTION symbia.actor() RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT nullif(current_setting('symbia.user_id', true), '') $$;
CREATE FUNCTION symbia.bypass() RETURNS boolean LANGUAGE sql STABLE
    AS $$ SELECT coalesce(current_setting('symbia.bypass', true), '') = 'on' $$;

-- Closes every table of a schema: row-level security is forced, the projector passes, and a table that no policy opens
-- to readers in a defined way is refused.
CREATE FUNCTION symbia.protect(target text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry record;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO symbia_reader, symbia_projector', target);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO symbia_reader', target);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO symbia_projector', target);
    FOR entry IN
        SELECT c.oid, c.relname FROM pg_class c
        WHERE c.relnamespace = target::regnamespace AND c.relkind IN ('r', 'p')
    LOOP
        EXECUTE format('ALTER TABLE %I.%I ENABLE ROW LEVEL SECURITY', target, entry.relname);
        EXECUTE format('ALTER TABLE %I.%I FORCE ROW LEVEL SECURITY', target, entry.relname);
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = entry.oid AND p.polname = 'projector') THEN
            EXECUTE format('CREATE POLICY projector ON %I.%I TO symbia_projector USING (true) WITH CHECK (true)',
                target, entry.relname);
        END IF;
        IF NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = entry.oid AND p.polname = 'reader') THEN
            RAISE EXCEPTION 'table %.% has no policy "reader": say in its migration who may read it',
                target, entry.relname;
        END IF;
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA symbia TO symbia_reader, symbia_projector;
