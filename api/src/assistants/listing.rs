//! Assistants and their rule sets (assistants.md §5.5, 5.9).

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};
use symbia_commands::messaging::ASSISTANT_PREFIX;
use symbia_events::{OrgId, assistants::AssistantDefinition};
use symbia_projections::{Scope, assistants as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::Assistants;
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

pub(super) fn routes() -> OpenApiRouter<Assistants> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read)).routes(routes!(rules)).routes(routes!(rule_sets))
}

/// An assistant, shortly.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AssistantSummary {
    key: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    /// Its id as a participant.
    principal_id: String,
    description: String,
    /// `published` when it answers, else `draft`.
    status: &'static str,
    #[schema(value_type = Vec<String>)]
    tags: [(); 0],
    capabilities: Vec<String>,
    has_handler: bool,
    has_rules: bool,
    rules_count: usize,
    #[schema(value_type = Object)]
    llm_config: Value,
}

/// The assistants.
#[derive(Serialize, ToSchema)]
struct Listed {
    assistants: Vec<AssistantSummary>,
}

fn tenant(caller: &Caller, scope: &RequestScope) -> ApiResult<OrgId> {
    caller.org(scope)?.parse().map_err(|_| ApiError::org_access_denied())
}

fn rules_of(set: Option<&model::RuleSet>) -> Vec<Value> {
    set.filter(|set| set.is_active).and_then(|set| serde_json::from_str(&set.rules).ok()).unwrap_or_default()
}

fn summary(row: &model::Assistant, set: Option<&model::RuleSet>) -> AssistantSummary {
    let definition: AssistantDefinition = serde_json::from_str(&row.definition).unwrap_or_default();
    let rules = rules_of(set).len();
    AssistantSummary {
        principal_id: format!("{ASSISTANT_PREFIX}{}", row.key),
        key: row.key.clone(),
        name: definition.name,
        alias: definition.alias,
        description: definition.description,
        status: if row.published { "published" } else { "draft" },
        tags: [],
        capabilities: definition.capabilities,
        has_handler: rules > 0,
        has_rules: rules > 0,
        rules_count: rules,
        llm_config: json!(definition.llm_config),
    }
}

// The rule set by which an assistant answers: the organization's own, else the platform's.
fn set_of<'s>(sets: &'s [model::RuleSet], org: &OrgId, key: &str) -> Option<&'s model::RuleSet> {
    let own = format!("{key}:{org}");
    let default = format!("{key}:default");
    sets.iter()
        .find(|s| s.org_id == org.as_str() && s.key == own)
        .or_else(|| sets.iter().find(|s| s.org_id == OrgId::GLOBAL && s.key == default))
}

/// List the assistants that the organization can talk to
#[utoipa::path(get, path = "/assistants", tag = "Assistants",
    responses((status = 200, description = "By key", body = Listed)))]
async fn list(State(assistants): State<Assistants>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Listed>> {
    let org = tenant(&caller, &scope)?;
    let mut tx = assistants.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let found = model::assistants(&mut tx, org.as_str()).await?;
    let sets = model::rule_sets(&mut tx, org.as_str()).await?;
    let assistants = found.iter().map(|row| summary(row, set_of(&sets, &org, &row.key))).collect();
    Ok(Json(Listed { assistants }))
}

/// Read an assistant
#[utoipa::path(get, path = "/assistants/{key}", tag = "Assistants",
    params(("key" = String, Path, description = "Key of the assistant")),
    responses((status = 200, description = "The assistant", body = AssistantSummary),
        (status = 404, description = "There is none")))]
async fn read(
    State(assistants): State<Assistants>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let org = tenant(&caller, &scope)?;
    let mut tx = assistants.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let found = model::assistant(&mut tx, org.as_str(), &key).await?.ok_or_else(|| ApiError::not_found("Assistant"))?;
    let set = model::rule_set(&mut tx, org.as_str(), &key).await?;
    let mut body = json!(summary(&found, set.as_ref()));
    body["principalType"] = json!("assistant");
    body["source"] = json!("rule-based");
    Ok(Json(body))
}

fn rule_set(set: &model::RuleSet) -> Value {
    json!({
        "id": set.id, "key": set.key, "orgId": set.org_id, "name": set.name, "description": set.description,
        "rules": serde_json::from_str::<Value>(&set.rules).unwrap_or_default(), "version": set.version,
        "isActive": set.is_active, "digest": set.digest,
        "llmConfig": set.llm_config.as_deref().and_then(|c| serde_json::from_str::<Value>(c).ok()),
        "createdAt": crate::iso(set.created_at), "updatedAt": crate::iso(set.updated_at),
    })
}

/// Read the rules by which an assistant answers in the organization
#[utoipa::path(get, path = "/assistants/{key}/rules", tag = "Rules",
    params(("key" = String, Path, description = "Key of the assistant")),
    responses((status = 200, description = "The rule set"), (status = 404, description = "There is none")))]
async fn rules(
    State(assistants): State<Assistants>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let org = tenant(&caller, &scope)?;
    let mut tx = assistants.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let set = model::rule_set(&mut tx, org.as_str(), &key).await?.ok_or_else(|| ApiError::not_found("Rule set"))?;
    Ok(Json(json!({ "assistantKey": key, "orgId": set.org_id, "rules": rule_set(&set) })))
}

/// List the rule sets that the organization sees: its own and the platform's
#[utoipa::path(get, path = "/rules", tag = "Rules", responses((status = 200, description = "By key")))]
async fn rule_sets(
    State(assistants): State<Assistants>,
    scope: RequestScope,
    caller: Caller,
) -> ApiResult<Json<Value>> {
    let org = tenant(&caller, &scope)?;
    let mut tx = assistants.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let sets = model::rule_sets(&mut tx, org.as_str()).await?;
    Ok(Json(json!({ "data": sets.iter().map(rule_set).collect::<Vec<_>>(), "count": sets.len() })))
}
