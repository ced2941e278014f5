//! Looking at what a document or a server offers before it is registered. Nothing is kept.

use std::time::Duration;

use axum::extract::State;
use reqwest::{Method, Url, header::HeaderMap};
use serde_json::{Value, json};
use symbia_commands::integrations::{
    openapi::{self, ImportError, Imported, MAX_DOCUMENT},
    prompt_operation, resource_operations, tool_operation,
};
use symbia_egress::{
    Egress, Errand,
    mcp::{McpError, McpServer},
    references::gathered,
};
use symbia_events::integrations::Operation;
use utoipa_axum::router::OpenApiRouter;

use super::{
    super::egress_policy::kept_in,
    Integrations, Reader,
    routes::{McpSource, OpenApiSource},
    tree,
};
use crate::http::{ApiError, ApiResult, Caller, Json, RequestScope, routes};

const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(parse_openapi)).routes(routes!(parse_mcp))
}

fn refused(path: &str, why: impl std::fmt::Display) -> ApiError {
    ApiError::invalid(path, "format", format!("cannot be used: {why}")).with_extra("success", false)
}

async fn import(
    egress: ApiResult<Egress>,
    read: impl FnOnce() -> Result<Value, ImportError> + Send + 'static,
    server: Option<String>,
    came_from: Option<String>,
) -> ApiResult<Imported> {
    // A long document takes a while.
    let parsed = tokio::task::spawn_blocking(read).await.map_err(ApiError::internal)?;
    let mut whole = parsed.map_err(|error| refused("spec", error))?;
    if let Ok(egress) = egress {
        let read = |bytes: &[u8]| openapi::parse(bytes).ok();
        whole = gathered(&egress, whole, came_from.as_deref(), read).await.map_err(|error| refused("spec", error))?;
    }
    let work = move || openapi::import(&whole, server.as_deref(), came_from.as_deref());
    let imported = tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)?;
    imported.map_err(|error| refused("spec", error))
}

/// Imports a document that came with a request: an object, or text.
pub(super) async fn inline(
    egress: ApiResult<Egress>,
    spec: Value,
    server: Option<String>,
    came_from: Option<String>,
) -> ApiResult<Imported> {
    let read = move || match spec {
        Value::String(text) => openapi::parse(text.as_bytes()),
        spec => Ok(spec),
    };
    import(egress, read, server, came_from).await
}

/// Look at what an OpenAPI document describes
///
/// For who may register. The document comes with the request, or is read from where it is.
#[utoipa::path(post, path = "/integrations/parse/openapi", tag = "Registry", request_body = OpenApiSource,
    responses((status = 200, description = "`{success, operations, namespace, info, authType, serverUrl}`", body = Object),
        (status = 400, description = "It cannot be read"), (status = 403, description = "Not an admin of the organization")))]
async fn parse_openapi(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(source): Json<OpenApiSource>,
) -> ApiResult<Json<Value>> {
    Reader::configuring(&caller, &scope)?;
    let imported = match (source.spec, source.spec_url) {
        (Some(spec), came_from) => {
            inline(service.egress_of(&caller, &scope).await, spec, source.server_url, came_from).await?
        }
        (None, Some(spec_url)) => {
            let url = Url::parse(&spec_url).map_err(|error| refused("specUrl", error))?;
            let (method, headers, body) = (Method::GET, HeaderMap::new(), None);
            let errand = Errand { method, url, headers, body, patience: PATIENCE, most: MAX_DOCUMENT };
            let egress = service.egress_of(&caller, &scope).await?;
            let reply = egress.fetch(errand).await;
            let reply = reply.map_err(|error| kept_in(error, |error| refused("specUrl", error)))?;
            if !reply.status.is_success() {
                return Err(refused("specUrl", format!("it answers with HTTP {}", reply.status.as_u16())));
            }
            let read = move || openapi::parse(&reply.body);
            import(Ok(egress), read, source.server_url, Some(spec_url)).await?
        }
        (None, None) => return Err(ApiError::invalid("spec", "required", "is required, or specUrl")),
    };
    Ok(Json(json!({
        "success": true,
        "namespace": tree::namespace(&imported.operations),
        "operations": imported.operations,
        "info": { "title": imported.title, "version": imported.version, "description": imported.description },
        "authType": imported.auth_type,
        "serverUrl": imported.server_url,
    })))
}

/// Look at what a server of the Model Context Protocol offers
///
/// For who may register. It is asked without a key.
#[utoipa::path(post, path = "/integrations/parse/mcp", tag = "Registry", request_body = McpSource,
    responses((status = 200, description = "`{success, operations, namespace, capabilities}`", body = Object),
        (status = 400, description = "It cannot be asked"), (status = 403, description = "Not an admin of the organization")))]
async fn parse_mcp(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(source): Json<McpSource>,
) -> ApiResult<Json<Value>> {
    Reader::configuring(&caller, &scope)?;
    let url = Url::parse(&source.url()?).map_err(|error| refused("serverUrl", error))?;
    let egress = service.egress_of(&caller, &scope).await?;
    let server = McpServer { egress: &egress, url, headers: HeaderMap::new(), patience: PATIENCE };
    let offer = server.offer().await.map_err(|error| match error {
        McpError::Egress(error) => kept_in(error, |error| refused("serverUrl", error)),
        error => refused("serverUrl", error),
    })?;
    let operations: Vec<Operation> = offer
        .tools
        .into_iter()
        .map(|t| tool_operation(&t.name, t.description, t.input_schema, t.output_schema, t.read_only))
        .chain(offer.prompts.into_iter().map(|p| prompt_operation(&p.name, p.description, p.arguments)))
        .chain(resource_operations(offer.resources))
        .collect();
    let namespace = tree::namespace(&operations);
    let capabilities = offer.capabilities;
    Ok(Json(json!({
        "success": true, "operations": operations, "namespace": namespace, "capabilities": capabilities,
    })))
}
