-- What was asked with which API key, and what its limits refused (integrations.md §28).

ALTER TABLE completions ADD COLUMN key_id text;
CREATE INDEX completions_by_key ON completions (org_id, key_id, requested_at DESC) WHERE key_id IS NOT NULL;

ALTER TABLE budgets
    ADD COLUMN refused    bigint NOT NULL DEFAULT 0,
    ADD COLUMN refused_at timestamptz;
