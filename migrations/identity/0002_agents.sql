-- Agents. The columns are the fields of the row's struct, in any order.
CREATE TABLE agents (
    id                     text PRIMARY KEY,
    org_id                 text NOT NULL,
    agent_id               text NOT NULL,
    name                   text NOT NULL,
    capabilities           text[] NOT NULL,
    requested_capabilities text[] NOT NULL,
    metadata               jsonb NOT NULL,
    is_active              boolean NOT NULL,
    enrolled_by            text NOT NULL,
    credential_ref         text NOT NULL,
    previous_ref           text,
    previous_until         timestamptz,
    sessions_after         timestamptz,
    last_seen_at           timestamptz,
    created_at             timestamptz NOT NULL,
    updated_at             timestamptz NOT NULL
);
CREATE INDEX agents_by_org ON agents (org_id);
CREATE INDEX agents_by_handle ON agents (agent_id);
CREATE POLICY reader ON agents FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR (org_id = symbia.org() AND org_id <> 'global')
        OR id = symbia.actor() OR agent_id = symbia.actor());
