//! The audit trail: a row per event, appended in order, and paged backwards.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use symbia_events::{DomainEvent, Event, identity::AccessEvent};
use time::OffsetDateTime;
use uuid::Uuid;

use super::audit_words;
use crate::{FoldError, FoldEvent, commit::sql};

/// Members of a payload that the audit trail shows: none of them is personal or secret. All others are left out.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    previous_role: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    principal_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    membership_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    reason: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    slug: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    previous_slug: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    operation: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    plan_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    project_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    app_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    service_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    scope_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    scope_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    feature_key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    status: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    code: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    enabled: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_super_admin: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    generation: Option<u32>,
}

fn details(data: &str) -> String {
    let details = serde_json::from_str::<Details<'_>>(data).and_then(|details| serde_json::to_string(&details));
    // JSONB holds every character but this one.
    details.map_or_else(|_| "{}".to_owned(), |text| text.replace("\\u0000", "\\ufffd"))
}

// Whose trail it stands in. What was tried in an organization is for those who guard it, whoever tried.
fn tenant(event: &Event) -> String {
    let concerned = match event.aggregatetype.as_str() {
        AccessEvent::AGGREGATE => match event.decode::<AccessEvent>() {
            Ok(AccessEvent::AccessDenied(e)) => e.org_id,
            Ok(AccessEvent::CrossTenantAccessed(e)) => Some(e.org_id),
            Err(_) => None,
        },
        _ => None,
    };
    concerned.unwrap_or_else(|| event.orgid.as_str().to_owned())
}

pub(super) async fn append(conn: &mut PgConnection, events: &[FoldEvent]) -> Result<(), FoldError> {
    macro_rules! column {
        ($value:expr) => {
            events.iter().map($value).collect::<Vec<_>>()
        };
    }
    let (actions, resources): (Vec<String>, Vec<String>) = events.iter().map(|e| audit_words::of(&e.event)).unzip();
    sqlx::query(
        "INSERT INTO audit_trail (id, org_id, sequence, at, type, aggregate_type, aggregate_id, aggregate_version, actor_id,
                                  actor_type, on_behalf_of, auth_method, command_id, correlation_id, causation_id, details,
                                  hash, prev_hash, action, resource)
         SELECT id, org_id, sequence, at, type, aggregate_type, aggregate_id, aggregate_version, actor_id, actor_type,
                on_behalf_of, auth_method, command_id, correlation_id, causation_id, details::jsonb, hash, prev_hash,
                action, resource
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                     $8::bigint[], $9::text[], $10::text[], $11::text[], $12::text[], $13::uuid[], $14::text[], $15::text[],
                     $16::text[], $17::text[], $18::text[], $19::text[], $20::text[])
              AS e (id, org_id, sequence, at, type, aggregate_type, aggregate_id, aggregate_version, actor_id, actor_type,
                    on_behalf_of, auth_method, command_id, correlation_id, causation_id, details, hash, prev_hash,
                    action, resource)",
    )
    .bind(column!(|e| e.event.id))
    .bind(column!(|e| tenant(&e.event)))
    .bind(column!(|e| sql(e.position.sequence)))
    .bind(column!(|e| e.event.time))
    .bind(column!(|e| e.event.event_type.as_str()))
    .bind(column!(|e| e.event.aggregatetype.as_str()))
    .bind(column!(|e| e.event.aggregateid.as_str()))
    .bind(column!(|e| i64::from(e.event.aggregateversion)))
    .bind(column!(|e| e.event.actorid.as_str()))
    .bind(column!(|e| format!("{:?}", e.event.actortype).to_lowercase()))
    .bind(column!(|e| e.event.onbehalfof.as_deref()))
    .bind(column!(|e| format!("{:?}", e.event.authmethod).to_lowercase()))
    .bind(column!(|e| e.event.commandid.0))
    .bind(column!(|e| e.event.correlationid.as_str()))
    .bind(column!(|e| e.event.causationid.as_str()))
    .bind(column!(|e| details(e.event.data.get())))
    .bind(column!(|e| e.hash.as_str()))
    .bind(column!(|e| e.event.prevhash.as_str()))
    .bind(actions)
    .bind(resources)
    .execute(conn)
    .await?;
    Ok(())
}

/// One event in the audit trail.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct AuditEntry {
    /// Event id.
    pub id: Uuid,
    /// Tenant, or `global`.
    pub org_id: String,
    /// Sequence of its message in the identity stream.
    pub sequence: i64,
    /// When it was decided.
    pub at: OffsetDateTime,
    /// CloudEvents type.
    #[sqlx(rename = "type")]
    pub event_type: String,
    /// Kind of aggregate.
    pub aggregate_type: String,
    /// Its id.
    pub aggregate_id: String,
    /// Its version after the event.
    pub aggregate_version: i64,
    /// Who acted.
    pub actor_id: String,
    /// What kind of principal.
    pub actor_type: String,
    /// Whom for, on impersonation.
    pub on_behalf_of: Option<String>,
    /// How the actor authenticated.
    pub auth_method: String,
    /// The command decided.
    pub command_id: Uuid,
    /// Groups what one request set off.
    pub correlation_id: String,
    /// What it follows from.
    pub causation_id: String,
    /// The payload's members that are neither personal nor secret.
    pub details: serde_json::Value,
    /// Hash of the event.
    pub hash: String,
    /// Hash of the aggregate's event before.
    pub prev_hash: String,
    /// What it is called, e.g. `org.created`.
    pub action: String,
    /// What it happened to, e.g. `organization`.
    pub resource: String,
}

/// What to show of the audit trail.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only this tenant.
    pub org_id: Option<String>,
    /// Only this actor.
    pub actor_id: Option<String>,
    /// Only this action, or this type of event.
    pub action: Option<String>,
    /// Not before.
    pub from: Option<OffsetDateTime>,
    /// Before.
    pub to: Option<OffsetDateTime>,
    /// Only what stands before this sequence and version: the page after the one that ended there.
    pub before: Option<(i64, i64)>,
    /// Most entries.
    pub limit: i64,
}

/// The newest entries first.
pub async fn audit_trail(conn: &mut PgConnection, filter: &AuditFilter) -> Result<Vec<AuditEntry>, sqlx::Error> {
    sqlx::query_as(
        "SELECT * FROM identity.audit_trail
         WHERE ($1::text IS NULL OR org_id = $1) AND ($2::text IS NULL OR actor_id = $2)
           AND ($3::text IS NULL OR action = $3 OR type = $3)
           AND ($4::timestamptz IS NULL OR at >= $4) AND ($5::timestamptz IS NULL OR at < $5)
           AND ($6::bigint IS NULL OR (sequence, aggregate_version) < ($6, $7::bigint))
         ORDER BY sequence DESC, aggregate_version DESC LIMIT $8",
    )
    .bind(&filter.org_id)
    .bind(&filter.actor_id)
    .bind(&filter.action)
    .bind(filter.from)
    .bind(filter.to)
    .bind(filter.before.map(|(sequence, _)| sequence))
    .bind(filter.before.map(|(_, version)| version))
    .bind(filter.limit)
    .fetch_all(conn)
    .await
}
