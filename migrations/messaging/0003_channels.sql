-- Chats elsewhere and their conversations (messaging.md §8.14). A chat is known by a keyed hash alone.

CREATE TABLE channel_links (
    org_id          text NOT NULL,
    id              text NOT NULL,
    channel_type    text NOT NULL,
    connection_id   text NOT NULL,
    conversation_id text NOT NULL,
    linked_by       text NOT NULL,
    linked_at       timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX channel_links_by_id ON channel_links (id);
CREATE INDEX channel_links_by_conversation ON channel_links (org_id, conversation_id);
CREATE POLICY reader ON channel_links FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
