-- Read model of the integrations service: what models were asked for, and what it took (integrations.md §25). No content.

CREATE TABLE completions (
    org_id            text NOT NULL,
    id                text NOT NULL,
    conversation_id   text,
    run_id            text,
    provider          text,
    model             text,
    status            text NOT NULL,
    attempts          int NOT NULL,
    prompt_tokens     bigint,
    completion_tokens bigint,
    estimated         boolean,
    finish_reason     text,
    queue_ms          bigint,
    ttft_ms           bigint,
    total_ms          bigint,
    tokens_per_sec    double precision,
    error_category    text,
    error_code        text,
    requested_at      timestamptz NOT NULL,
    ended_at          timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX completions_by_run ON completions (org_id, run_id);
CREATE POLICY reader ON completions FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
