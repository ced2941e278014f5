//! The entity aggregate: a directory entry with the claims of its names and of the node it lives on (identity.md §7, 15).
//!
//! Instances of one family (type and slug, in one organization) share its names. A person's names are sealed and claim
//! nothing: several people may be called the same.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_events::{
    OrgId, Personal,
    identity::{
        EntityAliasAdded, EntityAliasRemoved, EntityBound, EntityEvent, EntityInstanceReported, EntityRegistered,
        EntityRetired, EntityStatusChanged, EntityUnbound, EntityUpdated,
    },
};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::instants::instant;
use crate::{Actor, Aggregate, Claim, Decision, Rejection, Role, domain_commands};

/// Longest lease of a node.
pub const LEASE_MAX: Duration = Duration::hours(24);
/// Kinds of entities.
pub const ENTITY_TYPES: [&str; 5] = ["user", "assistant", "service", "integration", "sandbox"];
/// Standings of entities.
pub const ENTITY_STATUSES: [&str; 3] = ["active", "inactive", "suspended"];
const ALIAS_TYPES: [&str; 4] = ["slug", "qualified", "legacy", "federated"];
const INSTANCE_STATUSES: [&str; 3] = ["available", "busy", "offline"];
const MOST: usize = 200;

domain_commands! {
    /// What an entity can be asked to do.
    EntityCommand: Identity / "entity" {
        /// Puts it into the directory.
        RegisterEntity = "symbia.cmd.identity.register-entity.v1" {
            entity_id: String,
            entity_type: String,
            slug: String,
            display_name: String,
            #[serde(default)]
            instance_id: Option<String>,
            #[serde(default)]
            instance_index: Option<u32>,
            #[serde(default)]
            org_id: Option<String>,
            #[serde(default)]
            network_id: Option<String>,
            #[serde(default)]
            capabilities: Vec<String>,
            #[serde(default)]
            tags: Vec<String>,
            #[serde(default)]
            source_table: Option<String>,
            #[serde(default)]
            source_id: Option<String>,
            #[serde(default)]
            metadata: Map<String, Value>,
            #[serde(default)]
            email: Option<Personal>,
            #[serde(default)]
            person: Option<Personal>,
        }
        /// Changes what it is like; what is absent stays.
        UpdateEntity = "symbia.cmd.identity.update-entity.v1" {
            entity_id: String,
            #[serde(default)]
            display_name: Option<String>,
            #[serde(default)]
            person: Option<Personal>,
            #[serde(default)]
            capabilities: Option<Vec<String>>,
            #[serde(default)]
            tags: Option<Vec<String>>,
            #[serde(default)]
            metadata: Option<Map<String, Value>>,
        }
        /// Changes its standing.
        ChangeEntityStatus = "symbia.cmd.identity.change-entity-status.v1" { entity_id: String, status: String }
        /// Gives it another name.
        AddEntityAlias = "symbia.cmd.identity.add-entity-alias.v1" {
            entity_id: String,
            alias_id: String,
            alias_type: String,
            alias_value: String,
            priority: i32,
        }
        /// Takes a name away.
        RemoveEntityAlias = "symbia.cmd.identity.remove-entity-alias.v1" { entity_id: String, alias_id: String }
        /// Says on which node it lives, or goes on living.
        BindEntity = "symbia.cmd.identity.bind-entity.v1" {
            entity_id: String,
            node_id: String,
            /// RFC 3339.
            lease_until: String,
        }
        /// Says that it no longer does.
        UnbindEntity = "symbia.cmd.identity.unbind-entity.v1" { entity_id: String, reason: String }
        /// Reports how an instance is.
        ReportEntityInstance = "symbia.cmd.identity.report-entity-instance.v1" {
            entity_id: String,
            instance_id: String,
            #[serde(default)]
            instance_index: u32,
            #[serde(default)]
            node_id: Option<String>,
            status: String,
            #[serde(default)]
            load_score: u32,
            #[serde(default)]
            metadata: Map<String, Value>,
        }
        /// Takes it out of the directory.
        RetireEntity = "symbia.cmd.identity.retire-entity.v1" { entity_id: String }
    }
}

