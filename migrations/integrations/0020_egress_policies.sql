-- Where organizations let their own calls go (integrations.md §17.4, §26).

CREATE TABLE egress_policies (
    org_id  text NOT NULL,
    id      text NOT NULL,
    version bigint NOT NULL,
    terms   jsonb NOT NULL,
    set_by  text NOT NULL,
    set_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON egress_policies FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
