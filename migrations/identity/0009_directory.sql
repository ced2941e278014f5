-- The directory. The columns are the fields of the rows' structs, in any order.
CREATE TABLE entities (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    entity_type    text NOT NULL,
    slug           text NOT NULL,
    display_name   text NOT NULL,
    instance_id    text,
    instance_index int NOT NULL,
    network_id     text,
    capabilities   text[] NOT NULL,
    tags           text[] NOT NULL,
    status         text NOT NULL,
    bound_node_id  text,
    bound_at       timestamptz,
    lease_until    timestamptz,
    source_table   text,
    source_id      text,
    metadata       jsonb NOT NULL,
    last_seen_at   timestamptz,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL
);
CREATE INDEX entities_by_org ON entities (org_id, slug);
CREATE INDEX entities_by_slug ON entities (slug);
CREATE INDEX entities_by_node ON entities (bound_node_id) WHERE bound_node_id IS NOT NULL;
-- A person is seen by themselves and, within an organization, by those who are in it with them.
CREATE POLICY reader ON entities FOR SELECT TO symbia_reader
    USING (symbia.bypass() OR (org_id = symbia.org() AND org_id <> 'global')
        OR (org_id = 'global' AND symbia.actor() IS NOT NULL
            AND (source_table IS DISTINCT FROM 'users' OR source_id = symbia.actor()
                OR EXISTS (SELECT FROM memberships m WHERE m.user_id = entities.source_id AND m.org_id = symbia.org()))));

CREATE TABLE entity_aliases (
    id          text PRIMARY KEY,
    org_id      text NOT NULL,
    entity_id   text NOT NULL,
    alias_type  text NOT NULL,
    alias_value text NOT NULL,
    priority    int NOT NULL,
    created_at  timestamptz NOT NULL
);
CREATE INDEX entity_aliases_by_entity ON entity_aliases (entity_id);
CREATE INDEX entity_aliases_by_org ON entity_aliases (org_id);
CREATE POLICY reader ON entity_aliases FOR SELECT TO symbia_reader
    USING (EXISTS (SELECT FROM entities e WHERE e.id = entity_aliases.entity_id));

CREATE TABLE entity_instances (
    id             text PRIMARY KEY,
    org_id         text NOT NULL,
    entity_id      text NOT NULL,
    instance_id    text NOT NULL,
    instance_index int NOT NULL,
    node_id        text,
    status         text NOT NULL,
    load_score     int NOT NULL,
    metadata       jsonb NOT NULL,
    last_heartbeat timestamptz NOT NULL
);
CREATE INDEX entity_instances_by_entity ON entity_instances (entity_id);
CREATE INDEX entity_instances_by_org ON entity_instances (org_id);
CREATE POLICY reader ON entity_instances FOR SELECT TO symbia_reader
    USING (EXISTS (SELECT FROM entities e WHERE e.id = entity_instances.entity_id));