/// Id of the entry of a user or an agent: the same each time.
#[must_use]
pub fn principal_entity_id(table: &str, id: &str) -> String {
    format!("ent_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("symbia:{table}:{id}").as_bytes()))
}

impl RegisterEntity {
    /// The entry of a user: their names are sealed, and what stands in clear is their id (identity.md §7.4).
    #[must_use]
    pub fn of_user(user_id: &str, email: Personal, name: Personal) -> Self {
        let entry = Self::of_principal("users", user_id, "user", user_id.to_lowercase());
        RegisterEntity { email: Some(email), person: Some(name), ..entry }
    }

    /// The entry of an agent: an assistant if its handle begins with `assistant:`, else a service.
    #[must_use]
    pub fn of_agent(
        row_id: &str,
        handle: &str,
        name: String,
        org_id: Option<String>,
        capabilities: Vec<String>,
    ) -> Self {
        let (kind, slug) = match handle.split_once(':') {
            Some(("assistant", slug)) => ("assistant", slug),
            Some((_, slug)) => ("service", slug),
            None => ("service", handle),
        };
        let entry = Self::of_principal("agents", row_id, kind, slug.replace(':', "-"));
        let metadata = [("agentId".to_owned(), Value::from(handle))].into_iter().collect();
        RegisterEntity { display_name: name, org_id, capabilities, metadata, ..entry }
    }

    fn of_principal(table: &str, id: &str, kind: &str, slug: String) -> Self {
        RegisterEntity {
            entity_id: principal_entity_id(table, id),
            entity_type: kind.to_owned(),
            slug,
            display_name: String::new(),
            instance_id: None,
            instance_index: None,
            org_id: None,
            network_id: None,
            capabilities: Vec::new(),
            tags: Vec::new(),
            source_table: Some(table.to_owned()),
            source_id: Some(id.to_owned()),
            metadata: Map::new(),
            email: None,
            person: None,
        }
    }
}

/// An entity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    entity_type: String,
    slug: String,
    instance_id: Option<String>,
    org: Option<OrgId>,
    /// Handle or id of the principal that it stands for.
    principal: Option<String>,
    status: String,
    node: Option<String>,
    lease_until: Option<OffsetDateTime>,
    aliases: Vec<(String, String)>,
    instances: Vec<EntityInstanceReported>,
    retired: bool,
}

/// Whether a text can be a slug of an entity: 1 to 80 of `a-z 0-9 - _`.
#[must_use]
pub fn is_entity_slug(text: &str) -> bool {
    (1..=80).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b))
}

fn is_alias(text: &str) -> bool {
    (1..=100).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_:@.".contains(&b))
}

/// A name within an organization, or outside of all.
fn claim(org: Option<&OrgId>, name: &str, holder: String, taken: &'static str) -> Claim {
    // A name's dots would divide a subject.
    Claim { tenant: org.cloned().unwrap_or_else(OrgId::global), name: name.replace('.', "=2E"), holder, taken }
}

impl Entity {
    fn exists(&self) -> Result<(), Rejection> {
        if self.slug.is_empty() || self.retired {
            return Err(Rejection::not_found("entity"));
        }
        Ok(())
    }

    fn family(&self) -> String {
        format!("family:{}:{}", self.entity_type, self.slug)
    }

    fn written_by(&self, by: &Actor, least: Role) -> Result<(), Rejection> {
        self.exists()?;
        writes(self.org.as_ref(), by, least)
    }

    fn itself(&self, by: &Actor) -> bool {
        by.is_platform() || by.super_admin || self.principal.as_deref() == Some(by.subject())
    }

