//! Routing policies (network.md §6.6, 8.7).

use axum::{extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::network::{
    CreatePolicy, DeletePolicy, Inputs, POLICIES_READ, POLICIES_WRITE, PolicyCommand, UpdatePolicy,
};
use symbia_events::{
    OrgId,
    network::{Action, Condition, PolicyDefinition, PolicyMode},
};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::{
    Network,
    access::{Place, address},
    mesh::{self, Standing},
    nodes::{Done, OK},
    sending::NewEvent,
    shapes,
};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Network> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(test))
        .routes(routes!(read, change, delete))
        .routes(routes!(known))
}

/// A policy to be made.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NewPolicy {
    name: String,
    /// The highest is asked first.
    priority: i64,
    /// Each `{field, operator, value}`; all must hold. None matches everything.
    #[schema(value_type = Vec<Object>)]
    conditions: Vec<Condition>,
    /// `{type: allow|deny|route|transform|log, …}`.
    #[schema(value_type = Object)]
    action: Action,
    /// Default true.
    #[serde(default)]
    enabled: Option<bool>,
    /// `enforce` (default), or `observe`: what it would do is only recorded.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    mode: Option<PolicyMode>,
}

impl From<NewPolicy> for PolicyDefinition {
    fn from(new: NewPolicy) -> Self {
        PolicyDefinition {
            name: new.name,
            priority: new.priority,
            conditions: new.conditions,
            action: new.action,
            enabled: new.enabled.unwrap_or(true),
            mode: new.mode.unwrap_or_default(),
        }
    }
}

/// Changes of a policy; what is absent stays.
#[derive(Clone, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PolicyChanges {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    priority: Option<i64>,
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    conditions: Option<Vec<Condition>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    action: Option<Action>,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    mode: Option<PolicyMode>,
    /// The version that was read: another in between makes it 409.
    #[serde(default)]
    expected_version: Option<u32>,
    /// Not looked at, as in the original.
    #[serde(default)]
    #[allow(dead_code, reason = "accepted, and nothing else")]
    id: Option<String>,
    /// Not looked at, as in the original.
    #[serde(default)]
    #[allow(dead_code, reason = "accepted, and nothing else")]
    created_at: Option<String>,
}

impl PolicyChanges {
    /// The policy with the changes.
    pub(super) fn of(self, before: PolicyDefinition) -> PolicyDefinition {
        PolicyDefinition {
            name: self.name.unwrap_or(before.name),
            priority: self.priority.unwrap_or(before.priority),
            conditions: self.conditions.unwrap_or(before.conditions),
            action: self.action.unwrap_or(before.action),
            enabled: self.enabled.unwrap_or(before.enabled),
            mode: self.mode.unwrap_or(before.mode),
        }
    }
}

/// Policies.
#[derive(Serialize, ToSchema)]
struct Policies {
    policies: Vec<shapes::Policy>,
    count: usize,
}

pub(super) fn none() -> ApiError {
    ApiError::not_found("Policy")
}

impl Network {
    pub(super) async fn policies(&self, place: &Place) -> ApiResult<Vec<Standing>> {
        let mut tx = self.platform.read(&place.reading).await?;
        mesh::policies(&mut tx, place.org.as_str()).await
    }

    async fn policy(&self, place: &Place, id: &str) -> ApiResult<Standing> {
        self.policies(place).await?.into_iter().find(|policy| policy.record.id == id).ok_or_else(none)
    }

    /// Makes a policy.
    pub(super) async fn make_policy(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        new: NewPolicy,
    ) -> ApiResult<shapes::Policy> {
        let place = self.place_for(caller, scope, POLICIES_WRITE)?;
        let id = format!("policy_{}", Uuid::new_v5(&scope.command_id(&place.actor.id), b"policy").simple());
        let command = CreatePolicy { policy_id: id.clone(), org_id: place.org.to_string(), policy: new.into() };
        let command = PolicyCommand::from(command);
        self.submit(&place, &address(&place.org, "policy", &id)?, &command, scope).await?;
        Ok(self.policy(&place, &id).await?.into())
    }

    /// Changes a policy.
    pub(super) async fn change_policy(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        id: &str,
        changes: PolicyChanges,
    ) -> ApiResult<shapes::Policy> {
        let place = self.place_for(caller, scope, POLICIES_WRITE)?;
        let before = self.policy(&place, id).await?.record;
        // What the changes are merged into must be what they end up on.
        let expected_version = Some(changes.expected_version.unwrap_or(before.version));
        let policy = changes.of(before.definition);
        let command =
            UpdatePolicy { policy_id: id.to_owned(), org_id: place.org.to_string(), policy, expected_version };
        let command = PolicyCommand::from(command);
        self.submit(&place, &address(&place.org, "policy", id)?, &command, scope).await?;
        Ok(self.policy(&place, id).await?.into())
    }

    /// Removes a policy.
    pub(super) async fn remove_policy(&self, caller: &Caller, scope: &RequestScope, id: String) -> ApiResult<()> {
        let command =
            |org: &OrgId| PolicyCommand::from(DeletePolicy { policy_id: id.clone(), org_id: org.to_string() });
        self.act((caller, scope), Some(POLICIES_WRITE), ("policy", &id), command).await
    }

