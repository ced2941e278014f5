-- What organizations registered, what can be called of it, and who called it (integrations.md §3.8, §26). No content.

CREATE TABLE integrations (
    org_id         text NOT NULL,
    key            text NOT NULL,
    name           text NOT NULL,
    description    text,
    kind           text NOT NULL,
    spec_url       text,
    server_url     text,
    auth           jsonb NOT NULL,
    retry          jsonb,
    operations     jsonb NOT NULL,
    tags           jsonb NOT NULL,
    metadata       jsonb NOT NULL,
    status         text NOT NULL,
    sync_error     text,
    spec_digest    text,
    version        bigint NOT NULL,
    last_synced_at timestamptz,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    PRIMARY KEY (org_id, key)
);
CREATE POLICY reader ON integrations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE invocations (
    org_id            text NOT NULL,
    id                text NOT NULL,
    user_id           text NOT NULL,
    integration_key   text NOT NULL,
    operation         text NOT NULL,
    status            text NOT NULL,
    attempts          int NOT NULL,
    status_code       int,
    success           boolean NOT NULL,
    error_category    text,
    error_code        text,
    host              text,
    credential_id     text,
    credential_source text,
    duration_ms       bigint,
    requested_at      timestamptz NOT NULL,
    ended_at          timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX invocations_by_time ON invocations (org_id, requested_at DESC, id);
CREATE POLICY reader ON invocations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
