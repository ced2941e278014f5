//! Registering, reading and removing integrations.

use std::time::Duration;

use axum::{extract::State, http::StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use symbia_commands::{
    Actor,
    integrations::{IntegrationCommand, RefreshIntegration, RegisterIntegration, RemoveIntegration},
};
use symbia_egress::Egress;
use symbia_events::{
    AggregateRef, Service,
    integrations::{IntegrationAuth, IntegrationKind, IntegrationRateLimit, IntegrationRetry, Operation},
};
use symbia_projections::{Scope, integrations as model};
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use super::{Integrations, Reader, entry::Entry, parse};
use crate::http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes};

/// How long finding out what an integration can do may take, and how often it is looked whether it has.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new()
        .routes(routes!(register))
        .routes(routes!(register_mcp))
        .routes(routes!(list))
        .routes(routes!(read, remove))
        .routes(routes!(operations))
        .routes(routes!(refresh))
}

/// An OpenAPI document, and where it is called.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OpenApiSource {
    /// Where the document is.
    #[serde(default)]
    pub spec_url: Option<String>,
    /// The document itself, as an object, or as text.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub spec: Option<Value>,
    /// Another server than the document names.
    #[serde(default)]
    pub server_url: Option<String>,
}

/// A server of the Model Context Protocol.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct McpSource {
    /// `http`: servers that are processes are not started here.
    #[serde(default)]
    pub transport: Option<String>,
    /// Where it is.
    #[serde(default)]
    pub server_url: Option<String>,
}

impl McpSource {
    /// Its URL.
    pub fn url(self) -> ApiResult<String> {
        if self.transport.as_deref().is_some_and(|transport| transport != "http") {
            let text = "must be http: this platform starts no processes for others, and opens no WebSockets to them";
            return Err(ApiError::invalid("mcp.transport", "enum", text));
        }
        self.server_url.ok_or_else(|| ApiError::invalid("mcp.serverUrl", "required", "is required"))
    }
}

/// An integration to register.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewIntegration {
    /// Names it in paths: a-z, 0-9, - and _.
    #[schema(example = "weather")]
    key: String,
    /// `openapi`, `mcp` or `custom`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "openapi")]
    kind: IntegrationKind,
    /// For people; absent: as its document says, or its key.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    openapi: Option<OpenApiSource>,
    #[serde(default)]
    mcp: Option<McpSource>,
    /// `{"type": "bearer" | "apiKey" | "basic" | "oauth2" | "path" | "none", "credentialKey"?, "header"?}`. The key is one of
    /// the vault whose `metadata.hosts` name the server.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    auth: IntegrationAuth,
    /// `{"maxRetries", "backoffMs", "backoffMultiplier"}`, for calls that may be repeated.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    retry: Option<IntegrationRetry>,
    /// `{"requestsPerSecond"?, "requestsPerMinute"?, "tokensPerMinute"?, "concurrentRequests"?, "operations"?: {"<id>": {…}}}`:
    /// how often the organization calls it. Tokens are those that an answer's `usage` tells, else what its length is worth.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    rate_limit: Option<IntegrationRateLimit>,
    /// What a `custom` one can do.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    operations: Option<Vec<Operation>>,
    /// Where a `custom` one is called.
    #[serde(default)]
    server_url: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Map<String, Value>,
}

impl NewIntegration {
    async fn command(self, org: String, egress: ApiResult<Egress>) -> ApiResult<RegisterIntegration> {
        let source = self.openapi.unwrap_or_default();
        let mut command = RegisterIntegration {
            name: self.name.clone().unwrap_or_else(|| self.key.clone()),
            key: self.key,
            org_id: org,
            description: self.description,
            kind: self.kind,
            spec_url: source.spec_url,
            server_url: source.server_url.or(self.server_url),
            auth: self.auth,
            retry: self.retry,
            rate_limit: self.rate_limit,
            operations: self.operations.filter(|_| self.kind == IntegrationKind::Custom),
            tags: self.tags,
            metadata: self.metadata,
        };
        if self.kind == IntegrationKind::Mcp {
            command.server_url = Some(self.mcp.unwrap_or_default().url()?);
        }
        if let Some(spec) = source.spec.filter(|_| self.kind == IntegrationKind::OpenApi) {
            let imported = parse::inline(egress, spec, command.server_url.clone(), command.spec_url.clone()).await?;
            command.server_url = imported.server_url;
            if self.name.is_none() && !imported.title.is_empty() {
                command.name = imported.title;
            }
            command.description = command.description.or(imported.description);
            command.operations = Some(imported.operations);
        }
        Ok(command)
    }
}

