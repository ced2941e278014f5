-- What was told in chats and not taken in, since it was too much.
ALTER TABLE channel_connections ADD COLUMN messages_refused bigint NOT NULL DEFAULT 0;
