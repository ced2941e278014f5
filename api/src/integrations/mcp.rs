//! The platform as a server of the Model Context Protocol (integrations.md §13.1): every operation of the registry that the
//! caller may use is a tool, and what there is to use can be read.
//!
//! Streamable HTTP: each request stands for itself, so that any process answers it, and the id of a session only tells whose it
//! is. What a client is told without asking is a stream of its own. Who calls is told by the platform's own tokens and API keys, as on every route, or by tokens for this address.

mod changes;
mod door;
mod listening;
mod prompts;
mod resources;
mod session;
mod tools;
mod watching;

use std::sync::Arc;

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, GetPromptRequestParams,
        GetPromptResponse, Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult,
        ListToolsResult, PaginatedRequestParams, ReadResourceRequestParams, ReadResourceResponse, ServerCapabilities,
        ServerConfig, SubscribeRequestParams, UnsubscribeRequestParams,
    },
    service::RequestContext,
    transport::{
        StreamableHttpServerConfig, StreamableHttpService, streamable_http_server::session::never::NeverSessionManager,
    },
};
use serde::Deserialize;
use serde_json::{Value, json};
use symbia_events::integrations::{InvocationInput, Operation};
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;

pub(super) use self::{
    changes::Changes,
    door::{Door, root_routes},
    tools::{is_tool, name, takes},
};
use self::{
    prompts::Prompts,
    resources::templates,
    session::Sessions,
    tools::{Toolbox, inputs},
};
use super::{
    BODY, Integrations,
    ask::PATIENCE,
    registry::{Call, Called, Entry, Reader},
};
use crate::http::{ApiResult, Caller, Json, Query, RequestScope, routes};

const NAME: &str = "symbia-integrations";
/// Tools on a page.
const PAGE: usize = 50;
/// What is read of a request, whichever of them a client accepts.
const ACCEPTED: &str = "application/json, text/event-stream";

pub(super) fn routes(service: &Integrations) -> OpenApiRouter<Integrations> {
    let guarded = OpenApiRouter::new().routes(routes!(serve)).merge(listening::routes()).merge(session::routes());
    OpenApiRouter::new().merge(guarded.layer(from_fn_with_state(service.clone(), challenged))).routes(routes!(info))
}

/// Which tools.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Choice {
    /// Only of these integrations: their keys, with commas.
    integrations: Option<String>,
    /// Only with one of these tags, with commas.
    tags: Option<String>,
}

/// Who uses the tools.
#[derive(Clone)]
struct Tools {
    service: Integrations,
    caller: Caller,
    scope: RequestScope,
    headers: HeaderMap,
    choice: Choice,
    session: Option<String>,
}

/// Use the operations of the registry as tools of the Model Context Protocol
///
/// JSON-RPC 2.0 over streamable HTTP; protocol versions from 2024-11-05 on. `integrations` and `tags` choose
/// among the tools.
#[utoipa::path(post, path = "/integrations/mcp", tag = "MCP", params(Choice), request_body = Object,
    responses((status = 200, description = "The answer", body = Object), (status = 202, description = "A notification was taken"),
        (status = 400, description = "No JSON-RPC 2.0"), (status = 404, description = "The session is none of the caller's")))]
async fn serve(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Query(choice): Query<Choice>,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    let sessions = Sessions { service: &service, caller: &caller, scope: &scope };
    if let Some(refused) = refused(&body) {
        return refused;
    }
    let session = match sessions.taken(&mut headers).await {
        Ok(session) => session,
        Err(none) => return none.into_response(),
    };
    let tools = Tools {
        service: service.clone(),
        caller: caller.clone(),
        scope: scope.clone(),
        headers: headers.clone(),
        choice,
        session,
    };
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        // A page of another origin has no token of the platform; the edge keeps cookies from it.
        .disable_allowed_hosts()
        .with_max_request_body_bytes(BODY);
    let protocol = StreamableHttpService::new(move || Ok(tools.clone()), Arc::<NeverSessionManager>::default(), config);
    let mut request = Request::new(Body::from(body.clone()));
    *request.method_mut() = Method::POST;
    *request.headers_mut() = headers;
    // Older clients accept nothing by name.
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static(ACCEPTED));
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let mut response = protocol.handle(request).await.map(Body::new);
    sessions.begun(&body, &mut response);
    response
}

// What is no request of JSON-RPC 2.0.
fn refused(body: &[u8]) -> Option<Response> {
    let (code, message) = match serde_json::from_slice::<Value>(body) {
        Err(_) => (-32700, "this is no JSON"),
        Ok(message) if message["jsonrpc"] == "2.0" && message["method"].is_string() => return None,
        Ok(_) => (-32600, "this is no request of JSON-RPC 2.0: 'jsonrpc' and 'method' are needed"),
    };
    let error = json!({ "jsonrpc": "2.0", "id": null, "error": { "code": code, "message": message } });
    Some((StatusCode::BAD_REQUEST, axum::Json(error)).into_response())
}

