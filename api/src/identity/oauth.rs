//! The OAuth surface: metadata (RFC 8414, RFC 9728) and the token endpoint (RFC 6749, RFC 8693).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::Duration;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{Identity, tokens::AUDIENCE};
use crate::http::{ApiError, ApiResult, Json, RequestScope, routes};

/// Grant type of token exchange.
pub(super) const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// Type of access tokens in an exchange.
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Type of a delegation's id as subject token: no secret, the agent's own token proves who it is.
pub(super) const DELEGATION: &str = "urn:symbia:params:oauth:token-type:delegation";

/// Longest life of a client's access token.
pub(super) const CLIENT_TOKEN: Duration = Duration::hours(1);

/// Under `/api`.
pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(token))
}

/// At the root.
pub(super) fn root() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(server)).routes(routes!(resource))
}

/// An error of RFC 6749 §5.2, in the platform's body.
pub(super) fn refused(error: &'static str, description: impl Into<String>) -> ApiError {
    let description = description.into();
    let status = if error == "invalid_client" { StatusCode::UNAUTHORIZED } else { StatusCode::BAD_REQUEST };
    ApiError::new(status, error.to_uppercase(), description.clone())
        .with_extra("error", error)
        .with_extra("error_description", description)
}

/// Read what the authorization server can do (RFC 8414)
#[utoipa::path(get, path = "/.well-known/oauth-authorization-server", tag = "Discovery", security(()),
    responses((status = 200, description = "Metadata", body = Object)))]
async fn server(State(identity): State<Identity>, headers: HeaderMap) -> Json<Value> {
    let base = identity.base(&headers);
    Json(json!({
        "issuer": identity.platform.tokens.issuer(),
        "authorization_endpoint": format!("{base}/oauth/authorize"),
        "token_endpoint": format!("{base}/api/oauth/token"),
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "introspection_endpoint": format!("{base}/api/auth/introspect"),
        "introspection_endpoint_auth_methods_supported": ["none"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", EXCHANGE],
        "token_endpoint_auth_methods_supported": ["none"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": true,
        "client_id_metadata_document_supported": true,
        "scopes_supported": ["cap:identity.read", "cap:identity.manage-orgs", "cap:messaging.read", "cap:messaging.send",
            "cap:assistants.execute", "role:member", "role:admin"],
    }))
}

/// Read which authorization server guards this service (RFC 9728)
#[utoipa::path(get, path = "/.well-known/oauth-protected-resource", tag = "Discovery", security(()),
    responses((status = 200, description = "Metadata", body = Object)))]
async fn resource(State(identity): State<Identity>, headers: HeaderMap) -> Json<Value> {
    let base = identity.base(&headers);
    Json(json!({
        "resource": base,
        "authorization_servers": [identity.platform.tokens.issuer()],
        "jwks_uri": format!("{base}/.well-known/jwks.json"),
        "bearer_methods_supported": ["header"],
        "resource_name": "Symbia",
    }))
}

/// What a token is asked for with.
#[derive(Default, Deserialize, ToSchema)]
pub(super) struct TokenRequest {
    /// `authorization_code`, `refresh_token` or token exchange.
    #[serde(default)]
    pub grant_type: String,
    /// The code (authorization code).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub code: Option<Zeroizing<String>>,
    /// The same as with the code's request.
    #[serde(default)]
    pub redirect_uri: Option<String>,
    /// The client.
    #[serde(default)]
    pub client_id: Option<String>,
    /// What the challenge was made of (RFC 7636).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub code_verifier: Option<Zeroizing<String>>,
    /// The refresh token; it works once.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub refresh_token: Option<Zeroizing<String>>,
    /// A delegation's id, or a token that stands on one (token exchange).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub subject_token: Option<Zeroizing<String>>,
    /// Its type.
    #[serde(default)]
    pub subject_token_type: Option<String>,
    /// The agent's own access token (token exchange).
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub actor_token: Option<Zeroizing<String>>,
    /// Its type.
    #[serde(default)]
    pub actor_token_type: Option<String>,
    /// Scopes, separated by spaces: fewer than the grant allows, never more.
    #[serde(default)]
    pub scope: Option<String>,
    /// For which resource (RFC 8707); the platform without it.
    #[serde(default)]
    pub resource: Option<String>,
    /// An approval to be used (token exchange).
    #[serde(default)]
    pub approval: Option<String>,
}

