-- A message is found by its id alone: whether an id that a client chose is taken elsewhere, and which conversation a message
-- that is edited over a socket belongs to.

CREATE INDEX messages_by_id ON messages (org_id, id);
