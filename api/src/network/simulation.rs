//! What would be: an event that is not sent, and a change of a policy held against the calls of the past (network.md §8.12).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::network::{
    EVENTS_READ, MeshEvent, POLICIES_READ, PolicyRecord, PolicySet, TRACES_READ, check_policy, reconsider, route,
};
use symbia_events::network::{Candidate, Verdict};
use symbia_projections::network::{self as model, EventFilter, RoutedEvent};
use time::OffsetDateTime;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Network,
    access::Place,
    events::{LARGEST_PAGE, instant},
    policies::{NewPolicy, PolicyChanges, none},
    sending::{NewEvent, reply_to},
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

/// Most events that one request looks at; the answer says where to go on.
const MOST: usize = 20_000;

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new().routes(routes!(simulate)).routes(routes!(against_the_past))
}

/// What would happen to an event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Simulated {
    would_succeed: bool,
    /// With zeros for a hash.
    #[schema(value_type = Object)]
    event: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    source_node: Option<Value>,
    #[schema(value_type = Vec<Object>)]
    targets: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    policy_result: Option<Value>,
    reasons: Vec<String>,
    /// The policies that matched, by target.
    #[schema(value_type = Vec<Object>)]
    applied: Vec<Value>,
}

/// Ask what would happen to an event; it is routed as a sent one is, and nothing is sent (`cap:network.events.read`)
#[utoipa::path(post, path = "/sdn/simulate", tag = "Observation", request_body = NewEvent,
    responses((status = 200, description = "What would happen", body = Simulated),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed")))]
async fn simulate(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(event): Json<NewEvent>,
) -> ApiResult<Json<Simulated>> {
    let place = network.place_for(&caller, &scope, EVENTS_READ)?;
    event.check()?;
    let org = place.org.as_str();
    let mut tx = network.platform.read(&place.reading).await?;
    let view = network.meshes.now(&mut tx, org).await?;
    let nodes = model::nodes(&mut tx, org).await?;
    let reply_to = reply_to(&mut tx, org, &event).await?;
    drop(tx);
    let named = |id: &str| nodes.iter().find(|node| node.id == id);
    let Some(source) = named(&event.source) else {
        return Ok(Json(Simulated {
            would_succeed: false,
            event: event.unsent(),
            reason: Some("source_not_found"),
            source_node: None,
            targets: Vec::new(),
            policy_result: None,
            reasons: Vec::new(),
            applied: Vec::new(),
        }));
    };
    let now = OffsetDateTime::now_utc();
    let decided = route(&event.routed(reply_to.as_deref()), &view, network.options.routing, now);
    let target = |candidate: &Candidate| {
        let node = named(&candidate.final_target);
        json!({
            "id": candidate.final_target, "exists": view.node(&candidate.final_target).is_some()
                || !matches!(candidate.verdict, Verdict::UnknownNode),
            "name": node.map(|node| &node.name), "type": node.map(|node| node.node_type),
            "contractId": candidate.contract_id, "verdict": candidate.verdict, "redirectedFrom":
                (candidate.target != candidate.final_target).then_some(&candidate.target),
        })
    };
    let decisive = decided.candidates.iter().flat_map(|c| &c.applied).find(|applied| applied.decisive);
    let because = |candidate: &Candidate| {
        let verdict = json!(candidate.verdict);
        let verdict = verdict.as_str().unwrap_or_default().to_owned();
        let reason = candidate.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{}: {verdict}{reason}", candidate.target)
    };
    let mut reasons: Vec<String> = decided.candidates.iter().map(because).collect();
    if reasons.is_empty() {
        reasons.push("no contract names anyone for this event".to_owned());
    }
    Ok(Json(Simulated {
        would_succeed: decided.delivers(),
        event: event.unsent(),
        reason: None,
        source_node: Some(json!({ "id": source.id, "name": source.name, "type": source.node_type })),
        targets: decided.candidates.iter().map(target).collect(),
        policy_result: decisive.map(|applied| json!({ "policyId": applied.policy_id, "action": applied.action })),
        reasons,
        applied: decided
            .candidates
            .iter()
            .map(|candidate| json!({ "target": candidate.target, "policies": candidate.applied }))
            .collect(),
    }))
}

/// A change of a policy, and which past it is held against. One of `create`, `update` and `delete`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WhatIf {
    /// A policy to be made.
    #[serde(default)]
    create: Option<NewPolicy>,
    /// Changes of a policy.
    #[serde(default)]
    update: Option<Update>,
    /// A policy to be removed.
    #[serde(default)]
    delete: Option<String>,
    /// RFC 3339; default: a week ago.
    #[serde(default)]
    since: Option<String>,
    /// RFC 3339; default: now.
    #[serde(default)]
    until: Option<String>,
    /// The cursor of the answer before.
    #[serde(default)]
    cursor: Option<i64>,
}

/// Changes of a policy.
#[derive(Deserialize, ToSchema)]
struct Update {
    /// Which.
    policy: String,
    changes: PolicyChanges,
}

/// How a call was, or would be, decided.
#[derive(PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    #[schema(value_type = String)]
    verdict: Verdict,
    final_target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_version: Option<u32>,
}

/// A call that would be decided otherwise.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Flip {
    event_id: String,
    run_id: String,
    event_type: String,
    source: String,
    target: String,
    timestamp: String,
    /// As it was decided then.
    recorded: Outcome,
    /// As it would be decided by the policies of now.
    before: Outcome,
    /// As it would be decided after the change.
    after: Outcome,
}