// Tells who is not signed in where to do that (RFC 9728 §5.1).
async fn challenged(State(service): State<Integrations>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = format!("Bearer resource_metadata=\"{}\"", door::metadata(&service));
        if let Ok(challenge) = challenge.parse() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
    }
    response
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .enable_resources_list_changed()
            .enable_resources_subscribe()
            .enable_prompts()
            .enable_prompts_list_changed();
        let mut info = ServerConfig::new(capabilities.build());
        info.server_info = Implementation::new(NAME, env!("CARGO_PKG_VERSION"));
        info.instructions = Some("Operations of the integrations that your organization can use.".to_owned());
        info
    }

    async fn list_tools(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let from = from(request)?;
        let toolbox = self.toolbox().await?;
        let tools = toolbox.page(from, PAGE);
        let next = from + tools.len();
        Ok(ListToolsResult {
            next_cursor: (next < toolbox.len()).then(|| next.to_string()),
            ..ListToolsResult::with_all_items(tools)
        })
    }

    async fn list_resources(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let from = from(request)?;
        let all = self.resources().await?;
        let page: Vec<_> = all.iter().skip(from).take(PAGE).cloned().collect();
        let next = from.saturating_add(page.len());
        Ok(ListResourcesResult {
            next_cursor: (next < all.len()).then(|| next.to_string()),
            ..ListResourcesResult::with_all_items(page)
        })
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Ok(self.resource(&request.uri).await?.into())
    }

    async fn list_resource_templates(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let page = templates().into_iter().skip(from(request)?).collect();
        Ok(ListResourceTemplatesResult::with_all_items(page))
    }

    // Of the versions that are spoken here all but the newest ask so.
    #[allow(deprecated, reason = "versions before 2026-07-28 subscribe with it")]
    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.hears_of(&request.uri).await
    }

    #[allow(deprecated, reason = "versions before 2026-07-28 unsubscribe with it")]
    async fn unsubscribe(
        &self,
        request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.hears_no_more_of(&request.uri).await
    }

    async fn list_prompts(
        &self,
        request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        let from = from(request)?;
        let all = self.prompts().await?;
        let page = all.page(from, PAGE);
        let next = from.saturating_add(page.len());
        Ok(ListPromptsResult {
            next_cursor: (next < all.len()).then(|| next.to_string()),
            ..ListPromptsResult::with_all_items(page)
        })
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        Ok(self.prompt(&request.name, request.arguments.unwrap_or_default()).await?.into())
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let toolbox = self.toolbox().await?;
        let Some((entry, operation)) = toolbox.find(&request.name) else {
            return Err(ErrorData::invalid_params(format!("there is no tool '{}'", request.name), None));
        };
        let input = inputs(operation, request.arguments.unwrap_or_default());
        // What went wrong with a call is for the model to read.
        let result = match self.call(entry, operation, input).await {
            Ok(called) => answered(called),
            Err(error) => CallToolResult::error(vec![ContentBlock::text(error.message())]),
        };
        Ok(result.into())
    }
}

impl Tools {
    async fn toolbox(&self) -> Result<Toolbox, ErrorData> {
        let reader = self.reader()?;
        let entries = self.service.entries(&reader).await.map_err(|error| internal(&error))?;
        Ok(Toolbox::new(entries, self.choice.integrations.as_deref(), self.choice.tags.as_deref()))
    }

    /// Calls an operation in the caller's name.
    async fn call(&self, entry: &Entry, operation: &Operation, input: InvocationInput) -> ApiResult<Called> {
        let reader = Reader::new(&self.caller, &self.scope)?;
        let (caller, scope, headers) = (&self.caller, &self.scope, &self.headers);
        let call = Call { caller, scope, headers, reader: &reader, patience: PATIENCE };
        self.service.call(&call, entry, operation, input).await
    }

    async fn prompts(&self) -> Result<Prompts, ErrorData> {
        let entries = self.service.entries(&self.reader()?).await.map_err(|error| internal(&error))?;
        Ok(Prompts::new(entries, self.choice.integrations.as_deref()))
    }
}

// Where a page begins.
fn from(request: Option<PaginatedRequestParams>) -> Result<usize, ErrorData> {
    let cursor = request.and_then(|request| request.cursor);
    let from = cursor.map_or(Ok(0), |cursor| cursor.parse::<usize>());
    from.map_err(|_| ErrorData::invalid_params("cursor: is none that was given", None))
}

fn internal(error: &crate::http::ApiError) -> ErrorData {
    ErrorData::internal_error(error.message().to_owned(), Some(json!({ "code": error.code() })))
}

// An answer of a tool of another server is passed on; a model's is its text; all else is JSON.
fn answered(called: Called) -> CallToolResult {
    if called.kind.is_some()
        && let Ok(result) = serde_json::from_value::<CallToolResult>(called.data.clone())
    {
        return result;
    }
    let text = match (&called.data["content"], &called.data) {
        (Value::String(text), data) if data["usage"].is_object() => text.clone(),
        (_, Value::String(text)) => text.clone(),
        (_, data) => data.to_string(),
    };
    let text = called.error.map_or_else(|| text.clone(), |error| format!("{error}: {text}"));
    let content = vec![ContentBlock::text(text)];
    if !called.success {
        return CallToolResult::error(content);
    }
    let mut result = CallToolResult::success(content);
    result.structured_content = Some(called.data).filter(Value::is_object);
    result
}

/// Describe the tools that everybody has
#[utoipa::path(get, path = "/integrations/mcp/info", tag = "MCP", security(()),
    responses((status = 200, description = "The server, and up to 50 of its tools", body = Object)))]
async fn info(State(service): State<Integrations>) -> ApiResult<Json<Value>> {
    let entries = service.own_entries().await;
    let described = entries.iter().flat_map(|entry| {
        entry.operations.iter().map(move |operation| {
            let text = operation.description.as_ref().or(operation.summary.as_ref());
            json!({ "integration": entry.key, "operation": operation.id, "description": text, "tags": operation.tags })
        })
    });
    let described: Vec<Value> = described.collect();
    Ok(Json(json!({
        "server": { "name": NAME, "version": env!("CARGO_PKG_VERSION"), "protocol": "2024-11-05" },
        "capabilities": { "tools": true, "resources": true, "prompts": true },
        "toolCount": described.len(),
        "tools": &described[..described.len().min(PAGE)],
    })))
}
