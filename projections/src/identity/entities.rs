//! The directory: how the events of its entries change the rows.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::PgConnection;
use symbia_events::{DomainEvent, Event, Personal, SubjectKey, identity::EntityEvent};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, serde::rfc3339};

use super::table::{Row, Table, count, deletes_organization};
use crate::{FoldError, FoldEvent, secrets::SecretStore};

/// A directory entry. A person's names are `None`-like (their id) when their key was destroyed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described in identity.md §3.10")]
pub struct Entity {
    pub id: String,
    pub org_id: String,
    pub entity_type: String,
    pub slug: String,
    pub display_name: String,
    pub instance_id: Option<String>,
    pub instance_index: i32,
    pub network_id: Option<String>,
    pub capabilities: Vec<String>,
    pub tags: Vec<String>,
    pub status: String,
    pub bound_node_id: Option<String>,
    #[serde(with = "rfc3339::option")]
    pub bound_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub lease_until: Option<OffsetDateTime>,
    pub source_table: Option<String>,
    pub source_id: Option<String>,
    pub metadata: Map<String, Value>,
    #[serde(with = "rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Entity {
    /// Its organization; `None` for one of the platform.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        Some(self.org_id.as_str()).filter(|org| *org != "global")
    }
}

/// A name of an entity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described in identity.md §3.10")]
pub struct EntityAlias {
    pub id: String,
    pub org_id: String,
    pub entity_id: String,
    pub alias_type: String,
    pub alias_value: String,
    pub priority: i32,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
}

/// How an instance of an entity is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described in identity.md §3.10")]
pub struct EntityInstance {
    pub id: String,
    pub org_id: String,
    pub entity_id: String,
    pub instance_id: String,
    pub instance_index: i32,
    pub node_id: Option<String>,
    pub status: String,
    pub load_score: i32,
    pub metadata: Map<String, Value>,
    #[serde(with = "rfc3339")]
    pub last_heartbeat: OffsetDateTime,
}

macro_rules! row {
    ($row:ident, $table:literal) => {
        impl Row for $row {
            const TABLE: &'static str = $table;
            fn id(&self) -> &str {
                &self.id
            }
        }
    };
}
row!(Entity, "entities");
row!(EntityAlias, "entity_aliases");
row!(EntityInstance, "entity_instances");

type Keys = HashMap<String, SubjectKey>;

