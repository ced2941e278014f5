-- Read model of the identity service (identity.md §3, §17). Uniqueness is the log's business (claims); here are only
-- indexes for looking up, so that folding several events at once can never trip over the order of rows.

CREATE TABLE memberships (
    id         text PRIMARY KEY,
    org_id     text NOT NULL,
    user_id    text NOT NULL,
    role       text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX memberships_by_org ON memberships (org_id);
CREATE INDEX memberships_by_user ON memberships (user_id);
CREATE POLICY reader ON memberships FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR user_id = symbia.actor());

CREATE TABLE organizations (
    id         text PRIMARY KEY,
    org_id     text NOT NULL,
    name       text NOT NULL,
    slug       text NOT NULL,
    plan_id    text,
    created_at timestamptz NOT NULL
);
CREATE INDEX organizations_by_slug ON organizations (slug);
CREATE POLICY reader ON organizations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR id = symbia.org()
        OR EXISTS (SELECT FROM memberships m WHERE m.org_id = organizations.id AND m.user_id = symbia.actor()));

-- A person who is gone keeps a row without personal data.
CREATE TABLE users (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    email          text,
    email_key      text,
    name           text,
    password_ref   text,
    password_algo  text,
    is_super_admin boolean NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    deleted        boolean NOT NULL
);
CREATE INDEX users_by_email_key ON users (email_key) WHERE NOT deleted;
CREATE INDEX super_admins ON users (id) WHERE is_super_admin AND NOT deleted;
CREATE POLICY reader ON users FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR id = symbia.actor()
        OR EXISTS (SELECT FROM memberships m WHERE m.user_id = users.id AND m.org_id = symbia.org()));

CREATE TABLE sessions (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    principal_id   text NOT NULL,
    principal_type text NOT NULL,
    method         text NOT NULL,
    client_ip      text,
    user_agent     text,
    generation     int NOT NULL,
    created_at     timestamptz NOT NULL,
    refreshed_at   timestamptz NOT NULL,
    expires_at     timestamptz,
    revoked_at     timestamptz,
    revoked_reason text
);
CREATE INDEX sessions_by_principal ON sessions (principal_id, created_at DESC);
CREATE POLICY reader ON sessions FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR principal_id = symbia.actor());

-- Every event of the service, without personal data and secrets. The key also keeps a message that somebody appended a
-- second time from being folded again: its version is taken.
CREATE TABLE audit_trail (
    id                uuid NOT NULL,
    org_id            text NOT NULL,
    sequence          bigint NOT NULL,
    at                timestamptz NOT NULL,
    type              text NOT NULL,
    aggregate_type    text NOT NULL,
    aggregate_id      text NOT NULL,
    aggregate_version bigint NOT NULL,
    actor_id          text NOT NULL,
    actor_type        text NOT NULL,
    on_behalf_of      text,
    auth_method       text NOT NULL,
    command_id        uuid NOT NULL,
    correlation_id    text NOT NULL,
    causation_id      text NOT NULL,
    details           jsonb NOT NULL,
    hash              text NOT NULL,
    prev_hash         text NOT NULL,
    PRIMARY KEY (aggregate_id, aggregate_type, org_id, aggregate_version)
);
CREATE INDEX audit_trail_by_org ON audit_trail (org_id, sequence);
CREATE POLICY reader ON audit_trail FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR (org_id = symbia.org() AND org_id <> 'global'));

-- Counters kept while folding, so that statistics scan nothing.
CREATE TABLE stats (
    org_id text NOT NULL,
    name   text NOT NULL,
    value  bigint NOT NULL,
    PRIMARY KEY (org_id, name)
);
CREATE POLICY reader ON stats FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR (org_id = symbia.org() AND org_id <> 'global')
        OR EXISTS (SELECT FROM memberships m WHERE m.org_id = stats.org_id AND m.user_id = symbia.actor()));