fn address(reader: &Reader, key: &str) -> ApiResult<AggregateRef> {
    let refused = "must be 1 to 64 of a-z, 0-9, - and _, beginning with a letter or digit";
    AggregateRef::new(Service::Integrations, reader.org.clone(), "integration", key)
        .map_err(|_| ApiError::invalid("key", "format", refused))
}

impl Integrations {
    async fn change(
        &self,
        reader: &Reader,
        key: &str,
        command: IntegrationCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        self.platform.submit(&address(reader, key)?, &command, &Actor::from(&**caller), scope).await?;
        Ok(())
    }

    // Until it is known what it can do, or why not.
    async fn settled(&self, reader: &Reader, key: &str) -> ApiResult<Value> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut tx = self.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
            let row = model::integration(&mut tx, reader.org.as_str(), key).await?;
            drop(tx);
            let row = row.ok_or_else(|| ApiError::not_found("Integration"))?;
            match row.status.as_str() {
                "active" => {
                    let entry = Entry::registered(row);
                    let count = entry.operations.len();
                    return Ok(json!({ "success": true, "integration": entry.shown(), "operationCount": count }));
                }
                "error" => {
                    let why = row.sync_error.unwrap_or_default();
                    let text = format!("'{key}' is registered, but what it can do is not known: {why}");
                    return Err(ApiError::new(StatusCode::BAD_REQUEST, "DISCOVERY_FAILED", text)
                        .with_extra("success", false)
                        .with_hint(format!("POST /api/integrations/registry/{key}/refresh tries again.")));
                }
                _ if Instant::now() > until => {
                    let text = format!("What '{key}' can do is still being found out");
                    return Err(ApiError::new(StatusCode::ACCEPTED, "PENDING", text).with_extra("success", false));
                }
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    async fn registered(&self, caller: &Caller, scope: &RequestScope, new: NewIntegration) -> ApiResult<Json<Value>> {
        let reader = Reader::configuring(caller, scope)?;
        let command = new.command(reader.org.to_string(), self.egress_of(caller, scope).await).await?;
        let key = command.key.clone();
        self.change(&reader, &key, command.into(), caller, scope).await?;
        Ok(Json(self.settled(&reader, &key).await?))
    }
}

/// Register an integration, or register it anew
///
/// For admins of the organization and holders of `cap:integrations.configure`. Only the organization sees it. An OpenAPI
/// document is read, an MCP server asked, and the answer waits for what comes of it.
#[utoipa::path(post, path = "/integrations/register", tag = "Registry", request_body = NewIntegration,
    responses((status = 200, description = "`{success, integration, operationCount}`", body = Object),
        (status = 202, description = "It is registered, and its operations are still being found out"),
        (status = 400, description = "A field is not valid, or what it can do cannot be found out"),
        (status = 403, description = "Not an admin of the organization"),
        (status = 409, description = "The key is the platform's own")))]
async fn register(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewIntegration>,
) -> ApiResult<Json<Value>> {
    service.registered(&caller, &scope, new).await
}

/// An MCP server to register; its members may also stand in `mcp`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewServer {
    #[schema(example = "tickets")]
    key: String,
    #[serde(default)]
    transport: Option<String>,
    #[serde(default)]
    server_url: Option<String>,
    #[serde(default)]
    mcp: Option<McpSource>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    auth: IntegrationAuth,
    /// As with other integrations.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    rate_limit: Option<IntegrationRateLimit>,
}

