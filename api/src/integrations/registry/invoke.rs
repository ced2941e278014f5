//! `POST /api/integrations/invoke`: any operation of the registry by its path (integrations.md §3.7, §7).

use std::{collections::BTreeMap, time::Duration};

use axum::{
    body::to_bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use symbia_commands::{
    Actor,
    integrations::{
        InvocationCommand, InvokeOperation, MAX_INVOKED,
        builtin::{Builtin, BuiltinCall},
    },
};
use symbia_events::{
    AggregateRef, CommandId, OrgId, Service, SubjectKey, commit,
    integrations::{ErrorCategory, InvocationCompleted, InvocationEvent, InvocationInput, Operation},
};
use symbia_nats::read;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{
    Reader,
    entry::{Entry, Origin},
    internal,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, routes},
    integrations::{
        Integrations,
        ask::{GRACE, PATIENCE, request_id},
        errors::refused,
        execute::{self, ExecuteRequest},
        hub::{Ear, Heard},
        said::Failure,
    },
    platform::Consistency,
};

/// How long a call may take that says nothing about it.
const USUAL: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(invoke))
}

/// What to call, and with what.
#[derive(Debug, Deserialize, ToSchema)]
struct InvokeRequest {
    /// `[integrations.]<integration>.<operation>`.
    #[schema(example = "integrations.openai.chat.completions.create")]
    operation: String,
    /// Parameters by name, wherever they go.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    params: Map<String, Value>,
    /// The body, or a tool's arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    body: Value,
    /// Further headers; none of those that authenticate.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Milliseconds.
    #[serde(default)]
    timeout: Option<u64>,
}

/// What came of a call.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::integrations) struct Called {
    /// Whether what was called says that it was done.
    pub success: bool,
    /// Its answer: its JSON, its text, or `{contentType, base64}`.
    #[schema(value_type = Object)]
    pub data: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub request_id: String,
    pub duration_ms: u64,
    /// Id of the operation.
    pub operation: String,
    /// Key of the integration.
    pub integration: String,
    /// HTTP status of what was called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_code: Option<u16>,
    /// `mcp-tool`, `mcp-prompt` or `mcp-resource`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

/// Call an operation of an integration
///
/// A server that answers with an error gives 200 with `success: false` and its `statusCode`. Calls of registered integrations
/// are in the log before they are made, their content sealed with the caller's key.
#[utoipa::path(post, path = "/integrations/invoke", tag = "Registry", request_body = InvokeRequest,
    responses((status = 200, description = "What came of it", body = Called),
        (status = 400, description = "A field is not valid, or the server may not be called"),
        (status = 401, description = "Not authenticated, or there is no key for the server"),
        (status = 404, description = "No such operation"), (status = 502, description = "The server does not answer"),
        (status = 504, description = "It took too long")))]
async fn invoke(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<InvokeRequest>,
) -> ApiResult<Json<Called>> {
    let reader = Reader::new(&caller, &scope)?;
    let (entry, operation) = service.resolve(&reader, &request.operation).await?;
    let input = InvocationInput { params: request.params, body: request.body, headers: request.headers };
    let patience = request.timeout.map_or(USUAL, |millis| Duration::from_millis(millis.max(1)).min(PATIENCE));
    let call = Call { caller: &caller, scope: &scope, headers: &headers, reader: &reader, patience };
    Ok(Json(service.call(&call, &entry, &operation, input).await?))
}

/// Who calls.
pub(in crate::integrations) struct Call<'a> {
    pub caller: &'a Caller,
    pub scope: &'a RequestScope,
    pub headers: &'a HeaderMap,
    pub reader: &'a Reader,
    pub patience: Duration,
}

