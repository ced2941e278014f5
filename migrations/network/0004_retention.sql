-- Calls are shown for so long, then their rows go; the log keeps them.
CREATE INDEX events_by_time ON events (routed_at);