/// A token (RFC 6749 §5.1, RFC 8693 §2.2.1).
#[derive(Serialize, ToSchema)]
pub(super) struct Granted {
    /// The access token.
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: &'static str,
    /// Seconds.
    pub expires_in: i64,
    /// What it is limited to.
    pub scope: String,
    /// Of an exchange.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_token_type: Option<&'static str>,
    /// The next refresh token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
}

/// Get a token: for a code, for a refresh token, or by exchange for an agent that acts in somebody's name
#[utoipa::path(post, path = "/oauth/token", tag = "OAuth", security(()),
    request_body(content = TokenRequest, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "The token", body = Granted),
        (status = 400, description = "An error of RFC 6749")))]
async fn token(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    body: Result<Json<TokenRequest>, ApiError>,
) -> ApiResult<Response> {
    let Json(request) = body.map_err(|error| refused("invalid_request", error.message().to_owned()))?;
    let granted = match request.grant_type.as_str() {
        EXCHANGE => identity.exchanged(&request, &scope).await?,
        "authorization_code" => identity.redeemed(&request, &scope, &headers).await?,
        "refresh_token" => identity.renewed(&request, &scope).await?,
        "" => return Err(refused("invalid_request", "grant_type is missing")),
        _ => return Err(refused("unsupported_grant_type", "this grant type is not supported")),
    };
    Ok(([(header::PRAGMA, "no-cache")], Json(granted)).into_response())
}

/// The scopes that are asked for, or all that may be.
///
/// # Errors
/// `invalid_scope` for one that may not be: nothing is silently left out.
pub(super) fn narrowed(asked: Option<&str>, allowed: &[String]) -> ApiResult<Vec<String>> {
    let asked: Vec<&str> = asked.unwrap_or_default().split_ascii_whitespace().collect();
    if asked.is_empty() {
        return Ok(allowed.to_vec());
    }
    if let Some(wider) = asked.iter().find(|scope| !allowed.iter().any(|a| a == *scope)) {
        return Err(refused("invalid_scope", format!("'{wider}' is more than was granted")));
    }
    Ok(asked.into_iter().map(str::to_owned).collect())
}

/// The audience that is asked for (RFC 8707).
///
/// # Errors
/// `invalid_target` for one that was not granted.
pub(super) fn audience(asked: Option<&str>, base: &str, allowed: &[String]) -> ApiResult<String> {
    match asked {
        None | Some("") => Ok(AUDIENCE.to_owned()),
        Some(asked) if asked == AUDIENCE || (!base.is_empty() && asked.trim_end_matches('/') == base) => {
            Ok(AUDIENCE.to_owned())
        }
        Some(asked) if allowed.iter().any(|a| a == asked) => Ok(asked.to_owned()),
        Some(asked) => Err(refused("invalid_target", format!("'{asked}' is no resource that was granted"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn scopes_narrow_and_never_widen() {
        let allowed = ["cap:a.read".to_owned(), "cap:a.write".to_owned()];
        assert_eq!(narrowed(None, &allowed).unwrap(), allowed);
        assert_eq!(narrowed(Some("cap:a.read"), &allowed).unwrap(), ["cap:a.read"]);
        let wider = narrowed(Some("cap:a.read cap:b.read"), &allowed).unwrap_err();
        assert_eq!((wider.status().as_u16(), wider.code()), (400, "INVALID_SCOPE"));
    }

    #[test]
    fn an_audience_is_the_platform_or_one_that_was_granted() {
        let allowed = ["https://mcp.example/".to_owned()];
        assert_eq!(audience(None, "", &allowed).unwrap(), AUDIENCE);
        assert_eq!(audience(Some("https://id.example/"), "https://id.example", &allowed).unwrap(), AUDIENCE);
        assert_eq!(audience(Some("https://mcp.example/"), "", &allowed).unwrap(), "https://mcp.example/");
        assert_eq!(audience(Some("https://evil.example/"), "", &allowed).unwrap_err().code(), "INVALID_TARGET");
    }
}
