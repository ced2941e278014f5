-- Models that were tried, and what that says of them (integrations.md §16). Answers are sealed.

CREATE TABLE evaluations (
    org_id            text NOT NULL,
    id                text NOT NULL,
    provider          text NOT NULL,
    model_id          text NOT NULL,
    benchmark_id      text NOT NULL,
    benchmark_version text NOT NULL,
    task_type         text NOT NULL,
    status            text NOT NULL,
    cases             int NOT NULL,
    results           jsonb NOT NULL,
    run_config        jsonb NOT NULL,
    mock              boolean NOT NULL,
    overall_score     double precision,
    accuracy          double precision,
    latency_p50_ms    bigint,
    latency_p95_ms    bigint,
    latency_p99_ms    bigint,
    input_tokens      bigint,
    output_tokens     bigint,
    cost_micros       bigint,
    started_by        text NOT NULL,
    started_at        timestamptz NOT NULL,
    ended_at          timestamptz,
    error_category    text,
    error_message     text,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX evaluations_by_model ON evaluations (org_id, provider, model_id, task_type);
CREATE POLICY reader ON evaluations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE model_scores (
    org_id            text NOT NULL,
    id                text NOT NULL,
    provider          text NOT NULL,
    model_id          text NOT NULL,
    task_type         text NOT NULL,
    quality_score     double precision NOT NULL,
    speed_score       double precision NOT NULL,
    cost_score        double precision NOT NULL,
    reliability_score double precision NOT NULL,
    composite_score   double precision NOT NULL,
    evaluation_ids    jsonb NOT NULL,
    updated_at        timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON model_scores FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
