//! Where accounts can be linked: an organization's registrations at providers, kept by its admins.

use std::time::Duration;

use axum::extract::State;
use reqwest::{Method, Url, header::HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbia_commands::{
    Actor,
    integrations::{
        OauthClientCommand, RemoveOauthProviderConfig, SetOauthProviderConfig, client_secret_prefix, preset,
    },
};
use symbia_egress::{Egress, Errand};
use symbia_events::{
    AggregateRef, Service,
    integrations::{OauthClientAuth, OauthEndpoints},
};
use symbia_projections::{Scope, integrations as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Integrations, Reader};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

const PATIENCE: Duration = Duration::from_secs(10);
const MOST: usize = 256 * 1024;
const MOST_SECRET: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<Integrations> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(set, remove))
}

/// A registration at a provider of accounts, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Registration {
    provider: String,
    display_name: String,
    description: Option<String>,
    icon_url: Option<String>,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    endpoints: OauthEndpoints,
    client_id: String,
    has_secret: bool,
    redirect_uris: Vec<String>,
    is_enabled: bool,
    /// To be registered at the provider.
    callback_uri: String,
    updated_at: String,
}

/// What is known of a client at a provider; of a provider that the platform knows, the client is enough.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewRegistration {
    client_id: String,
    /// Absent: the one that is kept stays.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    client_secret: Option<Zeroizing<String>>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    icon_url: Option<String>,
    /// An OpenID provider, whose addresses are read from its own document.
    #[serde(default)]
    issuer: Option<String>,
    #[serde(default)]
    authorization_url: Option<String>,
    #[serde(default)]
    token_url: Option<String>,
    #[serde(default)]
    userinfo_url: Option<String>,
    #[serde(default)]
    revoke_url: Option<String>,
    /// `post` or `basic`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    client_auth: Option<OauthClientAuth>,
    #[serde(default)]
    default_scopes: Option<Vec<String>>,
    #[serde(default)]
    scope_delimiter: Option<String>,
    /// Hosts that its tokens may be sent to.
    #[serde(default)]
    hosts: Option<Vec<String>>,
    /// Where people may be sent when they are back: exactly these.
    #[serde(default)]
    redirect_uris: Vec<String>,
    #[serde(default = "yes")]
    is_enabled: bool,
}

fn yes() -> bool {
    true
}

/// The part of a provider's metadata that is used (OpenID Connect Discovery 1.0 §3).
#[derive(Deserialize)]
struct Discovered {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    userinfo_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
}

impl Integrations {
    fn registration(&self, client: model::OauthClient) -> Registration {
        Registration {
            provider: client.id,
            display_name: client.display_name,
            description: client.description,
            icon_url: client.icon_url,
            endpoints: client.endpoints.0,
            client_id: client.client_id,
            has_secret: client.secret_ref.is_some(),
            redirect_uris: client.redirect_uris.0,
            is_enabled: client.enabled,
            callback_uri: self.linking.callback(),
            updated_at: iso(client.updated_at),
        }
    }

    async fn discovered(&self, egress: &Egress, issuer: &str) -> ApiResult<OauthEndpoints> {
        let cannot = |why: String| ApiError::invalid("issuer", "format", format!("cannot be used: {why}"));
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let url = Url::parse(&place).map_err(|error| cannot(error.to_string()))?;
        let (method, headers) = (Method::GET, HeaderMap::new());
        let errand = Errand { method, url, headers, body: None, patience: PATIENCE, most: MOST };
        let reply = egress.fetch(errand).await.map_err(|error| cannot(error.to_string()))?;
        let said: Discovered = serde_json::from_slice(&reply.body)
            .map_err(|_| cannot("there is no document of an OpenID provider".to_owned()))?;
        if said.issuer.trim_end_matches('/') != issuer.trim_end_matches('/') {
            return Err(cannot("its document names another issuer".to_owned()));
        }
        Ok(OauthEndpoints {
            authorization_url: said.authorization_endpoint,
            token_url: said.token_endpoint,
            userinfo_url: said.userinfo_endpoint,
            revoke_url: said.revocation_endpoint,
            default_scopes: ["openid", "email", "profile"].map(str::to_owned).to_vec(),
            scope_delimiter: " ".to_owned(),
            ..OauthEndpoints::default()
        })
    }

    async fn endpoints(&self, egress: &Egress, provider: &str, new: &mut NewRegistration) -> ApiResult<OauthEndpoints> {
        let known = match &new.issuer {
            Some(issuer) => self.discovered(egress, issuer).await?,
            None => preset(provider).map(|preset| preset.endpoints()).unwrap_or_default(),
        };
        let required = |field: &str, url: Option<String>, known: String| {
            let url = url.unwrap_or(known);
            if url.is_empty() { Err(ApiError::invalid(field, "required", "is required")) } else { Ok(url) }
        };
        let known_delimiter = Some(known.scope_delimiter).filter(|delimiter| !delimiter.is_empty());
        Ok(OauthEndpoints {
            authorization_url: required("authorizationUrl", new.authorization_url.take(), known.authorization_url)?,
            token_url: required("tokenUrl", new.token_url.take(), known.token_url)?,
            userinfo_url: new.userinfo_url.take().or(known.userinfo_url),
            revoke_url: new.revoke_url.take().or(known.revoke_url),
            client_auth: new.client_auth.unwrap_or(known.client_auth),
            default_scopes: new.default_scopes.take().unwrap_or(known.default_scopes),
            scope_delimiter: new.scope_delimiter.take().or(known_delimiter).unwrap_or_else(|| " ".to_owned()),
            hosts: new.hosts.take().unwrap_or(known.hosts),
        })
    }

