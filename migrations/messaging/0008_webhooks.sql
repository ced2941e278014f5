-- Where participants that are software of others are told of what they are asked (messaging.md §8.12), by principal.

CREATE TABLE webhooks (
    org_id        text NOT NULL,
    id            text NOT NULL,
    url           text NOT NULL,
    secret_ref    text NOT NULL,
    registered_by text NOT NULL,
    registered_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON webhooks FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
