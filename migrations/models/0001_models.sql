-- Read model of the models service: which model files there are, and where they are in memory (models.md §17). They belong to
-- the installation: everybody may read.

CREATE TABLE models (
    org_id           text NOT NULL,
    id               text NOT NULL,
    digest           text NOT NULL,
    name             text NOT NULL,
    filename         text NOT NULL,
    architecture     text NOT NULL,
    parameters       bigint NOT NULL,
    quantization     text,
    size_bytes       bigint NOT NULL,
    context_length   bigint NOT NULL,
    embedding_length bigint NOT NULL,
    capabilities     text[] NOT NULL,
    license          text,
    status           text NOT NULL,
    reason           text,
    created_at       timestamptz NOT NULL,
    updated_at       timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON models FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR org_id = 'global');

CREATE TABLE model_instances (
    org_id         text NOT NULL,
    id             text NOT NULL,
    worker_id      text NOT NULL,
    context_tokens bigint NOT NULL,
    slots          bigint NOT NULL,
    weight_bytes   bigint NOT NULL,
    cache_bytes    bigint NOT NULL,
    compute_bytes  bigint NOT NULL,
    load_ms        bigint NOT NULL,
    loaded_at      timestamptz NOT NULL,
    PRIMARY KEY (org_id, id, worker_id)
);
CREATE POLICY reader ON model_instances FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR org_id = 'global');
