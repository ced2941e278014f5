//! Rule runs: why an assistant answered as it did (assistants.md §8.3).

use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::OrgId;
use symbia_projections::{Scope, assistants as model, integrations as completions, messaging};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

use super::Assistants;
use crate::http::{ApiError, ApiResult, Caller, Json, Path, Query, routes};

const MOST: i64 = 100;

pub(super) fn routes() -> OpenApiRouter<Assistants> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

fn shown(run: &model::RuleRun) -> Value {
    json!({
        "id": run.id, "orgId": run.org_id, "conversationId": run.conversation_id, "messageId": run.message_id,
        "senderId": run.sender_id, "assistantKey": run.assistant_key, "status": run.status, "why": parsed(&run.why),
        "rulesEvaluated": parsed(&run.evaluated), "actions": parsed(&run.actions),
        "messageIds": parsed(&run.message_ids), "failure": run.failure.as_deref().map(parsed),
        "startedAt": crate::iso(run.started_at), "completedAt": run.ended_at.map(crate::iso),
        "durationMs": run.duration_ms,
    })
}

fn completion(c: &completions::Completion) -> Value {
    json!({
        "id": c.id, "provider": c.provider, "model": c.model, "status": c.status, "attempts": c.attempts,
        "usage": { "promptTokens": c.prompt_tokens, "completionTokens": c.completion_tokens, "estimated": c.estimated },
        "timing": { "queueMs": c.queue_ms, "ttftMs": c.ttft_ms, "totalMs": c.total_ms, "tokensPerSec": c.tokens_per_sec },
        "finishReason": c.finish_reason, "errorCategory": c.error_category, "errorCode": c.error_code,
        "requestedAt": crate::iso(c.requested_at), "endedAt": c.ended_at.map(crate::iso),
    })
}

/// Which runs.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Of this conversation.
    conversation_id: String,
}

// The organization of a conversation that the caller takes part in.
async fn org_of(assistants: &Assistants, caller: &Caller, conversation: &str) -> ApiResult<Option<OrgId>> {
    let orgs: Vec<String> = caller.organizations.iter().map(|org| org.id.clone()).collect();
    let mut tx = assistants.platform.read(&Scope::platform()).await?;
    let found = messaging::access(&mut tx, conversation, &orgs, &caller.id).await?;
    let found = found.filter(|access| access.asker_role.is_some());
    Ok(found.and_then(|access| access.conversation.org_id.parse().ok()))
}

/// List the newest runs of a conversation
#[utoipa::path(get, path = "/runs", tag = "Runs", params(Filter),
    responses((status = 200, description = "The newest first"), (status = 404, description = "No such conversation")))]
async fn list(
    State(assistants): State<Assistants>,
    caller: Caller,
    Query(filter): Query<Filter>,
) -> ApiResult<Json<Value>> {
    let org = org_of(&assistants, &caller, &filter.conversation_id).await?;
    let org = org.ok_or_else(|| ApiError::not_found("Conversation"))?;
    let mut tx = assistants.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let runs = model::rule_runs(&mut tx, org.as_str(), &filter.conversation_id, MOST).await?;
    Ok(Json(json!({ "runs": runs.iter().map(shown).collect::<Vec<_>>() })))
}

/// Read a run: which rule answered and why, by which model, with how many tokens
#[utoipa::path(get, path = "/runs/{id}", tag = "Runs", params(("id" = String, Path, description = "Id of the run")),
    responses((status = 200, description = "The run"), (status = 404, description = "There is none")))]
async fn read(State(assistants): State<Assistants>, caller: Caller, Path(id): Path<String>) -> ApiResult<Json<Value>> {
    for org in &caller.organizations {
        let Ok(tenant) = org.id.parse::<OrgId>() else { continue };
        let mut tx = assistants.platform.read(&Scope::member(tenant.clone(), &caller.id)).await?;
        let Some(run) = model::rule_run(&mut tx, &org.id, &id).await? else { continue };
        let asked = completions::completions_of_run(&mut tx, &org.id, &id).await?;
        drop(tx);
        if org_of(&assistants, &caller, &run.conversation_id).await? != Some(tenant) {
            break;
        }
        let mut body = shown(&run);
        body["completions"] = json!(asked.iter().map(completion).collect::<Vec<_>>());
        return Ok(Json(json!({ "run": body })));
    }
    Err(ApiError::not_found("Run"))
}