impl Integrations {
    /// Calls an operation, of whatever origin.
    pub(in crate::integrations) async fn call(
        &self,
        call: &Call<'_>,
        entry: &Entry,
        operation: &Operation,
        input: InvocationInput,
    ) -> ApiResult<Called> {
        match &entry.origin {
            Origin::Provider(builtin) => self.call_provider(call, builtin, operation, input).await,
            Origin::Internal(_, base) => {
                let since = Instant::now();
                let reply = internal::call(base, operation, &input, call.headers, call.scope, call.patience).await?;
                let success = reply.status.is_success();
                Ok(Called {
                    success,
                    error: (!success).then(|| format!("the service answers with HTTP {}", reply.status.as_u16())),
                    data: reply.data(),
                    request_id: call.scope.request_id.clone(),
                    duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
                    operation: operation.id.clone(),
                    integration: entry.key.clone(),
                    status_code: Some(reply.status.as_u16()),
                    kind: None,
                })
            }
            Origin::Registered(_) => {
                let command_id = CommandId(call.scope.command_id(&Actor::from(&**call.caller).id));
                self.call_registered(call, command_id, entry, operation, input).await
            }
        }
    }

    // A request to the gateway like any other, with its budgets and its place in the log.
    async fn call_provider(
        &self,
        call: &Call<'_>,
        builtin: &Builtin,
        operation: &Operation,
        input: InvocationInput,
    ) -> ApiResult<Called> {
        let mut params = input.params;
        match input.body {
            Value::Object(body) => params.extend(body),
            Value::Null => {}
            _ => return Err(refused("body", "must be an object")),
        }
        let name = match builtin.call(&operation.id) {
            Some(BuiltinCall::Chat(name)) => name,
            Some(BuiltinCall::Embed) => "embeddings",
            Some(BuiltinCall::Models) => {
                let mut data = self.models(call.caller, call.scope).await?;
                data.retain(|model| model.provider == builtin.key);
                let id = call.scope.request_id.clone();
                return Ok(Called::of_provider(builtin, operation, json!({ "data": data, "requestId": id })));
            }
            None => return Err(ApiError::not_found("Operation")),
        };
        params.insert("stream".to_owned(), json!(false));
        let request = json!({ "provider": builtin.key, "operation": name, "params": params });
        let request: ExecuteRequest =
            serde_json::from_value(request).map_err(|error| refused("body", format!("cannot be used: {error}")))?;
        let (service, scope, caller) = (State(self.clone()), call.scope.clone(), call.caller.clone());
        let response = execute::execute(service, scope, caller, HeaderMap::new(), Json(request)).await?;
        let body = to_bytes(response.into_body(), usize::MAX).await.map_err(ApiError::internal)?;
        let answer = serde_json::from_slice(&body).map_err(ApiError::internal)?;
        Ok(Called::of_provider(builtin, operation, answer))
    }

