-- Models that are left alone for a while (integrations.md §17.2). Those of the installation's own keys are everybody's to see.

CREATE TABLE circuits (
    org_id        text NOT NULL,
    id            text NOT NULL,
    provider      text NOT NULL,
    model         text NOT NULL,
    credential_id text,
    is_open       boolean NOT NULL,
    failures      bigint NOT NULL,
    last_category text NOT NULL,
    open_until    timestamptz NOT NULL,
    changed_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON circuits FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org() OR (org_id = 'global' AND symbia.actor() IS NOT NULL));