    fn register(&self, c: RegisterEntity, by: &Actor) -> Result<Decision<EntityEvent>, Rejection> {
        if !self.slug.is_empty() {
            return Err(Rejection::new("CONFLICT", "this entity id is in use"));
        }
        let org: Option<OrgId> = c.org_id.as_deref().map(str::parse).transpose().map_err(|_| outside())?;
        writes(org.as_ref(), by, Role::Member)?;
        let derived = c.source_table.is_some() || c.source_id.is_some() || c.person.is_some() || c.email.is_some();
        if derived && !by.is_platform() {
            return Err(Rejection::forbidden("entries of principals are made by the identity service"));
        }
        if !ENTITY_TYPES.contains(&c.entity_type.as_str()) {
            return Err(Rejection::invalid(format!("type: one of {}", ENTITY_TYPES.join(", "))));
        }
        if !is_entity_slug(&c.slug) || c.instance_id.as_deref().is_some_and(|i| !is_entity_slug(i)) {
            return Err(Rejection::invalid("slug, instanceId: 1 to 80 of a-z, 0-9, '-' and '_'"));
        }
        if c.capabilities.len() > MOST || c.tags.len() > MOST || c.display_name.chars().count() > 200 {
            return Err(Rejection::invalid("displayName: at most 200 characters; capabilities, tags: at most 200"));
        }
        let instance = c.instance_id.as_deref().unwrap_or("=");
        let place = format!("entity:{}:{instance}", c.slug);
        let (id, family) = (c.entity_id.clone(), format!("family:{}:{}", c.entity_type, c.slug));
        let names = [("slug", c.slug.clone(), 100), ("qualified", format!("{}:{}", c.entity_type, c.slug), 90)];
        let mut decision = Decision::one(EntityRegistered {
            entity_id: c.entity_id,
            entity_type: c.entity_type,
            slug: c.slug,
            display_name: c.display_name,
            instance_id: c.instance_id,
            instance_index: c.instance_index.unwrap_or(1),
            org_id: c.org_id.clone(),
            network_id: c.network_id,
            capabilities: c.capabilities,
            tags: c.tags,
            source_table: c.source_table,
            source_id: c.source_id,
            metadata: c.metadata,
            email: c.email,
            person: c.person,
            by: by.id.clone(),
        })
        .claiming(claim(org.as_ref(), &place, id.clone(), "ENTITY_TAKEN"));
        for (alias_type, alias_value, priority) in names {
            let shared = claim(org.as_ref(), &format!("alias:{alias_value}"), family.clone(), "ALIAS_TAKEN");
            decision = decision
                .and(EntityAliasAdded {
                    alias_id: format!("{id}:{alias_type}"),
                    entity_id: id.clone(),
                    alias_type: alias_type.to_owned(),
                    alias_value,
                    org_id: c.org_id.clone(),
                    priority,
                })
                .claiming(shared);
        }
        Ok(decision)
    }

    fn add_alias(&self, c: AddEntityAlias, by: &Actor) -> Result<Decision<EntityEvent>, Rejection> {
        self.written_by(by, Role::Admin)?;
        if !ALIAS_TYPES.contains(&c.alias_type.as_str())
            || !is_alias(&c.alias_value)
            || c.alias_value.starts_with("ent_")
        {
            let rule =
                "alias: one of slug, qualified, legacy, federated; 1 to 100 of a-z, A-Z, 0-9 and '-_:@.', not ent_…";
            return Err(Rejection::invalid(rule));
        }
        if self.aliases.len() >= MOST
            || self.aliases.iter().any(|(id, value)| *id == c.alias_id || *value == c.alias_value)
        {
            return Err(Rejection::new("CONFLICT", "the entity has this alias, or too many"));
        }
        let name = format!("alias:{}", c.alias_value);
        let claim = claim(self.org.as_ref(), &name, self.family(), "ALIAS_TAKEN");
        Ok(Decision::one(EntityAliasAdded {
            alias_id: c.alias_id,
            entity_id: c.entity_id,
            alias_type: c.alias_type,
            alias_value: c.alias_value,
            org_id: self.org.as_ref().map(ToString::to_string),
            priority: c.priority.clamp(-1000, 1000),
        })
        .claiming(claim))
    }

    fn remove_alias(&self, c: RemoveEntityAlias, by: &Actor) -> Result<Decision<EntityEvent>, Rejection> {
        self.written_by(by, Role::Admin)?;
        let found = self.aliases.iter().find(|(id, _)| *id == c.alias_id);
        let (_, value) = found.ok_or_else(|| Rejection::not_found("alias"))?;
        let removed = EntityAliasRemoved { entity_id: c.entity_id, alias_id: c.alias_id, by: by.id.clone() };
        // The family's own names may be used by its other instances: they stay with it.
        if *value == self.slug || *value == format!("{}:{}", self.entity_type, self.slug) {
            return Ok(Decision::one(removed));
        }
        let claim = claim(self.org.as_ref(), &format!("alias:{value}"), self.family(), "ALIAS_TAKEN");
        Ok(Decision::one(removed).releasing(claim))
    }

