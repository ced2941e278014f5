-- For how long organizations keep what is said (messaging.md §8.16); one row each. And when a conversation was erased: it is not
-- looked through again.

CREATE TABLE retention_policies (
    org_id     text NOT NULL PRIMARY KEY,
    days       int NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE POLICY reader ON retention_policies FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
ALTER TABLE conversations ADD COLUMN erased_at timestamptz;
CREATE INDEX conversations_quiet ON conversations (org_id, id) WHERE erased_at IS NULL;
