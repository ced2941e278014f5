-- Whose requests these are, what they cost, and what limits them (integrations.md §26).

ALTER TABLE completions
    ADD COLUMN operation           text NOT NULL DEFAULT 'chat.completions',
    ADD COLUMN user_id             text,
    ADD COLUMN assistant_id        text,
    ADD COLUMN credential_id       text,
    ADD COLUMN credential_source   text,
    ADD COLUMN input_cost_micros   bigint,
    ADD COLUMN cost_micros         bigint;
CREATE INDEX completions_by_time ON completions (org_id, requested_at DESC, id);

CREATE TABLE budgets (
    org_id     text NOT NULL,
    id         text NOT NULL,
    scope      text NOT NULL,
    subject    text,
    period     text NOT NULL,
    unit       text NOT NULL,
    "limit"    bigint NOT NULL,
    "window"   text,
    spent      bigint NOT NULL,
    reserved   jsonb NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON budgets FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- The same for everybody, and for every principal to see.
CREATE TABLE prices (
    org_id                    text NOT NULL,
    id                        text NOT NULL,
    provider                  text NOT NULL,
    model                     text NOT NULL,
    version                   bigint NOT NULL,
    input_micros_per_m        bigint NOT NULL,
    output_micros_per_m       bigint NOT NULL,
    cached_input_micros_per_m bigint,
    set_at                    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX prices_by_model ON prices (provider, model);
CREATE POLICY reader ON prices FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR symbia.actor() IS NOT NULL);
