//! Why an event was decided as it was: for each target the contract, the rules that matched in the versions that did, what
//! they were asked, and the event of the log that holds it.

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgConnection;
use symbia_commands::network::{TRACES_READ, default_policies};
use symbia_events::network::{AppliedPolicy, PolicyDefinition};
use symbia_projections::network::{self as model, RoutedEvent};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::Network;
use crate::http::{ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(why))
}

/// Why an event was decided as it was.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Why {
    event_id: String,
    /// The event of the log that holds the decision; `symbia log show` shows it.
    log_event_id: String,
    /// Its place there.
    position: String,
    decided_at: String,
    status: String,
    sender_id: String,
    /// Its publisher signed it.
    signed: bool,
    /// Tells apart what the policies were.
    policy_set_version: String,
    /// What was asked.
    #[schema(value_type = Object)]
    inputs: Value,
    /// By target.
    #[schema(value_type = Vec<Object>)]
    decisions: Vec<Value>,
}

// A policy as it was when it matched. Version 1 of what every organization starts with is in no log.
async fn definition(
    conn: &mut PgConnection,
    org: &str,
    applied: &AppliedPolicy,
) -> Result<Option<PolicyDefinition>, sqlx::Error> {
    if let Some(version) = model::policy_version(conn, org, &applied.policy_id, applied.version).await? {
        return Ok(version.definition);
    }
    let default = default_policies().into_iter().find(|(id, _)| *id == applied.policy_id && applied.version == 1);
    Ok(default.map(|(_, policy)| policy))
}

async fn decisions(conn: &mut PgConnection, row: &RoutedEvent) -> ApiResult<Vec<Value>> {
    let mut decisions = Vec::with_capacity(row.candidates.len());
    for candidate in &row.candidates {
        let mut rules = Vec::with_capacity(candidate.applied.len());
        for applied in &candidate.applied {
            let policy = definition(conn, &row.org_id, applied).await?;
            rules.push(json!({
                "policyId": applied.policy_id, "version": applied.version, "action": applied.action,
                "mode": applied.mode, "decisive": applied.decisive, "policy": policy,
                "inputs": { "source": row.source, "target": applied.target, "eventType": row.event_type,
                    "boundary": candidate.boundary, "runId": row.run_id },
            }));
        }
        let decided_by = if candidate.applied.iter().any(|applied| applied.decisive) { "policy" } else { "default" };
        let reply = candidate.contract_id.is_none() && candidate.verdict.delivers();
        decisions.push(json!({
            "target": candidate.target, "verdict": candidate.verdict, "reason": candidate.reason,
            "finalTarget": candidate.final_target, "boundary": candidate.boundary,
            "contractId": candidate.contract_id, "reply": reply, "decidedBy": decided_by, "rules": rules,
            "mapping": candidate.mapping, "delivery": row.deliveries.get(&candidate.final_target)
                .filter(|_| candidate.verdict.delivers()),
        }));
    }
    Ok(decisions)
}

/// Read why an event was decided as it was (`cap:network.traces.read`)
#[utoipa::path(get, path = "/events/{id}/why", tag = "Events", params(("id" = String, Path, description = "Id of the event")),
    responses((status = 200, description = "Rules, versions, inputs, and the event of the log", body = Why),
        (status = 403, description = "Not allowed"), (status = 404, description = "There is none")))]
async fn why(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Why>> {
    let place = network.place_for(&caller, &scope, TRACES_READ)?;
    let row = network.event(&place, &id).await?;
    let mut tx = network.platform.read(&place.reading).await?;
    let decisions = decisions(&mut tx, &row).await?;
    Ok(Json(Why {
        log_event_id: row.log_event_id.to_string(),
        position: format!("network:{}", row.place),
        decided_at: crate::iso(row.routed_at),
        inputs: json!({
            "source": row.source, "target": row.target, "targetEntityId": row.target_entity_id,
            "eventType": row.event_type, "boundary": row.boundary, "runId": row.run_id, "causedBy": row.caused_by,
        }),
        event_id: row.id,
        status: row.status,
        sender_id: row.sender_id,
        signed: row.signed,
        policy_set_version: row.policy_set,
        decisions,
    }))
}