    async fn change_client(
        &self,
        reader: &Reader,
        provider: &str,
        command: OauthClientCommand,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let address = AggregateRef::new(Service::Integrations, reader.org.clone(), "oauth-client", provider)
            .map_err(|_| ApiError::invalid("provider", "format", "must be 1 to 64 of a-z, 0-9 and -"))?;
        self.platform.submit(&address, &command, &Actor::from(&**caller), scope).await?;
        Ok(())
    }

    async fn forget_secret(&self, reference: Option<&String>) -> ApiResult<()> {
        if let Some(reference) = reference {
            self.platform.secrets.destroy_item(reference).await?;
        }
        Ok(())
    }
}

/// List where accounts can be linked (admins)
#[utoipa::path(get, path = "/oauth/provider-configs", tag = "Accounts",
    responses((status = 200, description = "`{providerConfigs}`, without their secrets", body = Object),
        (status = 403, description = "Not an admin of the organization")))]
async fn list(State(service): State<Integrations>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Value>> {
    let reader = Reader::configuring(&caller, &scope)?;
    let mut tx = service.platform.read(&Scope::member(reader.org.clone(), &reader.user)).await?;
    let all = model::oauth_clients(&mut tx, reader.org.as_str()).await?;
    drop(tx);
    let all: Vec<Registration> = all.into_iter().map(|client| service.registration(client)).collect();
    Ok(Json(json!({ "providerConfigs": all })))
}

/// Set where accounts can be linked (admins)
///
/// Of a provider that the platform knows (github, google, microsoft, slack, notion, linear, atlassian, replit) the client is
/// enough; another one has an `issuer`, or its addresses are given.
#[utoipa::path(put, path = "/oauth/provider-configs/{provider}", tag = "Accounts", request_body = NewRegistration,
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "As it is now", body = Registration),
        (status = 400, description = "A field is not valid"), (status = 403, description = "Not an admin of the organization"),
        (status = 409, description = "It is a provider of models")))]
async fn set(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(provider): Path<String>,
    Json(mut new): Json<NewRegistration>,
) -> ApiResult<Json<Registration>> {
    let reader = Reader::configuring(&caller, &scope)?;
    if new.client_secret.as_ref().is_some_and(|secret| secret.is_empty() || secret.len() > MOST_SECRET) {
        return Err(ApiError::invalid("clientSecret", "length", "must have 1 byte to 16 KiB"));
    }
    let egress = service.egress_of(&caller, &scope).await?;
    let endpoints = service.endpoints(&egress, &provider, &mut new).await?;
    let before = service.oauth_client(&reader, &provider).await?.and_then(|client| client.secret_ref);
    let org = reader.org.to_string();
    let sealed = match &new.client_secret {
        Some(secret) => {
            let reference = format!("{}{}", client_secret_prefix(&org, &provider), Uuid::new_v4());
            let context = model::oauth_secret_context(&org, &provider);
            service.platform.secrets.put_item(&reference, &context, secret).await?;
            Some(reference)
        }
        None => None,
    };
    let name = preset(&provider).map_or(provider.as_str(), |preset| preset.name).to_owned();
    let command = SetOauthProviderConfig {
        provider: provider.clone(),
        org_id: org,
        display_name: new.display_name.unwrap_or(name),
        description: new.description,
        icon_url: new.icon_url,
        endpoints,
        client_id: new.client_id,
        secret_ref: sealed.clone().or_else(|| before.clone()),
        redirect_uris: new.redirect_uris,
        enabled: new.is_enabled,
    };
    if let Err(error) = service.change_client(&reader, &provider, command.into(), &caller, &scope).await {
        if error.status().is_client_error() {
            service.forget_secret(sealed.as_ref()).await?;
        }
        return Err(error);
    }
    if sealed.is_some() {
        service.forget_secret(before.as_ref()).await?;
    }
    let client = service.oauth_client(&reader, &provider).await?;
    Ok(Json(service.registration(client.ok_or_else(|| ApiError::not_found("Provider"))?)))
}

/// Let no more accounts be linked at a provider (admins)
///
/// Accounts that are linked stay, and are refreshed no more.
#[utoipa::path(delete, path = "/oauth/provider-configs/{provider}", tag = "Accounts",
    params(("provider" = String, Path, description = "Its name")),
    responses((status = 200, description = "`{success, provider}`", body = Object),
        (status = 403, description = "Not an admin of the organization"), (status = 404, description = "There is none")))]
async fn remove(
    State(service): State<Integrations>,
    scope: RequestScope,
    caller: Caller,
    Path(provider): Path<String>,
) -> ApiResult<Json<Value>> {
    let reader = Reader::configuring(&caller, &scope)?;
    let client = service.oauth_client(&reader, &provider).await?;
    let client = client.ok_or_else(|| ApiError::not_found("Provider"))?;
    let command = RemoveOauthProviderConfig { provider: provider.clone(), org_id: reader.org.to_string() };
    service.change_client(&reader, &provider, command.into(), &caller, &scope).await?;
    service.forget_secret(client.secret_ref.as_ref()).await?;
    Ok(Json(json!({ "success": true, "provider": provider })))
}
