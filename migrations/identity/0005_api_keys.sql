-- API keys. The columns are the fields of the row's struct, in any order.
CREATE TABLE api_keys (
    id           text PRIMARY KEY,
    org_id       text NOT NULL,
    name         text NOT NULL,
    key_prefix   text NOT NULL,
    key_hash     text NOT NULL,
    created_by   text NOT NULL,
    scopes       text[] NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    uses         bigint NOT NULL,
    created_at   timestamptz NOT NULL
);
CREATE INDEX api_keys_by_hash ON api_keys (key_hash);
CREATE INDEX api_keys_by_org ON api_keys (org_id);
CREATE INDEX api_keys_by_creator ON api_keys (created_by);
CREATE POLICY reader ON api_keys FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR created_by = symbia.actor());
