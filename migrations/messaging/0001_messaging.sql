-- Read model of the messaging service (messaging.md §3, §14). Ids come with commands, so every key begins with the tenant:
-- nobody can touch another tenant's rows by naming their ids.

CREATE TABLE participants (
    org_id          text NOT NULL,
    conversation_id text NOT NULL,
    user_id         text NOT NULL,
    id              text NOT NULL,
    user_type       text NOT NULL,
    role            text NOT NULL,
    entity_id       text,
    joined_at       timestamptz NOT NULL,
    PRIMARY KEY (org_id, conversation_id, user_id)
);
CREATE INDEX participants_by_user ON participants (user_id);
-- The others of a conversation are listed within an organization, after its membership was checked.
CREATE POLICY reader ON participants FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR user_id = symbia.actor() OR org_id = symbia.org());

CREATE TABLE conversations (
    org_id         text NOT NULL,
    id             text NOT NULL,
    type           text NOT NULL,
    name           text,
    description    text,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    metadata       text NOT NULL,
    content_key_id text NOT NULL,
    last_sequence  bigint NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX conversations_by_id ON conversations (id);
CREATE POLICY reader ON conversations FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR EXISTS (
        SELECT FROM participants p
        WHERE p.org_id = conversations.org_id AND p.conversation_id = conversations.id AND p.user_id = symbia.actor()));

-- Texts are opened while folding; `erased` ones had a key that is destroyed.
CREATE TABLE messages (
    org_id          text NOT NULL,
    conversation_id text NOT NULL,
    id              text NOT NULL,
    event_id        uuid NOT NULL,
    sender_id       text NOT NULL,
    sender_type     text NOT NULL,
    content         text NOT NULL,
    content_type    text NOT NULL,
    reply_to        text,
    run_id          text,
    trace_id        text,
    sequence        bigint NOT NULL,
    priority        text NOT NULL,
    interruptible   boolean NOT NULL,
    preempted_by    text,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz,
    deleted_at      timestamptz,
    metadata        text NOT NULL,
    version         int NOT NULL,
    erased          boolean NOT NULL,
    PRIMARY KEY (org_id, conversation_id, id)
);
CREATE INDEX messages_in_order ON messages (org_id, conversation_id, sequence);
CREATE POLICY reader ON messages FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR EXISTS (
        SELECT FROM participants p
        WHERE p.org_id = messages.org_id AND p.conversation_id = messages.conversation_id
          AND p.user_id = symbia.actor()));
