-- Connections to messengers, their chats, and what became of what was said there (integrations.md §3, §26). No content.

CREATE TABLE channel_connections (
    org_id             text NOT NULL,
    id                 text NOT NULL,
    channel_type       text NOT NULL,
    owner_id           text NOT NULL,
    credential_id      text,
    mode               text NOT NULL,
    webhook_url        text NOT NULL,
    target_url         text,
    secret_ref         text NOT NULL,
    secret_hash        text NOT NULL,
    assistants         jsonb NOT NULL,
    attempt            bigint NOT NULL,
    account_id         text,
    account_name       text,
    status             text NOT NULL,
    disabled           boolean NOT NULL,
    last_error         text,
    consecutive_errors bigint NOT NULL,
    messages_received  bigint NOT NULL,
    messages_sent      bigint NOT NULL,
    last_message_at    timestamptz,
    last_error_at      timestamptz,
    created_at         timestamptz NOT NULL,
    updated_at         timestamptz NOT NULL,
    connected_at       timestamptz,
    disconnected_at    timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX channel_connections_by_id ON channel_connections (id);
CREATE POLICY reader ON channel_connections FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE channel_messages (
    org_id             text NOT NULL,
    chat_key           text NOT NULL,
    -- The other side's id of what was received; our own of what is sent.
    id                 text NOT NULL,
    direction          text NOT NULL,
    connection_id      text NOT NULL,
    conversation_id    text,
    message_id         text,
    status             text NOT NULL,
    attempts           bigint NOT NULL,
    vendor_message_ids jsonb NOT NULL,
    error_code         text,
    created_at         timestamptz NOT NULL,
    ended_at           timestamptz,
    PRIMARY KEY (org_id, chat_key, direction, id)
);
CREATE INDEX channel_messages_by_connection ON channel_messages (org_id, connection_id, created_at DESC);
CREATE POLICY reader ON channel_messages FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE channel_chats (
    org_id          text NOT NULL,
    -- Keyed hash of connection and chat.
    id              text NOT NULL,
    connection_id   text NOT NULL,
    conversation_id text,
    last_message_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON channel_chats FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
