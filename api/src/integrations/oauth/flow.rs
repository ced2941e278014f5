//! A person's way to a provider and back. Its state counts once, for ten minutes, and in the browser that it was given to.

use std::time::Duration;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Redirect, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use symbia_commands::{
    Actor, Outcome,
    integrations::{AnswerOauth, FLOW_TIME, FailOauth, OauthFlowCommand, StartOauth, preset},
};
use symbia_events::{AggregateRef, Service};
use symbia_projections::{Scope, integrations as model};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Integrations, Reader, refused};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Query, RequestScope, auth::cookie, routes},
    identity::{escaped, page},
};

/// How long getting the tokens may take, and how often it is looked whether they are there.
const PATIENCE: Duration = Duration::from_secs(40);
const LOOK: Duration = Duration::from_millis(50);
const MOST_CODE: usize = 8 * 1024;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(authorize)).routes(routes!(callback))
}

/// Where an account is to be linked.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    #[schema(example = "github")]
    provider: String,
    /// Where the caller goes when they are back: one of those that the organization allows.
    #[serde(default)]
    redirect_uri: Option<String>,
    /// Absent: as the organization has it.
    #[serde(default)]
    scopes: Option<Vec<String>>,
    /// Given back with `redirectUri`.
    #[serde(default)]
    state: Option<String>,
}

/// Where the caller's browser is to go.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Way {
    authorization_url: String,
    state: String,
    provider: String,
}

fn hash_of(state: &str) -> String {
    Sha256::digest(state.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

// One for each way, so that several may be under way in a browser.
fn cookie_name(state_hash: &str) -> String {
    format!("symbia_oauth_{}", state_hash.get(..16).unwrap_or_default())
}

impl Integrations {
    fn browser_hash(&self, browser: &str) -> String {
        self.platform.keys.lookup_hash("oauth-browser", browser)
    }

    // Follows from the state, so that it need not be kept; 43 characters, as RFC 7636 §4.1 wants.
    fn verifier(&self, state: &str) -> Zeroizing<String> {
        Zeroizing::new(self.platform.keys.lookup_hash("oauth-verifier", state))
    }

    fn cookie(
        &self,
        state_hash: &str,
        value: &str,
        seconds: i64,
    ) -> AppendHeaders<[(header::HeaderName, HeaderValue); 1]> {
        let (name, secure) =
            (cookie_name(state_hash), if self.platform.settings.cookie_secure { "; Secure" } else { "" });
        let text = format!("{name}={value}; Path=/api/oauth; HttpOnly; SameSite=Lax; Max-Age={seconds}{secure}");
        AppendHeaders([(header::SET_COOKIE, HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("")))])
    }

    async fn usable_client(&self, reader: &Reader, provider: &str) -> ApiResult<model::OauthClient> {
        match self.usable_oauth_client(reader.org.as_str(), provider).await? {
            Some(client) if client.enabled => Ok(client),
            Some(_) => Err(refused("PROVIDER_DISABLED", format!("No accounts are linked at '{provider}' at present"))),
            None if preset(provider).is_some() => {
                let text = format!("'{provider}' is not set up for this organization");
                Err(refused("PROVIDER_NOT_CONFIGURED", text)
                    .with_hint(format!("An admin does that with PUT /api/oauth/provider-configs/{provider}.")))
            }
            None => Err(refused("UNKNOWN_PROVIDER", format!("There is no provider '{provider}'"))),
        }
    }

    fn way(&self, client: &model::OauthClient, state: &str, scopes: &[String]) -> ApiResult<String> {
        let mut url = Url::parse(&client.endpoints.authorization_url).map_err(ApiError::internal)?;
        let challenge = BASE64URL.encode(Sha256::digest(self.verifier(state).as_bytes()));
        url.query_pairs_mut()
            .append_pair("client_id", &client.client_id)
            .append_pair("redirect_uri", &self.linking.callback())
            .append_pair("response_type", "code")
            .append_pair("state", state)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        if !scopes.is_empty() {
            url.query_pairs_mut().append_pair("scope", &scopes.join(&client.endpoints.scope_delimiter));
        }
        Ok(url.into())
    }
}

/// Begin to link an account
///
/// The answer names where the caller's browser is to go, and gives it a cookie: who comes back in another browser is refused.
#[utoipa::path(post, path = "/oauth/authorize", tag = "Accounts", request_body = Wanted,
    responses((status = 200, description = "Where to go", body = Way),
        (status = 400, description = "There is no such provider, or the redirectUri is not allowed")))]
