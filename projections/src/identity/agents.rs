//! Agents: how their events change the rows, and reading them.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sqlx::{PgConnection, types::Json};
use symbia_events::{DomainEvent, Event, identity::AgentEvent};
use time::{OffsetDateTime, serde::rfc3339};

use super::fold::instant;
use super::table::{Row, Table, count, deletes_organization};
use crate::{FoldError, FoldEvent};

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Agent {
    /// Id of the row, `sub` of its tokens.
    pub id: String,
    /// Its organization, or `global`.
    pub org_id: String,
    /// The handle.
    pub agent_id: String,
    /// Display name.
    pub name: String,
    /// What it may do.
    pub capabilities: Vec<String>,
    /// What it asked for and was not granted.
    pub requested_capabilities: Vec<String>,
    /// Free data.
    pub metadata: Map<String, Value>,
    /// Whether it is let in.
    pub is_active: bool,
    /// Who let it in.
    pub enrolled_by: String,
    /// Where the secret store keeps its credential's hash.
    pub credential_ref: String,
    /// The credential before, while it is accepted.
    pub previous_ref: Option<String>,
    /// Until when.
    #[serde(with = "rfc3339::option")]
    pub previous_until: Option<OffsetDateTime>,
    /// Sessions begun before are not accepted.
    #[serde(with = "rfc3339::option")]
    pub sessions_after: Option<OffsetDateTime>,
    /// When it was last seen, to the minute.
    #[serde(with = "rfc3339::option")]
    pub last_seen_at: Option<OffsetDateTime>,
    /// When it was let in.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it last changed.
    #[serde(with = "rfc3339")]
    pub updated_at: OffsetDateTime,
}

impl Agent {
    /// Its organization; `None` for one of the platform.
    #[must_use]
    pub fn organization(&self) -> Option<&str> {
        Some(self.org_id.as_str()).filter(|org| *org != "global")
    }
}

impl Row for Agent {
    const TABLE: &'static str = "agents";
    fn id(&self) -> &str {
        &self.id
    }
}

pub(super) async fn fold(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    let (mut changes, mut ids, mut orgs) = (Vec::new(), Vec::new(), Vec::new());
    for FoldEvent { event, .. } in events {
        let id = event.aggregateid.clone();
        if event.aggregatetype == AgentEvent::AGGREGATE {
            ids.push(id);
            changes.push((event, Some(event.decode()?)));
        } else if deletes_organization(event) {
            orgs.push(id);
            changes.push((event, None));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let mut agents = Table::<Agent>::load(conn, &[("id", ids), ("org_id", orgs)]).await?;
    let mut counted = None;
    for (event, change) in changes {
        let by = match change {
            Some(change) => apply(&mut agents, event, change)?,
            // Its organization is gone.
            None => -agents.remove(|agent| agent.org_id == event.aggregateid),
        };
        if by != 0 {
            counted = Some(counted.unwrap_or(0) + by);
        }
    }
    agents.save(conn).await?;
    if let Some(by) = counted {
        count(conn, "agents", by).await?;
    }
    Ok(())
}

/// Gives the change of the number of agents.
fn apply(agents: &mut Table<Agent>, event: &Event, change: AgentEvent) -> Result<i64, FoldError> {
    if let AgentEvent::AgentRegistered(e) = change {
        let org_id = e.org_id.unwrap_or_else(|| "global".to_owned());
        if org_id != event.orgid.as_str() {
            return Err(FoldError::Event(format!("an agent of {} that names organization {org_id}", event.orgid)));
        }
        let added = agents.add(Agent {
            id: event.aggregateid.clone(),
            org_id,
            agent_id: e.agent_id,
            name: e.name,
            capabilities: e.capabilities,
            requested_capabilities: e.requested_capabilities,
            metadata: e.metadata,
            is_active: true,
            enrolled_by: e.enrolled_by,
            credential_ref: e.credential_ref,
            previous_ref: None,
            previous_until: None,
            sessions_after: None,
            last_seen_at: None,
            created_at: event.time,
            updated_at: event.time,
        });
        return Ok(i64::from(added));
    }
    let Some(agent) = agents.get_mut(&event.aggregateid) else { return Ok(0) };
    if !matches!(change, AgentEvent::AgentPresenceObserved(_)) {
        agent.updated_at = event.time;
    }
    match change {
        AgentEvent::AgentRegistered(_) => {}
        AgentEvent::AgentCredentialRotated(e) => {
            let before = std::mem::replace(&mut agent.credential_ref, e.credential_ref);
            agent.previous_until = e.grace_until.as_deref().and_then(instant);
            agent.previous_ref = agent.previous_until.map(|_| before);
        }
        AgentEvent::AgentSessionsRevoked(e) => agent.sessions_after = instant(&e.before),
        AgentEvent::AgentCapabilitiesApproved(e) => {
            agent.requested_capabilities.retain(|c| !e.capabilities.contains(c));
            agent.capabilities = e.capabilities;
        }
        AgentEvent::AgentActivated(_) => agent.is_active = true,
        AgentEvent::AgentDeactivated(_) => agent.is_active = false,
        AgentEvent::AgentUpdated(e) => {
            agent.name = e.name.unwrap_or_else(|| std::mem::take(&mut agent.name));
            agent.metadata = e.metadata.unwrap_or_else(|| std::mem::take(&mut agent.metadata));
        }
        AgentEvent::AgentPresenceObserved(e) => agent.last_seen_at = instant(&e.seen_at),
        AgentEvent::AgentDeleted(_) => return Ok(-agents.remove(|agent| agent.id == event.aggregateid)),
    }
    Ok(0)
}

/// An agent by the id of its row.
pub async fn agent(conn: &mut PgConnection, id: &str) -> Result<Option<Agent>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(a) FROM identity.agents a WHERE id = $1", id).await
}

/// An agent by its handle.
pub async fn agent_by_handle(conn: &mut PgConnection, handle: &str) -> Result<Option<Agent>, sqlx::Error> {
    one(conn, "SELECT to_jsonb(a) FROM identity.agents a WHERE agent_id = $1", handle).await
}

async fn one(conn: &mut PgConnection, select: &'static str, key: &str) -> Result<Option<Agent>, sqlx::Error> {
    let found: Option<Json<Agent>> = sqlx::query_scalar(select).bind(key).fetch_optional(conn).await?;
    Ok(found.map(|Json(agent)| agent))
}

/// Agents that the scope may see, of one organization or of all, the oldest first, behind the given one.
pub async fn agents(
    conn: &mut PgConnection,
    org_id: Option<&str>,
    after: Option<(OffsetDateTime, &str)>,
    limit: i64,
) -> Result<Vec<Agent>, sqlx::Error> {
    let (at, id) = after.unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
    let found: Vec<Json<Agent>> = sqlx::query_scalar(
        "SELECT to_jsonb(a) FROM identity.agents a
         WHERE ($1::text IS NULL OR org_id = $1) AND (created_at, id) > ($2, $3) ORDER BY created_at, id LIMIT $4",
    )
    .bind(org_id)
    .bind(at)
    .bind(id)
    .bind(limit)
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().map(|Json(agent)| agent).collect())
}
