-- Vault items without their secrets. The columns are the fields of the row's struct, in any order.
CREATE TABLE credentials (
    id               text PRIMARY KEY,
    org_id           text NOT NULL,
    owner_id         text NOT NULL,
    provider         text NOT NULL,
    name             text NOT NULL,
    credential_type  text NOT NULL,
    is_org_wide      boolean NOT NULL,
    secret_ref       text NOT NULL,
    refresh_ref      text,
    masked_hint      text,
    metadata         jsonb NOT NULL,
    expires_at       timestamptz,
    account_key      text,
    oauth_user_id    text,
    oauth_user_email text,
    oauth_user_name  text,
    version          int NOT NULL,
    last_used_at     timestamptz,
    created_at       timestamptz NOT NULL
);
CREATE INDEX credentials_by_owner ON credentials (owner_id, provider);
CREATE INDEX credentials_by_org ON credentials (org_id, provider);
CREATE POLICY reader ON credentials FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR owner_id = symbia.actor()
        OR (is_org_wide AND org_id = symbia.org() AND org_id <> 'global'));
