-- Read model of the network service (network.md §14): an organization's mesh, its calls, and why each was decided as it was.
-- Ids come with commands, so every key begins with the tenant.

-- Grows with every change of nodes, contracts, bridges and policies: what was compiled from them is good as long as it stands.
CREATE TABLE meshes (
    org_id  text NOT NULL,
    id      text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON meshes FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE nodes (
    org_id             text NOT NULL,
    id                 text NOT NULL,
    name               text NOT NULL,
    type               text NOT NULL,
    capabilities       jsonb NOT NULL,
    endpoint           text NOT NULL,
    owner_id           text NOT NULL,
    metadata           jsonb NOT NULL,
    online             boolean NOT NULL,
    registered_at      timestamptz NOT NULL,
    last_registered_at timestamptz NOT NULL,
    last_seen          timestamptz NOT NULL,
    entity_id          text,
    entity_bound_at    timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON nodes FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE contracts (
    org_id              text NOT NULL,
    id                  text NOT NULL,
    source              text NOT NULL,
    target              text NOT NULL,
    allowed_event_types jsonb NOT NULL,
    boundaries          jsonb NOT NULL,
    created_at          timestamptz NOT NULL,
    created_by          text NOT NULL,
    expires_at          timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON contracts FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- A removed policy stays, without definition: it may be one that every organization starts with.
CREATE TABLE policies (
    org_id     text NOT NULL,
    id         text NOT NULL,
    version    int NOT NULL,
    definition jsonb,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    updated_by text NOT NULL,
    place      bigint NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON policies FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- By `<policy>@<version>`.
CREATE TABLE policy_versions (
    org_id     text NOT NULL,
    id         text NOT NULL,
    policy_id  text NOT NULL,
    version    int NOT NULL,
    definition jsonb,
    changed_at timestamptz NOT NULL,
    changed_by text NOT NULL,
    event_id   uuid NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON policy_versions FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

CREATE TABLE bridges (
    org_id         text NOT NULL,
    id             text NOT NULL,
    name           text NOT NULL,
    type           text NOT NULL,
    endpoint       text NOT NULL,
    event_types    jsonb NOT NULL,
    active         boolean NOT NULL,
    credential_ref text,
    created_at     timestamptz NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON bridges FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- `data` is sealed; `candidates` is what was decided for each target.
CREATE TABLE events (
    org_id           text NOT NULL,
    id               text NOT NULL,
    place            bigint NOT NULL,
    log_event_id     uuid NOT NULL,
    run_id           text NOT NULL,
    type             text NOT NULL,
    data             jsonb NOT NULL,
    source           text NOT NULL,
    target           text,
    caused_by        text,
    source_entity_id text,
    target_entity_id text,
    boundary         text NOT NULL,
    "timestamp"      text NOT NULL,
    hash             text NOT NULL,
    key_id           text NOT NULL,
    signed           boolean NOT NULL,
    sender_id        text NOT NULL,
    policy_set       text NOT NULL,
    candidates       jsonb NOT NULL,
    -- By target: how far its delivery is.
    deliveries       jsonb NOT NULL,
    status           text NOT NULL,
    routed_at        timestamptz NOT NULL,
    settled_at       timestamptz,
    PRIMARY KEY (org_id, id)
);
CREATE INDEX events_in_order ON events (org_id, place DESC);
CREATE INDEX events_by_run ON events (org_id, run_id, place);
CREATE POLICY reader ON events FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());

-- Counters by organization and what they count.
CREATE TABLE totals (
    org_id text NOT NULL,
    id     text NOT NULL,
    value  bigint NOT NULL,
    PRIMARY KEY (org_id, id)
);
CREATE POLICY reader ON totals FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR org_id = symbia.org());
