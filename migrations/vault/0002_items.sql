-- Key-encryption keys by version, and entries that have a data key of their own: the credentials of other providers.
ALTER TABLE key_encryption DROP COLUMN single;
ALTER TABLE key_encryption ADD COLUMN version int NOT NULL DEFAULT 1;
ALTER TABLE key_encryption ADD PRIMARY KEY (version);
ALTER TABLE key_encryption ADD UNIQUE (kek_id);
ALTER TABLE secrets ADD COLUMN kek_version int NOT NULL DEFAULT 1;

-- Owner and organization are kept in clear so that their entries can be destroyed with them.
CREATE TABLE items (
    ref         text PRIMARY KEY,
    owner_id    text NOT NULL,
    org_id      text,
    kek_version int NOT NULL,
    key_nonce   bytea,
    wrapped_key bytea,
    nonce       bytea,
    ciphertext  bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    destroyed   timestamptz,
    CHECK ((destroyed IS NULL) = (ciphertext IS NOT NULL) AND (ciphertext IS NULL) = (wrapped_key IS NULL)
       AND (wrapped_key IS NULL) = (key_nonce IS NULL) AND (ciphertext IS NULL) = (nonce IS NULL))
);
CREATE INDEX items_by_owner ON items (owner_id) WHERE destroyed IS NULL;
CREATE INDEX items_by_org ON items (org_id) WHERE destroyed IS NULL;
REVOKE ALL ON ALL TABLES IN SCHEMA vault FROM PUBLIC;
