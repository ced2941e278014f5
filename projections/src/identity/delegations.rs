//! Delegations and approvals: how their events change the rows, and reading them.

use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, types::Json};
use symbia_events::{
    DomainEvent, Event,
    identity::{ApprovalEvent, DelegationEvent},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339, serde::rfc3339};

use super::table::{Row, Table, deletes_user};
use crate::{FoldError, FoldEvent, secrets::SecretStore};

/// What an agent may do in a person's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// Id.
    pub id: String,
    /// Always `global`.
    pub org_id: String,
    /// The person.
    pub subject_id: String,
    /// The agent.
    pub agent_id: String,
    /// A ceiling: capabilities and roles.
    pub scopes: Vec<String>,
    /// Resources that tokens may be for beside the platform.
    pub audiences: Vec<String>,
    /// Agents that it may be passed on to.
    pub may_act: Vec<String>,
    /// Longest chain of agents.
    pub max_depth: u32,
    /// What weighs more needs an approval.
    pub limit: String,
    /// When it was granted.
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it ends by itself.
    #[serde(with = "rfc3339")]
    pub expires_at: OffsetDateTime,
    /// When it was ended.
    #[serde(with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// By whom.
    pub revoked_by: Option<String>,
    /// Why.
    pub revoked_reason: Option<String>,
}

/// A request for approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Id.
    pub id: String,
    /// Always `global`.
    pub org_id: String,
    /// The delegation of the agent that asks.
    pub delegation_id: String,
    /// The person asked.
    pub subject_id: String,
    /// The agent.
    pub agent_id: String,
    /// The command.
    pub action: String,
    /// The aggregate.
    pub target: String,
    /// Why, in the agent's words; `None` when the person's key was destroyed.
    pub reason: Option<String>,
    /// `requested`, `approved`, `denied`, `expired` or `used`.
    pub status: String,
    /// When it was asked for.
    #[serde(with = "rfc3339")]
    pub requested_at: OffsetDateTime,
    /// Until when it can be answered, or used once it is approved.
    #[serde(with = "rfc3339")]
    pub expires_at: OffsetDateTime,
    /// When it was answered.
    #[serde(with = "rfc3339::option")]
    pub decided_at: Option<OffsetDateTime>,
}

impl Approval {
    /// How it stands at a time: time passes also while nobody records it.
    #[must_use]
    pub fn status_at(&self, at: OffsetDateTime) -> &str {
        let open = matches!(self.status.as_str(), "requested" | "approved");
        if open && self.expires_at <= at { "expired" } else { &self.status }
    }
}

impl Row for Delegation {
    const TABLE: &'static str = "delegations";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for Approval {
    const TABLE: &'static str = "approvals";
    fn id(&self) -> &str {
        &self.id
    }
}

fn instant(text: &str, otherwise: OffsetDateTime) -> OffsetDateTime {
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or(otherwise)
}

fn own(event: &Event, id: &str) -> Result<(), FoldError> {
    if id == event.aggregateid {
        return Ok(());
    }
    Err(FoldError::Event(format!("a {} of {} that names {id}", event.event_type, event.subject)))
}

pub(super) async fn fold(
    secrets: &SecretStore,
    conn: &mut PgConnection,
    events: &[FoldEvent],
) -> Result<(), FoldError> {
    let of = |kind: &'static str| events.iter().map(|e| &e.event).filter(move |e| e.aggregatetype == kind);
    let ids = |kind: &'static str| of(kind).map(|e| e.aggregateid.clone()).collect::<Vec<_>>();
    let gone: Vec<String> =
        events.iter().filter(|e| deletes_user(&e.event)).map(|e| e.event.aggregateid.clone()).collect();
    let (delegated, asked) = (ids(DelegationEvent::AGGREGATE), ids(ApprovalEvent::AGGREGATE));
    if delegated.is_empty() && asked.is_empty() && gone.is_empty() {
        return Ok(());
    }
    let mut delegations = Table::<Delegation>::load(conn, &[("id", delegated), ("subject_id", gone.clone())]).await?;
    let mut approvals = Table::<Approval>::load(conn, &[("id", asked), ("subject_id", gone)]).await?;
    for FoldEvent { event, .. } in events {
        if deletes_user(event) {
            let user = &event.aggregateid;
            for id in delegations.ids(|d| d.subject_id == *user && d.revoked_at.is_none()) {
                if let Some(delegation) = delegations.get_mut(&id) {
                    delegation.revoked_at = Some(event.time);
                    delegation.revoked_reason = Some("account-deleted".to_owned());
                }
            }
            approvals.remove(|approval| approval.subject_id == *user);
        } else if event.aggregatetype == DelegationEvent::AGGREGATE {
            delegation(&mut delegations, event)?;
        } else if event.aggregatetype == ApprovalEvent::AGGREGATE {
            approval(secrets, &mut approvals, event).await?;
        }
    }
    delegations.save(conn).await?;
    approvals.save(conn).await
}

