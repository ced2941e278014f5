-- What is set for models, and the models that are being got (models.md §17). Both belong to the installation, and name
-- organizations and people: only the platform reads them, and tells each what concerns it.

CREATE TABLE model_settings (
    org_id     text NOT NULL,
    id         text NOT NULL,
    -- JSON; as text, since jsonb cannot hold every character.
    settings   text NOT NULL,
    version    bigint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON model_settings FOR SELECT TO symbia_reader USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE downloads (
    org_id      text NOT NULL,
    id          text NOT NULL,
    source      text NOT NULL,
    status      text NOT NULL,
    filename    text,
    bytes       bigint,
    sha256      text,
    license     text,
    reason      text,
    error       text,
    created_by  text NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX downloads_latest ON downloads (org_id, created_at DESC, id);
CREATE POLICY reader ON downloads FOR SELECT TO symbia_reader USING (symbia.bypass() OR org_id = symbia.org());

-- What was done for an organization in an hour, by model and inference process; the organization's own.
CREATE TABLE inference_stats (
    org_id             text NOT NULL,
    id                 text NOT NULL,
    hour               timestamptz NOT NULL,
    model_id           text NOT NULL,
    worker_id          text NOT NULL,
    requests           bigint NOT NULL,
    errors             bigint NOT NULL,
    tokens_in          bigint NOT NULL,
    tokens_cached      bigint NOT NULL,
    tokens_out         bigint NOT NULL,
    ttft_ms_p50        double precision,
    ttft_ms_p95        double precision,
    tokens_per_sec_p50 double precision,
    queue_ms_p95       double precision,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX inference_stats_by_hour ON inference_stats (org_id, hour DESC, model_id);
CREATE POLICY reader ON inference_stats FOR SELECT TO symbia_reader USING (symbia.bypass() OR org_id = symbia.org());
