//! Calls that were made of registered integrations, and what became of them. What was sent and answered is not shown.

use axum::extract::State;
use serde::Serialize;
use symbia_projections::integrations as model;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    http::{ApiResult, Caller, Json, Query, RequestScope, routes},
    integrations::{
        Integrations,
        usage::{Asker, Since},
    },
    iso,
};

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list))
}

/// A call.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    request_id: String,
    user_id: String,
    integration: String,
    operation: String,
    /// `requested`, `running`, `completed` or `failed`.
    status: String,
    success: bool,
    /// HTTP status of what was called.
    status_code: Option<i32>,
    error_category: Option<String>,
    error_code: Option<String>,
    /// Where it went.
    host: Option<String>,
    credential_id: Option<String>,
    /// `personal`, `org-wide` or `none`.
    credential_source: Option<String>,
    attempts: i32,
    duration_ms: Option<i64>,
    created_at: String,
    ended_at: Option<String>,
}

impl From<model::Invocation> for Invocation {
    fn from(row: model::Invocation) -> Self {
        Invocation {
            request_id: row.id,
            user_id: row.user_id,
            integration: row.integration_key,
            operation: row.operation,
            status: row.status,
            success: row.success,
            status_code: row.status_code,
            error_category: row.error_category,
            error_code: row.error_code,
            host: row.host,
            credential_id: row.credential_id,
            credential_source: row.credential_source,
            attempts: row.attempts,
            duration_ms: row.duration_ms,
            created_at: iso(row.requested_at),
            ended_at: row.ended_at.map(iso),
        }
    }
}

/// List calls of registered integrations, the newest first
///
/// Of the caller; of the whole organization for its admins.
#[utoipa::path(get, path = "/integrations/invocations", tag = "Registry", params(Since),
    responses((status = 200, description = "The calls", body = Vec<Invocation>)))]
async fn list(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(since): Query<Since>,
) -> ApiResult<Json<Vec<Invocation>>> {
    let asker = Asker::new(&caller, &scope)?;
    let (limit, offset) = since.page()?;
    let filter = asker.filter(&since, 7)?;
    let mut tx = service.platform.read(&asker.scope()).await?;
    let found = model::invocations(&mut tx, &filter, limit, offset).await?;
    Ok(Json(found.into_iter().map(Invocation::from).collect()))
}
