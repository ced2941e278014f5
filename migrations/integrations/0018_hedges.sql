-- When a route's second target is asked besides its first (integrations.md §28).

ALTER TABLE routes ADD COLUMN hedge jsonb;
