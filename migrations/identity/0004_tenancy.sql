-- What belongs to an organization beside its members, plans, grants, and the audit trail's words for what happened.

-- Every principal may know what can be had.
CREATE TABLE plans (
    id          text PRIMARY KEY,
    org_id      text NOT NULL,
    name        text NOT NULL,
    features    jsonb NOT NULL,
    limits      jsonb NOT NULL,
    price_cents bigint NOT NULL,
    retired     boolean NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX plans_by_name ON plans (name) WHERE NOT retired;
CREATE POLICY reader ON plans FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR symbia.actor() IS NOT NULL);

CREATE TABLE org_entitlements (
    id          text PRIMARY KEY,
    org_id      text NOT NULL,
    feature_key text NOT NULL,
    enabled     boolean NOT NULL,
    expires_at  timestamptz
);
CREATE INDEX org_entitlements_by_org ON org_entitlements (org_id);
CREATE POLICY reader ON org_entitlements FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE invitations (
    id         text PRIMARY KEY,
    org_id     text NOT NULL,
    email      text,
    role       text NOT NULL,
    invited_by text NOT NULL,
    token_hash text NOT NULL,
    expires_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX invitations_by_org ON invitations (org_id);
CREATE INDEX invitations_by_token ON invitations (token_hash);
CREATE POLICY reader ON invitations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE projects (
    id          text PRIMARY KEY,
    org_id      text NOT NULL,
    name        text NOT NULL,
    slug        text NOT NULL,
    description text,
    status      text NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX projects_by_org ON projects (org_id, created_at);
CREATE POLICY reader ON projects FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE applications (
    id          text PRIMARY KEY,
    project_id  text NOT NULL,
    org_id      text NOT NULL,
    name        text NOT NULL,
    slug        text NOT NULL,
    environment text NOT NULL,
    app_type    text NOT NULL,
    repo_url    text,
    created_at  timestamptz NOT NULL
);
CREATE INDEX applications_by_project ON applications (project_id, created_at);
CREATE INDEX applications_by_org ON applications (org_id);
CREATE POLICY reader ON applications FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE project_services (
    id           text PRIMARY KEY,
    project_id   text NOT NULL,
    org_id       text NOT NULL,
    name         text NOT NULL,
    service_type text NOT NULL,
    provider     text,
    endpoint_url text,
    external_id  text,
    status       text NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX project_services_by_project ON project_services (project_id, created_at);
CREATE INDEX project_services_by_org ON project_services (org_id);
CREATE POLICY reader ON project_services FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE service_links (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    application_id text NOT NULL,
    service_id     text NOT NULL,
    created_at     timestamptz NOT NULL
);
CREATE INDEX service_links_by_application ON service_links (application_id);
CREATE INDEX service_links_by_org ON service_links (org_id);
CREATE POLICY reader ON service_links FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE scoped_entitlements (
    id          text PRIMARY KEY,
    org_id      text NOT NULL,
    scope_type  text NOT NULL,
    scope_id    text NOT NULL,
    feature_key text NOT NULL,
    quota       bigint,
    consumed    bigint NOT NULL,
    enabled     boolean NOT NULL,
    expires_at  timestamptz,
    created_at  timestamptz NOT NULL
);
CREATE INDEX scoped_entitlements_by_scope ON scoped_entitlements (scope_id);
CREATE INDEX scoped_entitlements_by_org ON scoped_entitlements (org_id);
CREATE POLICY reader ON scoped_entitlements FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- Entitlements and roles of principals beyond their memberships.
CREATE TABLE grants (
    id           text PRIMARY KEY,
    org_id       text NOT NULL,
    principal_id text NOT NULL,
    kind         text NOT NULL,
    key          text NOT NULL,
    granted_by   text NOT NULL,
    expires_at   timestamptz,
    created_at   timestamptz NOT NULL
);
CREATE INDEX grants_by_principal ON grants (principal_id);
CREATE POLICY reader ON grants FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR principal_id = symbia.actor());

ALTER TABLE audit_trail ADD COLUMN action text NOT NULL DEFAULT '', ADD COLUMN resource text NOT NULL DEFAULT '';
CREATE INDEX audit_trail_by_action ON audit_trail (action, sequence);
CREATE INDEX audit_trail_by_sequence ON audit_trail (sequence);
