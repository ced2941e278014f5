-- Accounts that people linked, and where they can (integrations.md §14, §26). Names and addresses are sealed.

CREATE TABLE oauth_clients (
    org_id        text NOT NULL,
    id            text NOT NULL,
    display_name  text NOT NULL,
    description   text,
    icon_url      text,
    endpoints     jsonb NOT NULL,
    client_id     text NOT NULL,
    secret_ref    text,
    redirect_uris jsonb NOT NULL,
    enabled       boolean NOT NULL,
    version       bigint NOT NULL,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON oauth_clients FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE oauth_flows (
    org_id        text NOT NULL,
    id            text NOT NULL,
    user_id       text NOT NULL,
    provider      text NOT NULL,
    redirect_uri  text,
    client_state  jsonb,
    status        text NOT NULL,
    error_code    text,
    connection_id text,
    started_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX oauth_flows_by_id ON oauth_flows (id);
CREATE POLICY reader ON oauth_flows FOR SELECT TO symbia_reader
    USING (symbia.bypass());

CREATE TABLE oauth_connections (
    org_id        text NOT NULL,
    id            text NOT NULL,
    user_id       text NOT NULL,
    provider      text NOT NULL,
    credential_id text NOT NULL,
    account       jsonb NOT NULL,
    scopes        jsonb NOT NULL,
    status        text NOT NULL,
    expires_at    timestamptz,
    connected_at  timestamptz NOT NULL,
    revoked_at    timestamptz,
    updated_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX oauth_connections_by_user ON oauth_connections (org_id, user_id, connected_at DESC);
CREATE POLICY reader ON oauth_connections FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR (org_id = symbia.org() AND user_id = symbia.actor()));
