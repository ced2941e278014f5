-- What a contract lets pass in a second, and what of the data it keeps from being shown; who registered a bridge.
ALTER TABLE contracts ADD COLUMN max_events_per_second bigint;
ALTER TABLE contracts ADD COLUMN redact jsonb NOT NULL DEFAULT '[]';
ALTER TABLE bridges ADD COLUMN created_by text NOT NULL DEFAULT '';
