-- What an organization lets into prompts and out of answers (integrations.md §28).

CREATE TABLE guardrails (
    org_id  text NOT NULL,
    id      text NOT NULL,
    name    text NOT NULL,
    version bigint NOT NULL,
    prompt  jsonb NOT NULL,
    answer  jsonb NOT NULL,
    set_by  text NOT NULL,
    set_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX guardrails_by_name ON guardrails (org_id, name);
CREATE POLICY reader ON guardrails FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