    async fn listed(&self, caller: &Caller, scope: &RequestScope) -> ApiResult<Json<Policies>> {
        let place = self.place_for(caller, scope, POLICIES_READ)?;
        let policies: Vec<_> = self.policies(&place).await?.into_iter().map(shapes::Policy::from).collect();
        Ok(Json(Policies { count: policies.len(), policies }))
    }
}

/// Make a policy (`cap:network.policies.write`)
#[utoipa::path(post, path = "/policies", tag = "Policies", request_body = NewPolicy,
    responses((status = 201, description = "The policy", body = shapes::Policy),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed")))]
async fn create(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewPolicy>,
) -> ApiResult<(StatusCode, Json<shapes::Policy>)> {
    Ok((StatusCode::CREATED, Json(network.make_policy(&caller, &scope, new).await?)))
}

/// List the policies of the organization (`cap:network.policies.read`)
#[utoipa::path(get, path = "/policies", tag = "Policies",
    responses((status = 200, description = "In the order they were made", body = Policies),
        (status = 403, description = "Not allowed")))]
async fn list(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Policies>> {
    network.listed(&caller, &scope).await
}

/// The same, beside the other observations
#[utoipa::path(get, path = "/sdn/policies", tag = "Observation",
    responses((status = 200, description = "In the order they were made", body = Policies),
        (status = 403, description = "Not allowed")))]
async fn known(State(network): State<Network>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Policies>> {
    network.listed(&caller, &scope).await
}

/// Read a policy (`cap:network.policies.read`)
#[utoipa::path(get, path = "/policies/{id}", tag = "Policies", params(("id" = String, Path, description = "Id of the policy")),
    responses((status = 200, description = "The policy", body = shapes::Policy), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn read(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<shapes::Policy>> {
    let place = network.place_for(&caller, &scope, POLICIES_READ)?;
    Ok(Json(network.policy(&place, &id).await?.into()))
}

/// Change a policy (`cap:network.policies.write`): a new version, which counts from the next call on
#[utoipa::path(patch, path = "/policies/{id}", tag = "Policies", request_body = PolicyChanges,
    params(("id" = String, Path, description = "Id of the policy")),
    responses((status = 200, description = "The policy", body = shapes::Policy),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none"), (status = 409, description = "It was changed in between")))]
async fn change(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<PolicyChanges>,
) -> ApiResult<Json<shapes::Policy>> {
    Ok(Json(network.change_policy(&caller, &scope, &id, changes).await?))
}

/// Remove a policy (`cap:network.policies.write`); also one that every organization starts with
#[utoipa::path(delete, path = "/policies/{id}", tag = "Policies",
    params(("id" = String, Path, description = "Id of the policy")),
    responses((status = 200, description = "It is removed", body = Done), (status = 403, description = "Not allowed"),
        (status = 404, description = "There is none")))]
async fn delete(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Done>> {
    network.remove_policy(&caller, &scope, id).await?;
    Ok(OK)
}

/// What the policies say about an event that nobody sends.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tested {
    #[schema(value_type = Object)]
    event: Value,
    /// `{policyId?, action, applied}`; without a policy, the default decided.
    #[schema(value_type = Object)]
    result: Value,
    #[schema(value_type = Vec<Object>)]
    all_policies: Vec<Value>,
}

/// Ask the policies about an event; nothing is sent (`cap:network.policies.read`)
#[utoipa::path(post, path = "/policies/test", tag = "Policies", request_body = NewEvent,
    responses((status = 200, description = "What they say", body = Tested),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not allowed")))]
async fn test(
    State(network): State<Network>,
    scope: RequestScope,
    caller: Caller,
    Json(event): Json<NewEvent>,
) -> ApiResult<Json<Tested>> {
    let place = network.place_for(&caller, &scope, POLICIES_READ)?;
    event.check()?;
    let mut tx = network.platform.read(&place.reading).await?;
    let view = network.meshes.now(&mut tx, place.org.as_str()).await?;
    drop(tx);
    let inputs = Inputs {
        source: &event.source,
        target: event.target.as_deref().unwrap_or_default(),
        event_type: &event.payload.event_type,
        boundary: event.boundary,
        run_id: &event.run_id,
    };
    let found = view.policies.evaluate(&inputs);
    let applied: Vec<Value> = found
        .matched
        .iter()
        .map(|rule| json!({ "policyId": rule.id, "version": rule.version, "action": rule.action, "mode": rule.mode }))
        .collect();
    let mut result = json!({
        "action": found.decisive.map_or_else(|| json!({ "type": "default" }), |rule| json!(rule.action)),
        "applied": applied,
    });
    if let Some(rule) = found.decisive {
        result["policyId"] = json!(rule.id);
    }
    let all = network.policies(&place).await?.into_iter().map(|policy| {
        let record = policy.record;
        let definition = record.definition;
        json!({ "id": record.id, "name": definition.name, "priority": definition.priority, "enabled": definition.enabled })
    });
    Ok(Json(Tested { event: event.unsent(), result, all_policies: all.collect() }))
}
