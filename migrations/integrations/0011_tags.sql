-- Words of an asker's own, by which requests are found again (integrations.md §28). Most requests have none.

ALTER TABLE completions ADD COLUMN tags jsonb NOT NULL DEFAULT '[]';
CREATE INDEX completions_by_tag ON completions USING gin (tags) WHERE tags <> '[]';
