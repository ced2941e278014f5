-- Read model of the assistants service: definitions, rule sets, and why each answer came about (assistants.md §21). Runs hold
-- references and digests, no content. Keys begin with the tenant: ids come with commands.

CREATE TABLE assistants (
    org_id     text NOT NULL,
    key        text NOT NULL,
    definition text NOT NULL,
    digest     text NOT NULL,
    published  boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, key)
);
CREATE POLICY reader ON assistants FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR org_id = 'global');

CREATE TABLE rule_sets (
    org_id      text NOT NULL,
    key         text NOT NULL,
    id          text NOT NULL,
    name        text NOT NULL,
    description text,
    rules       text NOT NULL,
    llm_config  text,
    version     int NOT NULL,
    digest      text NOT NULL,
    is_active   boolean NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, key)
);
CREATE POLICY reader ON rule_sets FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR org_id = 'global');

CREATE TABLE rule_runs (
    org_id          text NOT NULL,
    id              text NOT NULL,
    conversation_id text NOT NULL,
    message_id      text NOT NULL,
    sender_id       text NOT NULL,
    assistant_key   text NOT NULL,
    status          text NOT NULL,
    why             text NOT NULL,
    evaluated       text NOT NULL,
    actions         text NOT NULL,
    message_ids     text NOT NULL,
    failure         text,
    started_at      timestamptz NOT NULL,
    ended_at        timestamptz,
    duration_ms     bigint,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX rule_runs_by_conversation ON rule_runs (org_id, conversation_id, started_at DESC);
CREATE POLICY reader ON rule_runs FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