struct Rows {
    entities: Table<Entity>,
    aliases: Table<EntityAlias>,
    instances: Table<EntityInstance>,
}

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let (mut changes, mut ids, mut orgs, mut kids) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for FoldEvent { event, .. } in events {
        let id = event.aggregateid.clone();
        if event.aggregatetype == EntityEvent::AGGREGATE {
            let change: EntityEvent = event.decode()?;
            kids.extend(personal(&change).map(|p| p.kid.clone()));
            ids.push(id);
            changes.push((event, Some(change)));
        } else if deletes_organization(event) {
            orgs.push(id);
            changes.push((event, None));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let keys = secrets.subject_keys(&kids).await?;
    let mut rows = Rows {
        entities: Table::load(conn, &[("id", ids.clone()), ("org_id", orgs.clone())]).await?,
        aliases: Table::load(conn, &[("entity_id", ids.clone()), ("org_id", orgs.clone())]).await?,
        instances: Table::load(conn, &[("entity_id", ids), ("org_id", orgs)]).await?,
    };
    let mut counted = None;
    for (event, change) in changes {
        let by = match change {
            Some(change) => rows.apply(event, change, &keys)?,
            None => {
                let org = &event.aggregateid;
                rows.aliases.remove(|row| row.org_id == *org);
                rows.instances.remove(|row| row.org_id == *org);
                -rows.entities.remove(|row| row.org_id == *org)
            }
        };
        if by != 0 {
            counted = Some(counted.unwrap_or(0) + by);
        }
    }
    rows.entities.save(conn).await?;
    rows.aliases.save(conn).await?;
    rows.instances.save(conn).await?;
    if let Some(by) = counted {
        count(conn, "entities", by).await?;
    }
    Ok(())
}

fn personal(change: &EntityEvent) -> impl Iterator<Item = &Personal> {
    let (person, email) = match change {
        EntityEvent::EntityRegistered(e) => (e.person.as_ref(), e.email.as_ref()),
        EntityEvent::EntityUpdated(e) => (e.person.as_ref(), None),
        _ => (None, None),
    };
    person.into_iter().chain(email)
}

/// What a person is found by: the local part of the address, of `a-z 0-9 -`.
fn slug_of(address: &str) -> String {
    let local = address.split('@').next().unwrap_or_default().to_lowercase();
    local.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

impl Rows {
    /// Gives the change of the number of entities.
    fn apply(&mut self, event: &Event, change: EntityEvent, keys: &Keys) -> Result<i64, FoldError> {
        let open = |sealed: Option<Personal>| sealed.and_then(|sealed| keys.get(&sealed.kid)?.open(&sealed).ok());
        let (id, org_id) = (event.aggregateid.clone(), event.orgid.to_string());
        let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        if let EntityEvent::EntityRegistered(e) = change {
            if e.org_id.as_deref().unwrap_or("global") != org_id {
                return Err(FoldError::Event(format!("an entity of {org_id} that names another organization")));
            }
            let (email, mut metadata) = (open(e.email), e.metadata);
            let slug = email.as_deref().map_or(e.slug, slug_of);
            metadata.extend(email.map(|email| ("email".to_owned(), Value::from(email))));
            let added = self.entities.add(Entity {
                id,
                org_id,
                entity_type: e.entity_type,
                slug,
                display_name: open(e.person).unwrap_or(e.display_name),
                instance_id: e.instance_id,
                instance_index: number(e.instance_index),
                network_id: e.network_id,
                capabilities: e.capabilities,
                tags: e.tags,
                status: "active".to_owned(),
                bound_node_id: None,
                bound_at: None,
                lease_until: None,
                source_table: e.source_table,
                source_id: e.source_id,
                metadata,
                last_seen_at: None,
                created_at: event.time,
                updated_at: event.time,
            });
            return Ok(i64::from(added));
        }
        let Some(entity) = self.entities.get_mut(&id) else { return Ok(0) };
        entity.updated_at = event.time;
        match change {
            EntityEvent::EntityRegistered(_) => {}
            EntityEvent::EntityAliasAdded(e) => {
                // A person is found by what is sealed, not by their id.
                let alias_value = match e.alias_type.as_str() {
                    "slug" if entity.source_table.as_deref() == Some("users") => entity.slug.clone(),
                    "qualified" if entity.source_table.as_deref() == Some("users") => format!("user:{}", entity.slug),
                    _ => e.alias_value,
                };
                self.aliases.add(EntityAlias {
                    id: e.alias_id,
                    org_id,
                    entity_id: id,
                    alias_type: e.alias_type,
                    alias_value,
                    priority: e.priority,
                    created_at: event.time,
                });
            }
            EntityEvent::EntityAliasRemoved(e) => {
                _ = self.aliases.remove(|row| row.id == e.alias_id && row.entity_id == id)
            }
            EntityEvent::EntityUpdated(e) => {
                let name = open(e.person).or(e.display_name);
                entity.display_name = name.unwrap_or_else(|| std::mem::take(&mut entity.display_name));
                entity.capabilities = e.capabilities.unwrap_or_else(|| std::mem::take(&mut entity.capabilities));
                entity.tags = e.tags.unwrap_or_else(|| std::mem::take(&mut entity.tags));
                entity.metadata = e.metadata.unwrap_or_else(|| std::mem::take(&mut entity.metadata));
            }
            EntityEvent::EntityStatusChanged(e) => entity.status = e.status,
            EntityEvent::EntityBound(e) => {
                entity.bound_node_id = Some(e.node_id);
                entity.lease_until = OffsetDateTime::parse(&e.lease_until, &Rfc3339).ok();
                (entity.bound_at, entity.last_seen_at) = (Some(event.time), Some(event.time));
            }
            EntityEvent::EntityUnbound(_) => {
                (entity.bound_node_id, entity.bound_at, entity.lease_until) = (None, None, None);
            }
            EntityEvent::EntityInstanceReported(e) => {
                let row_id = format!("{id}:{}", e.instance_id);
                self.instances.remove(|row| row.id == row_id);
                self.instances.add(EntityInstance {
                    id: row_id,
                    org_id,
                    entity_id: id,
                    instance_id: e.instance_id,
                    instance_index: number(e.instance_index),
                    node_id: e.node_id,
                    status: e.status,
                    load_score: number(e.load_score),
                    metadata: e.metadata,
                    last_heartbeat: event.time,
                });
            }
            EntityEvent::EntityRetired(_) => {
                self.aliases.remove(|row| row.entity_id == id);
                self.instances.remove(|row| row.entity_id == id);
                return Ok(-self.entities.remove(|row| row.id == id));
            }
        }
        Ok(0)
    }
}
