-- How often what somebody said in an organization was erased: the next words are sealed under keys of this number
-- (messaging.md §14.3).

CREATE TABLE author_erasures (
    org_id     text NOT NULL,
    user_id    text NOT NULL,
    generation int NOT NULL,
    erased_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE POLICY reader ON author_erasures FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR user_id = symbia.actor() OR org_id = symbia.org());
CREATE INDEX messages_by_sender ON messages (org_id, sender_id);
