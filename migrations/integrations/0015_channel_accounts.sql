-- The account of a connection, where its token alone does not say; files that were not kept; what the other side told of what was
-- said there.
ALTER TABLE channel_connections ADD COLUMN account text;
ALTER TABLE channel_connections ADD COLUMN login text;
ALTER TABLE channel_connections ADD COLUMN files_refused bigint NOT NULL DEFAULT 0;
ALTER TABLE channel_messages ADD COLUMN receipt text;
ALTER TABLE channel_messages ADD COLUMN receipt_error text;
