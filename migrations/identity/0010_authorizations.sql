-- What clients may do in people's names; the session that a code became carries it.
CREATE TABLE authorizations (
    id         text PRIMARY KEY,
    org_id     text NOT NULL,
    user_id    text NOT NULL,
    client_id  text NOT NULL,
    scopes     jsonb NOT NULL,
    resource   text NOT NULL,
    session_id text,
    created_at timestamptz NOT NULL
);
CREATE INDEX authorizations_by_session ON authorizations (session_id);
CREATE INDEX authorizations_by_user ON authorizations (user_id);
CREATE POLICY reader ON authorizations FOR SELECT TO symbia_reader USING (symbia.bypass() OR user_id = symbia.actor());