    fn node_claim(node: &str, entity_id: &str) -> Claim {
        claim(None, &format!("node:{node}"), entity_id.to_owned(), "NODE_TAKEN")
    }

    fn bind(&self, c: BindEntity, by: &Actor, at: OffsetDateTime) -> Result<Decision<EntityEvent>, Rejection> {
        self.exists()?;
        binder(by)?;
        let lease = instant(&c.lease_until).filter(|end| *end > at && *end <= at + LEASE_MAX);
        if lease.is_none() || symbia_events::check_token(&c.node_id).is_err() || c.node_id.len() > 100 {
            return Err(Rejection::invalid("nodeId: an identifier; leaseUntil: a time at most 24 hours ahead"));
        }
        let previous = self.node.clone().filter(|node| *node != c.node_id);
        let released = previous.as_deref().map(|node| Self::node_claim(node, &c.entity_id));
        let taken = Self::node_claim(&c.node_id, &c.entity_id);
        let decision = Decision::one(EntityBound {
            entity_id: c.entity_id,
            node_id: c.node_id,
            lease_until: c.lease_until,
            previous_node_id: previous,
            by: by.id.clone(),
        })
        .claiming(taken);
        Ok(match released {
            Some(claim) => decision.releasing(claim),
            None => decision,
        })
    }

    fn unbind(&self, c: UnbindEntity, by: &Actor, at: OffsetDateTime) -> Result<Decision<EntityEvent>, Rejection> {
        self.exists()?;
        binder(by)?;
        let Some(node) = self.node.clone() else { return Ok(Decision::nothing()) };
        if c.reason == "lease_expired" && self.lease_until.is_some_and(|end| end > at) {
            return Err(Rejection::new("CONFLICT", "the lease of this node has not expired"));
        }
        let claim = Self::node_claim(&node, &c.entity_id);
        let unbound = EntityUnbound { entity_id: c.entity_id, node_id: node, reason: c.reason, by: by.id.clone() };
        Ok(Decision::one(unbound).releasing(claim))
    }

    fn report(&self, c: ReportEntityInstance, by: &Actor) -> Result<Decision<EntityEvent>, Rejection> {
        self.exists()?;
        if !self.itself(by) {
            return Err(Rejection::forbidden("an entity's instances are reported by itself or by a service"));
        }
        if !INSTANCE_STATUSES.contains(&c.status.as_str()) || !is_entity_slug(&c.instance_id) {
            return Err(Rejection::invalid("instanceId: a slug; status: one of available, busy, offline"));
        }
        let reported = EntityInstanceReported {
            entity_id: c.entity_id,
            instance_id: c.instance_id,
            instance_index: c.instance_index,
            node_id: c.node_id,
            status: c.status,
            load_score: c.load_score,
            metadata: c.metadata,
        };
        if self.instances.contains(&reported) {
            return Ok(Decision::nothing());
        }
        if self.instances.len() >= MOST && self.instances.iter().all(|i| i.instance_id != reported.instance_id) {
            return Err(Rejection::invalid("instanceId: an entity has at most 200 instances"));
        }
        Ok(Decision::one(reported))
    }

    fn retire(&self, c: RetireEntity, by: &Actor) -> Result<Decision<EntityEvent>, Rejection> {
        self.written_by(by, Role::Admin)?;
        let instance = self.instance_id.as_deref().unwrap_or("=");
        let id = c.entity_id.clone();
        let place = claim(self.org.as_ref(), &format!("entity:{}:{instance}", self.slug), id.clone(), "ENTITY_TAKEN");
        let mut decision = Decision::one(EntityRetired { entity_id: c.entity_id, by: by.id.clone() }).releasing(place);
        if let Some(node) = &self.node {
            decision = decision.releasing(Self::node_claim(node, &id));
        }
        Ok(decision)
    }
}

fn outside() -> Rejection {
    Rejection::new("ORG_ACCESS_DENIED", "the actor does not belong to this organization")
}