async fn authorize(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Json(wanted): Json<Wanted>,
) -> ApiResult<Response> {
    caller.require_user()?;
    let reader = Reader::new(&caller, &scope)?;
    let client = service.usable_client(&reader, &wanted.provider).await?;
    if wanted.redirect_uri.as_ref().is_some_and(|uri| !client.redirect_uris.contains(uri)) {
        let text = "is none of those that the organization allows (redirectUris of the provider)";
        return Err(ApiError::invalid("redirectUri", "allowed", text));
    }
    let state: String = rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let browser = BASE64URL.encode(rand::random::<[u8; 32]>());
    let state_hash = hash_of(&state);
    let scopes = wanted.scopes.unwrap_or_else(|| client.endpoints.default_scopes.clone());
    let authorization_url = service.way(&client, &state, &scopes)?;
    let actor = Actor::from(&*caller);
    let client_state = match &wanted.state {
        Some(text) => Some(service.key_of(&actor).await?.seal(text)),
        None => None,
    };
    let start = StartOauth {
        state_hash: state_hash.clone(),
        org_id: reader.org.to_string(),
        provider: wanted.provider.clone(),
        user_id: caller.id.clone(),
        redirect_uri: wanted.redirect_uri,
        scopes,
        browser_hash: service.browser_hash(&browser),
        client_state,
        config_version: client.version.unsigned_abs(),
    };
    let address = AggregateRef::new(Service::Integrations, reader.org.clone(), "oauth-flow", &state_hash);
    let address = address.map_err(ApiError::internal)?;
    service.platform.submit(&address, &OauthFlowCommand::from(start), &actor, &scope).await?;
    let cookie = service.cookie(&state_hash, &browser, FLOW_TIME.whole_seconds());
    Ok((cookie, Json(Way { authorization_url, state, provider: wanted.provider })).into_response())
}

/// What a provider sends a browser back with (RFC 6749 §4.1.2).
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Back {
    /// To be changed for tokens.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    code: Option<Zeroizing<String>>,
    /// Of whose way it is the end.
    #[serde(default)]
    state: Option<String>,
    /// Why there is no code.
    #[serde(default)]
    error: Option<String>,
}