fn delegation(rows: &mut Table<Delegation>, event: &Event) -> Result<(), FoldError> {
    match event.decode()? {
        DelegationEvent::DelegationGranted(e) => {
            own(event, &e.delegation_id)?;
            rows.add(Delegation {
                id: e.delegation_id,
                org_id: event.orgid.to_string(),
                subject_id: e.subject_id,
                agent_id: e.agent_id,
                scopes: e.scopes,
                audiences: e.audiences,
                may_act: e.may_act,
                max_depth: e.max_depth,
                limit: e.limit,
                created_at: event.time,
                expires_at: instant(&e.expires_at, event.time),
                revoked_at: None,
                revoked_by: None,
                revoked_reason: None,
            });
        }
        DelegationEvent::DelegationRevoked(e) => {
            own(event, &e.delegation_id)?;
            if let Some(row) = rows.get_mut(&e.delegation_id).filter(|row| row.revoked_at.is_none()) {
                row.revoked_at = Some(event.time);
                (row.revoked_by, row.revoked_reason) = (Some(e.by), Some(e.reason));
            }
        }
    }
    Ok(())
}

async fn approval(secrets: &SecretStore, rows: &mut Table<Approval>, event: &Event) -> Result<(), FoldError> {
    let change = event.decode()?;
    let (id, status) = match &change {
        ApprovalEvent::ApprovalRequested(e) => (&e.approval_id, "requested"),
        ApprovalEvent::ApprovalApproved(e) => (&e.approval_id, "approved"),
        ApprovalEvent::ApprovalDenied(e) => (&e.approval_id, "denied"),
        ApprovalEvent::ApprovalExpired(e) => (&e.approval_id, "expired"),
        ApprovalEvent::ApprovalUsed(e) => (&e.approval_id, "used"),
    };
    own(event, id)?;
    if let Some(row) = rows.get_mut(id) {
        row.status = status.to_owned();
        row.decided_at = Some(event.time);
        if let ApprovalEvent::ApprovalApproved(e) = &change {
            row.expires_at = instant(&e.usable_until, event.time);
        }
    }
    if let ApprovalEvent::ApprovalRequested(e) = change {
        let reason = match &e.reason {
            Some(sealed) => {
                let keys = secrets.subject_keys(std::slice::from_ref(&sealed.kid)).await?;
                keys.get(&sealed.kid).and_then(|key| key.open(sealed).ok())
            }
            None => None,
        };
        rows.add(Approval {
            id: e.approval_id,
            org_id: event.orgid.to_string(),
            delegation_id: e.delegation_id,
            subject_id: e.subject_id,
            agent_id: e.agent_id,
            action: e.action,
            target: e.target,
            reason,
            status: status.to_owned(),
            requested_at: event.time,
            expires_at: instant(&e.expires_at, event.time),
            decided_at: None,
        });
    }
    Ok(())
}

/// A delegation by id, also when it has ended.
pub async fn delegation_by_id(conn: &mut PgConnection, id: &str) -> Result<Option<Delegation>, sqlx::Error> {
    let row: Option<Json<Delegation>> =
        sqlx::query_scalar("SELECT to_jsonb(d) FROM identity.delegations d WHERE id = $1")
            .bind(id)
            .fetch_optional(conn)
            .await?;
    Ok(row.map(|Json(row)| row))
}

/// The delegations that a principal granted or was granted, the newest first.
pub async fn delegations_of(conn: &mut PgConnection, principal: &str) -> Result<Vec<Delegation>, sqlx::Error> {
    let rows: Vec<Json<Delegation>> = sqlx::query_scalar(
        "SELECT to_jsonb(d) FROM identity.delegations d WHERE subject_id = $1 OR agent_id = $1
         ORDER BY created_at DESC LIMIT 200",
    )
    .bind(principal)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|Json(row)| row).collect())
}

/// A request for approval by id.
pub async fn approval_by_id(conn: &mut PgConnection, id: &str) -> Result<Option<Approval>, sqlx::Error> {
    let row: Option<Json<Approval>> = sqlx::query_scalar("SELECT to_jsonb(a) FROM identity.approvals a WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await?;
    Ok(row.map(|Json(row)| row))
}

/// The requests that a principal made or is asked, the newest first.
pub async fn approvals_of(conn: &mut PgConnection, principal: &str) -> Result<Vec<Approval>, sqlx::Error> {
    let rows: Vec<Json<Approval>> = sqlx::query_scalar(
        "SELECT to_jsonb(a) FROM identity.approvals a WHERE subject_id = $1 OR agent_id = $1
         ORDER BY requested_at DESC LIMIT 200",
    )
    .bind(principal)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|Json(row)| row).collect())
}
