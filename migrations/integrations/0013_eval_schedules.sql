-- Models that are tried again and again (integrations.md §16).

CREATE TABLE eval_schedules (
    org_id             text NOT NULL,
    id                 text NOT NULL,
    name               text NOT NULL,
    version            bigint NOT NULL,
    trial              jsonb NOT NULL,
    cron               text,
    interval_hours     int,
    enabled            boolean NOT NULL,
    next_run_at        timestamptz,
    last_run_at        timestamptz,
    last_evaluation_id text,
    last_error         text,
    set_by             text NOT NULL,
    set_at             timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX eval_schedules_by_run ON eval_schedules (org_id, last_evaluation_id);
CREATE POLICY reader ON eval_schedules FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
