//! What happened, from the log: for operators everywhere, for admins in their organization (identity.md §6.9, 6.14, 9).

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::AppendHeaders,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use symbia_projections::{Scope, identity as model};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;

use super::{
    Identity,
    access::Wants,
    paging::{Listed, MOST},
    shapes::iso,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(everywhere)).routes(routes!(within))
}

/// One event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AuditLog {
    id: String,
    /// Who acted, when it was a user.
    user_id: Option<String>,
    org_id: Option<String>,
    /// E.g. `org.created`.
    action: String,
    /// E.g. `organization`.
    resource: String,
    resource_id: String,
    /// What is neither personal nor secret of it.
    #[schema(value_type = Object)]
    metadata_json: Value,
    created_at: String,
    actor_id: String,
    /// `user`, `agent`, `service` or `system`.
    actor_type: String,
    on_behalf_of: Option<String>,
    auth_method: String,
    /// CloudEvents type.
    event_type: String,
    command_id: String,
    /// Groups what one request set off.
    correlation_id: String,
    /// Hash of the event.
    hash: String,
    /// Hash of the event before it, of the same thing.
    prev_hash: String,
}

impl From<model::AuditEntry> for AuditLog {
    fn from(e: model::AuditEntry) -> Self {
        AuditLog {
            id: e.id.to_string(),
            user_id: Some(e.actor_id.clone()).filter(|_| e.actor_type == "user"),
            org_id: Some(e.org_id).filter(|org| org != "global"),
            action: e.action,
            resource: e.resource,
            resource_id: e.aggregate_id,
            metadata_json: e.details,
            created_at: iso(e.at),
            actor_id: e.actor_id,
            actor_type: e.actor_type,
            on_behalf_of: e.on_behalf_of,
            auth_method: e.auth_method,
            event_type: e.event_type,
            command_id: e.command_id.to_string(),
            correlation_id: e.correlation_id,
            hash: e.hash,
            prev_hash: e.prev_hash,
        }
    }
}

/// Which events to list.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct Filter {
    /// Only those of this organization.
    #[serde(default)]
    org_id: Option<String>,
    /// Only what this principal did.
    #[serde(default)]
    actor_id: Option<String>,
    /// Only this action, or this CloudEvents type.
    #[serde(default)]
    action: Option<String>,
    /// Not before, RFC 3339.
    #[serde(default)]
    from: Option<String>,
    /// Before, RFC 3339.
    #[serde(default)]
    to: Option<String>,
    /// Where the page before ended.
    #[serde(default)]
    cursor: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<i64>,
}

fn instant(field: &str, text: Option<&str>) -> ApiResult<Option<OffsetDateTime>> {
    let parse = |text| OffsetDateTime::parse(text, &Rfc3339);
    let invalid = |_| ApiError::invalid(field, "format", "must be an instant in RFC 3339");
    text.map(parse).transpose().map_err(invalid)
}

/// Sequence and version of the last entry of the page before.
fn position(cursor: &str) -> ApiResult<(i64, i64)> {
    let parts = cursor.split_once('_').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    parts.ok_or_else(|| ApiError::invalid("cursor", "format", "must be the X-Next-Cursor of another page"))
}

impl Identity {
    async fn audit(&self, filter: Filter, reading: &Scope) -> ApiResult<Listed<AuditLog>> {
        let limit = filter.limit.unwrap_or(MOST).clamp(1, MOST);
        let filter = model::AuditFilter {
            from: instant("from", filter.from.as_deref())?,
            to: instant("to", filter.to.as_deref())?,
            before: filter.cursor.as_deref().map(position).transpose()?,
            org_id: filter.org_id,
            actor_id: filter.actor_id,
            action: filter.action,
            limit,
        };
        let mut tx = self.platform.read(reading).await?;
        let found = model::audit_trail(&mut tx, &filter).await?;
        let full = i64::try_from(found.len()).is_ok_and(|count| count >= limit);
        let next = found.last().filter(|_| full).map(|e| format!("{}_{}", e.sequence, e.aggregate_version));
        let header = next.and_then(|next| HeaderValue::try_from(next).ok());
        let header = header.map(|value| (HeaderName::from_static("x-next-cursor"), value));
        Ok((AppendHeaders(header), Json(found.into_iter().map(AuditLog::from).collect())))
    }
}

/// List what happened (super admins)
#[utoipa::path(get, path = "/admin/audit-logs", tag = "Administration", params(Filter),
    responses((status = 200, description = "The newest first", body = Vec<AuditLog>)))]
async fn everywhere(
    State(identity): State<Identity>,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Listed<AuditLog>> {
    caller.require_super_admin()?;
    identity.audit(filter, &Scope::platform()).await
}

/// List what happened in an organization (its admins)
#[utoipa::path(get, path = "/orgs/{id}/audit-logs", tag = "Organizations",
    params(("id" = String, Path, description = "Id of the organization"), Filter),
    responses((status = 200, description = "The newest first", body = Vec<AuditLog>)))]
async fn within(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Query(filter): Query<Filter>,
) -> ApiResult<Listed<AuditLog>> {
    let (_, reading) = identity.enter(&caller, &scope, &id, Wants::Administer).await?;
    identity.audit(Filter { org_id: Some(id), ..filter }, &reading).await
}