/// Register a server of the Model Context Protocol
#[utoipa::path(post, path = "/integrations/mcp/register", tag = "Registry", request_body = NewServer,
    responses((status = 200, description = "`{success, integration, operationCount}`", body = Object),
        (status = 400, description = "A field is not valid, or the server cannot be asked"),
        (status = 403, description = "Not an admin of the organization")))]
async fn register_mcp(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewServer>,
) -> ApiResult<Json<Value>> {
    let flat = McpSource { transport: new.transport, server_url: new.server_url };
    let new = NewIntegration {
        key: new.key,
        kind: IntegrationKind::Mcp,
        name: new.name,
        description: new.description,
        openapi: None,
        mcp: Some(new.mcp.unwrap_or(flat)),
        auth: new.auth,
        retry: None,
        rate_limit: new.rate_limit,
        operations: None,
        server_url: None,
        tags: Vec::new(),
        metadata: Map::new(),
    };
    service.registered(&caller, &scope, new).await
}

/// List integrations: the organization's own, providers of models, and the platform's services
#[utoipa::path(get, path = "/integrations/registry", tag = "Registry",
    responses((status = 200, description = "The integrations with their operations", body = Object)))]
async fn list(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let entries = service.entries(&Reader::new(&caller, &scope)?).await?;
    Ok(Json(json!({ "integrations": entries.iter().map(Entry::shown).collect::<Vec<_>>() })))
}

/// Read an integration
#[utoipa::path(get, path = "/integrations/registry/{key}", tag = "Registry",
    params(("key" = String, Path, description = "Its key")),
    responses((status = 200, description = "The integration", body = Object), (status = 404, description = "There is none")))]
async fn read(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let entry = service.entry(&Reader::new(&caller, &scope)?, &key).await?;
    Ok(Json(json!({ "integration": entry.shown() })))
}

/// List what an integration can do
#[utoipa::path(get, path = "/integrations/registry/{key}/operations", tag = "Registry",
    params(("key" = String, Path, description = "Its key")),
    responses((status = 200, description = "The operations", body = Object), (status = 404, description = "There is none")))]
async fn operations(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let entry = service.entry(&Reader::new(&caller, &scope)?, &key).await?;
    Ok(Json(json!({ "operations": entry.operations })))
}

/// Find out anew what an integration can do
#[utoipa::path(post, path = "/integrations/registry/{key}/refresh", tag = "Registry",
    params(("key" = String, Path, description = "Its key")),
    responses((status = 200, description = "`{success, integration, operationCount}`", body = Object),
        (status = 400, description = "Its operations came with it, or cannot be found out"),
        (status = 403, description = "Not an admin of the organization"), (status = 404, description = "There is none")))]
async fn refresh(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let reader = Reader::configuring(&caller, &scope)?;
    let command = RefreshIntegration { key: key.clone(), org_id: reader.org.to_string() };
    service.change(&reader, &key, command.into(), &caller, &scope).await?;
    Ok(Json(service.settled(&reader, &key).await?))
}

/// Remove an integration
#[utoipa::path(delete, path = "/integrations/registry/{key}", tag = "Registry",
    params(("key" = String, Path, description = "Its key")),
    responses((status = 200, description = "`{success, key}`", body = Object),
        (status = 403, description = "Not an admin of the organization"), (status = 404, description = "There is none"),
        (status = 409, description = "It is the platform's own")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(key): Path<String>,
) -> ApiResult<Json<Value>> {
    let reader = Reader::configuring(&caller, &scope)?;
    if service.entry(&reader, &key).await?.is_own() {
        let text = format!("'{key}' is an integration of the platform's own, which nobody removes");
        return Err(ApiError::new(StatusCode::CONFLICT, "PLATFORMS_OWN", text));
    }
    let command = RemoveIntegration { key: key.clone(), org_id: reader.org.to_string() };
    service.change(&reader, &key, command.into(), &caller, &scope).await?;
    Ok(Json(json!({ "success": true, "key": key })))
}
