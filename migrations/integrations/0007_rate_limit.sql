-- How often an integration may be called.
ALTER TABLE integrations ADD COLUMN rate_limit jsonb;