/// The calls that a change would decide otherwise.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Flips {
    /// All of them, the newest first; none is left out of the events that were looked at.
    flips: Vec<Flip>,
    count: usize,
    events_examined: usize,
    calls_examined: usize,
    /// Older events of the time asked for were not looked at: go on with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<i64>,
}

fn outcome(candidate: &Candidate) -> Outcome {
    let decisive = candidate.applied.iter().rev().find(|applied| applied.decisive);
    Outcome {
        verdict: candidate.verdict,
        final_target: candidate.final_target.clone(),
        policy_id: decisive.map(|applied| applied.policy_id.clone()),
        policy_version: decisive.map(|applied| applied.version),
    }
}

// Whether somebody else gets the event, or gets it otherwise.
fn differ(before: &Candidate, after: &Candidate) -> bool {
    (before.verdict, &before.final_target, &before.mapping) != (after.verdict, &after.final_target, &after.mapping)
}

fn past(row: &RoutedEvent) -> MeshEvent<'_> {
    MeshEvent {
        event_type: &row.event_type,
        source: &row.source,
        target: row.target.as_deref(),
        target_entity: row.target_entity_id.as_deref(),
        run_id: &row.run_id,
        boundary: row.boundary,
        reply_to: None,
    }
}

impl Network {
    async fn changed(&self, place: &Place, what_if: &WhatIf) -> ApiResult<(PolicySet, PolicySet)> {
        let standing = self.policies(place).await?.into_iter().map(|policy| policy.record);
        let mut records: Vec<PolicyRecord> = standing.collect();
        let before = PolicySet::compile(&records);
        let at = |id: &str| records.iter().position(|record| record.id == id).ok_or_else(none);
        match (what_if.create.clone(), &what_if.update, &what_if.delete) {
            (Some(new), None, None) => {
                let order = records.iter().map(|record| record.order).max().unwrap_or(0).saturating_add(1);
                let id = "policy_of_this_simulation".to_owned();
                records.push(PolicyRecord { id, version: 1, order, definition: new.into() });
            }
            (None, Some(update), None) => {
                let at = at(&update.policy)?;
                let record = &mut records[at];
                record.definition = update.changes.clone().of(record.definition.clone());
                record.version += 1;
            }
            (None, None, Some(id)) => {
                let at = at(id)?;
                records.remove(at);
            }
            _ => return Err(ApiError::invalid("create, update, delete", "required", "must be one of them")),
        }
        for record in &records {
            check_policy(&record.definition)?;
        }
        Ok((before, PolicySet::compile(&records)))
    }
}

/// List the past calls that a change of a policy would decide otherwise (`cap:network.policies.read` and `.traces.read`)
///
/// Each recorded call keeps the contract that it had; the policies of now, and those after the change, are asked about it.
#[utoipa::path(post, path = "/policies/simulate", tag = "Policies", request_body = WhatIf,
    responses((status = 200, description = "The calls", body = Flips), (status = 400, description = "A field is not valid"),
        (status = 403, description = "Not allowed"), (status = 404, description = "There is no such policy")))]
async fn against_the_past(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(what_if): Json<WhatIf>,
) -> ApiResult<Json<Flips>> {
    network.place_for(&caller, &scope, POLICIES_READ)?;
    let place = network.place_for(&caller, &scope, TRACES_READ)?;
    let (before, after) = network.changed(&place, &what_if).await?;
    let since = instant("since", what_if.since.as_deref())?;
    let since = since.unwrap_or_else(|| OffsetDateTime::now_utc() - time::Duration::days(7));
    let until = instant("until", what_if.until.as_deref())?;
    let (org, options) = (place.org.as_str(), network.options.routing);
    let mut tx = network.platform.read(&place.reading).await?;
    let view = network.meshes.now(&mut tx, org).await?;
    drop(tx);
    let mut answer =
        Flips { flips: Vec::new(), count: 0, events_examined: 0, calls_examined: 0, cursor: what_if.cursor };
    loop {
        let filter = EventFilter {
            since: Some(since),
            until,
            before: answer.cursor,
            limit: LARGEST_PAGE,
            ..EventFilter::default()
        };
        // A transaction for each page: none is held for the whole past.
        let mut tx = network.platform.read(&place.reading).await?;
        let rows = model::events(&mut tx, org, &filter).await?;
        drop(tx);
        let last = i64::try_from(rows.len()).unwrap_or(0) < LARGEST_PAGE;
        answer.cursor = rows.first().filter(|_| !last).map(|row| row.place);
        answer.events_examined += rows.len();
        for row in rows.iter().rev() {
            let event = past(row);
            for recorded in &row.candidates {
                let ask = |policies| reconsider(&event, recorded, &view, policies, options, row.routed_at);
                let (Some(now), Some(then)) = (ask(&before), ask(&after)) else { continue };
                answer.calls_examined += 1;
                if differ(&now, &then) {
                    answer.flips.push(Flip {
                        event_id: row.id.clone(),
                        run_id: row.run_id.clone(),
                        event_type: row.event_type.clone(),
                        source: row.source.clone(),
                        target: recorded.target.clone(),
                        timestamp: row.timestamp.clone(),
                        recorded: outcome(recorded),
                        before: outcome(&now),
                        after: outcome(&then),
                    });
                }
            }
        }
        if last || answer.events_examined >= MOST {
            break;
        }
    }
    answer.count = answer.flips.len();
    Ok(Json(answer))
}
