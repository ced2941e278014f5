-- What agents may do in people's names, and what people let them do.
CREATE TABLE delegations (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    subject_id     text NOT NULL,
    agent_id       text NOT NULL,
    scopes         jsonb NOT NULL,
    audiences      jsonb NOT NULL,
    may_act        jsonb NOT NULL,
    max_depth      bigint NOT NULL,
    "limit"        text NOT NULL,
    created_at     timestamptz NOT NULL,
    expires_at     timestamptz NOT NULL,
    revoked_at     timestamptz,
    revoked_by     text,
    revoked_reason text
);
CREATE INDEX delegations_by_subject ON delegations (subject_id, created_at DESC);
CREATE INDEX delegations_by_agent ON delegations (agent_id, created_at DESC);
CREATE POLICY reader ON delegations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR subject_id = symbia.actor() OR agent_id = symbia.actor());

CREATE TABLE approvals (
    id            text PRIMARY KEY,
    org_id        text NOT NULL,
    delegation_id text NOT NULL,
    subject_id    text NOT NULL,
    agent_id      text NOT NULL,
    action        text NOT NULL,
    target        text NOT NULL,
    reason        text,
    status        text NOT NULL,
    requested_at  timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    decided_at    timestamptz
);
CREATE INDEX approvals_by_subject ON approvals (subject_id, requested_at DESC);
CREATE POLICY reader ON approvals FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR subject_id = symbia.actor() OR agent_id = symbia.actor());