fn writes(org: Option<&OrgId>, by: &Actor, least: Role) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin {
        return Ok(());
    }
    match org.map(|org| by.role_in(org)) {
        None => {
            Err(Rejection::new("SUPERADMIN_REQUIRED", "an entry outside of organizations is an operator's to write"))
        }
        Some(None) => Err(outside()),
        Some(Some(role)) if role >= least => Ok(()),
        Some(Some(_)) => {
            Err(Rejection::new("INSUFFICIENT_ROLE", "the role in the organization is not enough for this"))
        }
    }
}

fn binder(by: &Actor) -> Result<(), Rejection> {
    if by.is_platform() || by.super_admin {
        return Ok(());
    }
    Err(Rejection::forbidden("entities are bound to nodes by the network service"))
}

impl Aggregate for Entity {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("entityId");
    type Command = EntityCommand;
    type Event = EntityEvent;

    fn apply(&mut self, event: &EntityEvent) {
        match event {
            EntityEvent::EntityRegistered(e) => {
                self.entity_type.clone_from(&e.entity_type);
                self.slug.clone_from(&e.slug);
                self.instance_id.clone_from(&e.instance_id);
                self.org = e.org_id.as_deref().and_then(|org| org.parse().ok());
                self.principal = match e.metadata.get("agentId") {
                    Some(Value::String(handle)) if e.source_table.is_some() => Some(handle.clone()),
                    _ => e.source_id.clone(),
                };
                "active".clone_into(&mut self.status);
            }
            EntityEvent::EntityAliasAdded(e) => self.aliases.push((e.alias_id.clone(), e.alias_value.clone())),
            EntityEvent::EntityAliasRemoved(e) => self.aliases.retain(|(id, _)| *id != e.alias_id),
            EntityEvent::EntityUpdated(_) => {}
            EntityEvent::EntityStatusChanged(e) => self.status.clone_from(&e.status),
            EntityEvent::EntityBound(e) => {
                (self.node, self.lease_until) = (Some(e.node_id.clone()), instant(&e.lease_until));
            }
            EntityEvent::EntityUnbound(_) => (self.node, self.lease_until) = (None, None),
            EntityEvent::EntityInstanceReported(e) => {
                self.instances.retain(|i| i.instance_id != e.instance_id);
                self.instances.push(e.clone());
            }
            EntityEvent::EntityRetired(_) => self.retired = true,
        }
    }

    fn decide(
        &self,
        command: EntityCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<EntityEvent>, Rejection> {
        match command {
            EntityCommand::RegisterEntity(c) => self.register(c, by),
            EntityCommand::UpdateEntity(c) => {
                self.written_by(by, Role::Member)?;
                if c.person.is_some() && !by.is_platform() {
                    return Err(Rejection::forbidden("a person's name comes from their account"));
                }
                let many = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.len() > MOST);
                if many(&c.capabilities) || many(&c.tags) {
                    return Err(Rejection::invalid("capabilities, tags: at most 200"));
                }
                Ok(Decision::one(EntityUpdated {
                    entity_id: c.entity_id,
                    display_name: c.display_name,
                    person: c.person,
                    capabilities: c.capabilities,
                    tags: c.tags,
                    metadata: c.metadata,
                    by: by.id.clone(),
                }))
            }
            EntityCommand::ChangeEntityStatus(c) => {
                self.written_by(by, Role::Member)?;
                if !ENTITY_STATUSES.contains(&c.status.as_str()) {
                    return Err(Rejection::invalid("status: one of active, inactive, suspended"));
                }
                if c.status == self.status {
                    return Ok(Decision::nothing());
                }
                let (previous_status, by) = (self.status.clone(), by.id.clone());
                Ok(Decision::one(EntityStatusChanged { entity_id: c.entity_id, status: c.status, previous_status, by }))
            }
            EntityCommand::AddEntityAlias(c) => self.add_alias(c, by),
            EntityCommand::RemoveEntityAlias(c) => self.remove_alias(c, by),
            EntityCommand::BindEntity(c) => self.bind(c, by, at),
            EntityCommand::UnbindEntity(c) => self.unbind(c, by, at),
            EntityCommand::ReportEntityInstance(c) => self.report(c, by),
            EntityCommand::RetireEntity(c) => self.retire(c, by),
        }
    }
}

#[cfg(test)]
mod tests;
