-- How far each principal has read, and the words by which messages are found (messaging.md §8.11, 14.3).

CREATE TABLE read_cursors (
    org_id          text NOT NULL,
    conversation_id text NOT NULL,
    user_id         text NOT NULL,
    read_sequence   bigint NOT NULL,
    read_at         timestamptz NOT NULL,
    PRIMARY KEY (org_id, conversation_id, user_id)
);
CREATE POLICY reader ON read_cursors FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR user_id = symbia.actor() OR org_id = symbia.org());

-- Generated from the row, so that what is erased or deleted cannot be found by construction. Not indexed: row-level security
-- keeps `@@` behind the reader's policy, where no GIN index serves it; a search reads the asker's own conversations.
ALTER TABLE messages ADD COLUMN words tsvector GENERATED ALWAYS AS (
    CASE WHEN erased OR deleted_at IS NOT NULL OR content_type = 'event' THEN NULL
         ELSE to_tsvector('simple'::regconfig, content) END) STORED;
