-- Names of an organization's own for several models (integrations.md §26).

CREATE TABLE routes (
    org_id    text NOT NULL,
    id        text NOT NULL,
    alias     text NOT NULL,
    version   bigint NOT NULL,
    strategy  text NOT NULL,
    targets   jsonb NOT NULL,
    fallbacks jsonb NOT NULL,
    set_by    text NOT NULL,
    set_at    timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX routes_by_alias ON routes (org_id, alias);
CREATE POLICY reader ON routes FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
