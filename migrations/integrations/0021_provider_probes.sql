-- Which providers organizations have asked whether they are there (integrations.md §28).

CREATE TABLE provider_probes (
    org_id        text NOT NULL,
    id            text NOT NULL,
    version       bigint NOT NULL,
    providers     jsonb NOT NULL,
    every_seconds int NOT NULL,
    set_by        text NOT NULL,
    set_at        timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON provider_probes FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
