-- The secret store. Not a projection: nothing gives it back, it must be backed up. Only its owner can touch it.
-- A destroyed entry keeps its row without content, so that its reference is never used again.

CREATE TABLE key_encryption (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    kek_id text NOT NULL
);

CREATE TABLE secrets (
    kind       text NOT NULL,
    ref        text NOT NULL,
    nonce      bytea,
    wrapped    bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    destroyed  timestamptz,
    PRIMARY KEY (kind, ref),
    CHECK ((wrapped IS NULL) = (destroyed IS NOT NULL) AND (nonce IS NULL) = (wrapped IS NULL))
);
REVOKE ALL ON ALL TABLES IN SCHEMA vault FROM PUBLIC;
