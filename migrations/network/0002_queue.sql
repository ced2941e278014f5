-- What still waits for a target: asked before each delivery, so that those of one run keep their order.
CREATE INDEX events_unsettled ON events (org_id, run_id, source, place) WHERE settled_at IS NULL;
