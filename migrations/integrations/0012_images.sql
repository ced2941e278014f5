-- What a picture costs (integrations.md §28).

ALTER TABLE prices ADD COLUMN image_micros bigint;