impl Integrations {
    async fn flow(&self, state_hash: &str) -> ApiResult<model::OauthFlow> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::oauth_flow(&mut tx, state_hash).await?;
        found.ok_or_else(|| refused("INVALID_STATE", "This state was given to nobody: begin anew"))
    }

    async fn tell_flow(&self, flow: &model::OauthFlow, command: OauthFlowCommand) -> ApiResult<Outcome> {
        let tenant = flow.org_id.parse().map_err(ApiError::internal)?;
        let address = AggregateRef::new(Service::Integrations, tenant, "oauth-flow", &flow.id);
        let outcome = self.platform.tell("integrations", &address.map_err(ApiError::internal)?, &command).await?;
        match outcome.rejection {
            Some(rejection) => Err(rejection.into()),
            None => Ok(outcome),
        }
    }

    async fn answered(&self, back: &Back, headers: &HeaderMap) -> ApiResult<model::OauthFlow> {
        let missing = || refused("INVALID_STATE", "A code and a state are needed: begin anew");
        let state = back.state.as_deref().ok_or_else(missing)?;
        let state_hash = hash_of(state);
        let flow = self.flow(&state_hash).await?;
        let name = cookie_name(&state_hash);
        let browser = self.browser_hash(cookie(headers, &name).unwrap_or_default());
        if back.error.is_some() {
            let fail = FailOauth { state_hash, code: "access_denied".to_owned(), browser_hash: Some(browser) };
            self.tell_flow(&flow, fail.into()).await?;
            return Err(refused("ACCESS_DENIED", "The provider was told not to link the account"));
        }
        let code = back.code.as_ref().filter(|code| !code.is_empty() && code.len() <= MOST_CODE);
        let code = code.ok_or_else(missing)?;
        let code_ref = format!("oauth-flow:{}:{}", flow.id, Uuid::new_v4());
        let context = model::oauth_code_context(&flow.org_id, &flow.user_id, &flow.id, &flow.provider);
        let kept = Zeroizing::new(json!({ "code": **code, "verifier": *self.verifier(state) }).to_string());
        self.platform.secrets.put_item(&code_ref, &context, &kept).await?;
        let answer = AnswerOauth {
            state_hash,
            browser_hash: browser,
            code_ref: code_ref.clone(),
            callback_uri: self.linking.callback(),
        };
        if let Err(error) = self.tell_flow(&flow, answer.into()).await {
            self.platform.secrets.destroy_item(&code_ref).await?;
            return Err(error);
        }
        self.settled_flow(&flow.id).await
    }

    // Until the worker has the tokens, or knows that it gets none.
    async fn settled_flow(&self, state_hash: &str) -> ApiResult<model::OauthFlow> {
        let until = Instant::now() + PATIENCE;
        loop {
            let flow = self.flow(state_hash).await?;
            match flow.status.as_str() {
                "completed" => return Ok(flow),
                "failed" => {
                    let code = flow.error_code.unwrap_or_default();
                    let text = format!("The account is not linked: {code}");
                    return Err(refused("LINKING_FAILED", text).with_extra("reason", code));
                }
                _ if Instant::now() > until => return Err(refused("PENDING", "The provider has not answered yet")),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    }

    // Allowed when the way began, and still.
    async fn landing(&self, flow: &model::OauthFlow) -> ApiResult<Option<String>> {
        let client = self.usable_oauth_client(&flow.org_id, &flow.provider).await?;
        let wanted = flow.redirect_uri.as_ref();
        let wanted = wanted.filter(|uri| client.is_some_and(|client| client.redirect_uris.contains(*uri)));
        let Some(place) = wanted.or(self.linking.interface.as_ref()) else { return Ok(None) };
        let Ok(mut url) = Url::parse(place) else { return Ok(None) };
        url.query_pairs_mut()
            .append_pair("success", "true")
            .append_pair("provider", &flow.provider)
            .append_pair("connection_id", flow.connection_id.as_deref().unwrap_or_default());
        if let Some(sealed) = flow.client_state.as_ref().filter(|_| wanted.is_some())
            && let Some(key) = self.platform.secrets.subject_key(&sealed.kid).await?
            && let Ok(state) = key.open(sealed)
        {
            url.query_pairs_mut().append_pair("state", &state);
        }
        Ok(Some(url.into()))
    }

    fn sorry(&self, error: &ApiError) -> Response {
        let place = self.linking.interface.as_deref().and_then(|base| Url::parse(base).ok());
        let Some(mut url) = place else {
            let text = format!("<h1>The account is not linked</h1><p>{}.", escaped(error.message()));
            return (StatusCode::BAD_REQUEST, page(&text, "'none'")).into_response();
        };
        url.set_path("/oauth/error");
        url.query_pairs_mut()
            .append_pair("error", &error.code().to_lowercase())
            .append_pair("error_description", error.message());
        Redirect::to(url.as_str()).into_response()
    }
}

/// Come back from a provider
///
/// Where a provider sends browsers. Goes on to the `redirectUri`, with `success`, `provider`, `connection_id` and `state`.
#[utoipa::path(get, path = "/oauth/callback", tag = "Accounts", security(()), params(Back),
    responses((status = 303, description = "The account is linked, or not"),
        (status = 200, description = "It is linked, and there is nowhere to go", body = String, content_type = "text/html"),
        (status = 400, description = "It is not, and there is nowhere to go", body = String, content_type = "text/html")))]
async fn callback(
    State(service): State<Integrations>,
    headers: HeaderMap,
    Query(back): Query<Back>,
) -> ApiResult<Response> {
    let flow = match service.answered(&back, &headers).await {
        Ok(flow) => flow,
        Err(error) if error.status().is_server_error() => return Err(error),
        Err(error) => return Ok(service.sorry(&error)),
    };
    let gone = service.cookie(&flow.id, "", 0);
    Ok(match service.landing(&flow).await? {
        Some(place) => (gone, Redirect::to(&place)).into_response(),
        None => (gone, page("<h1>The account is linked</h1><p>You may close this page.", "'none'")).into_response(),
    })
}