    /// Calls an operation that was registered, by a command of this id: recorded, and made by a worker.
    pub(in crate::integrations) async fn call_registered(
        &self,
        call: &Call<'_>,
        command_id: CommandId,
        entry: &Entry,
        operation: &Operation,
        input: InvocationInput,
    ) -> ApiResult<Called> {
        let actor = Actor::from(&**call.caller);
        let key = self.key_of(&actor).await?;
        let request_id = request_id(command_id).to_string();
        let address = AggregateRef::new(Service::Integrations, call.reader.org.clone(), "invocation", &request_id);
        let address = address.map_err(ApiError::internal)?;
        let deadline = (OffsetDateTime::now_utc() + call.patience).format(&Rfc3339).map_err(ApiError::internal)?;
        let input = serde_json::to_string(&input).map_err(ApiError::internal)?;
        if input.len() > MAX_INVOKED / 2 {
            return Err(refused("body", format!("must be at most {} bytes with all else", MAX_INVOKED / 2))
                .with_status(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let command = InvocationCommand::from(InvokeOperation {
            request_id: request_id.clone(),
            integration_key: entry.key.clone(),
            operation_id: operation.id.clone(),
            input: key.seal(&input),
            deadline: Some(deadline),
        });
        let mut ear = self.hub.listen_for(address.clone());
        let sent = self.platform.submit_as(command_id, &address, &command, &actor, call.scope, Consistency::Eventual);
        if sent.await?.outcome.repeated {
            ear.look().await;
        }
        // A worker keeps the time; this is for one that is not there.
        let ended = tokio::time::timeout(call.patience + GRACE, ended(&mut ear, &key)).await;
        let late = || Failure::new(ErrorCategory::Timeout, "deadline", "the call takes too long");
        ended.unwrap_or_else(|_| Err(late())).map_err(|failure| failure.error(&request_id))
    }

    /// What became of a call that was made, from the log; none where it has no end there.
    pub(in crate::integrations) async fn called(
        &self,
        org: &OrgId,
        request_id: &str,
        key: &SubjectKey,
    ) -> ApiResult<Option<ApiResult<Called>>> {
        let address = AggregateRef::new(Service::Integrations, org.clone(), "invocation", request_id);
        let address = address.map_err(ApiError::internal)?;
        let (stream, subject) = (address.service.event_stream(), address.event_subject());
        let stored = read::last(&self.platform.nats, &stream, &subject).await;
        let Some(stored) = stored.map_err(|_| ApiError::unavailable("The log", 2))? else { return Ok(None) };
        let events = commit::decode(&self.platform.keys, &stored.payload).map_err(ApiError::internal)?;
        let ended = events.into_iter().rev().find_map(|signed| end(key, signed.event.decode().ok()?));
        Ok(ended.map(|ended| ended.map_err(|failure| failure.error(request_id))))
    }
}

async fn ended(ear: &mut Ear, key: &SubjectKey) -> Result<Called, Failure> {
    loop {
        let Heard::Event(event) = ear.next().await else { continue };
        if let Some(ended) = event.decode().ok().and_then(|event| end(key, event)) {
            return ended;
        }
    }
}

/// The end that an event is, opened.
fn end(key: &SubjectKey, event: InvocationEvent) -> Option<Result<Called, Failure>> {
    match event {
        InvocationEvent::InvocationCompleted(e) => Some(completed(key, e)),
        InvocationEvent::InvocationFailed(e) => {
            let message = e.message.and_then(|message| key.open(&message).ok());
            let text = message.unwrap_or_else(|| "there is no answer".to_owned());
            let retry_after_ms = e.retry_after_ms;
            Some(Err(Failure { retry_after_ms, ..Failure::new(e.category, &e.code, text) }))
        }
        InvocationEvent::InvocationRequested(_) | InvocationEvent::InvocationAttemptStarted(_) => None,
    }
}

fn completed(key: &SubjectKey, e: InvocationCompleted) -> Result<Called, Failure> {
    let unreadable = || {
        let text = "the answer cannot be read: its key was destroyed";
        Failure::new(ErrorCategory::NotFound, "key_destroyed", text)
    };
    let data = key.open(&e.response).ok().and_then(|json| serde_json::from_str(&json).ok());
    let told = match e.status_code {
        Some(status) => format!("the server answers with HTTP {status}"),
        None => "the tool says that it failed".to_owned(),
    };
    Ok(Called {
        success: e.success,
        data: data.ok_or_else(unreadable)?,
        error: (!e.success).then_some(told),
        request_id: e.request_id,
        duration_ms: e.duration_ms,
        operation: e.operation_id,
        integration: e.integration_key,
        status_code: e.status_code,
        kind: Some(e.kind).filter(|kind| kind != "api-call"),
    })
}

impl Called {
    // From the gateway's own answer.
    fn of_provider(builtin: &Builtin, operation: &Operation, mut answer: Value) -> Self {
        Called {
            success: true,
            data: answer["data"].take(),
            error: None,
            request_id: answer["requestId"].as_str().unwrap_or_default().to_owned(),
            duration_ms: answer["durationMs"].as_u64().unwrap_or_default(),
            operation: operation.id.clone(),
            integration: builtin.key.to_owned(),
            status_code: None,
            kind: None,
        }
    }
}
