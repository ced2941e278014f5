//! API keys: minting, listing, revoking, rotating, verifying (identity.md §4.7, 4.9, 6.8).

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor, DomainCommand,
    identity::{ApiKeyCommand, CreateApiKey, DeleteApiKey, RevokeApiKey, RotateApiKey},
};
use symbia_events::{AggregateRef, CommandId, OrgId};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    access::owned_address,
    shapes::{EnrichedUser, Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, AuthError, Caller, Json, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

/// What every key begins with.
pub(super) const PREFIX: &str = "sk_";
const WARNING: &str = "Keep this key now: it is not shown again.";

pub(super) fn routes() -> OpenApiRouter<Identity> {
    use axum::routing::{get, post};
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(read, delete))
        .routes(routes!(revoke))
        .routes(routes!(rotate))
        .routes(routes!(verify))
        .route("/auth/keys", get(list).post(create))
        .route("/auth/keys/{id}", get(read).delete(delete))
        .route("/auth/keys/{id}/revoke", post(revoke))
        .route("/auth/keys/{id}/rotate", post(rotate))
}

/// The address of a key: in its organization, or in none.
pub(super) fn aggregate(org: Option<&str>, id: &str) -> ApiResult<AggregateRef> {
    owned_address(org, "api-key", id, "API key")
}

/// An API key, without the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApiKeyView {
    id: String,
    name: String,
    /// `sk_` and the first eight digits.
    key_prefix: String,
    org_id: Option<String>,
    /// What it is limited to; empty = all that its creator may do.
    scopes: Vec<String>,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    revoked_at: Option<String>,
    created_at: String,
}

impl From<model::ApiKey> for ApiKeyView {
    fn from(k: model::ApiKey) -> Self {
        ApiKeyView {
            org_id: k.organization().map(str::to_owned),
            id: k.id,
            name: k.name,
            key_prefix: k.key_prefix,
            scopes: k.scopes,
            expires_at: k.expires_at.map(iso),
            last_used_at: k.last_used_at.map(iso),
            revoked_at: k.revoked_at.map(iso),
            created_at: iso(k.created_at),
        }
    }
}

/// A new API key, shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApiKeyMinted {
    id: String,
    name: String,
    /// The key.
    key: String,
    key_prefix: String,
    org_id: Option<String>,
    scopes: Vec<String>,
    expires_at: Option<String>,
    created_at: String,
    /// The key that it follows.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_from: Option<String>,
    /// That it is not shown again.
    #[serde(rename = "_warning")]
    warning: &'static str,
}

/// A key to mint.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewApiKey {
    name: String,
    /// For this organization only; its admins make such keys.
    #[serde(default)]
    org_id: Option<String>,
    /// What it is limited to.
    #[serde(default)]
    scopes: Vec<String>,
    /// ISO 8601 in UTC.
    #[serde(default)]
    expires_at: Option<String>,
    /// Instead of `expiresAt`.
    #[serde(default)]
    expires_in_days: Option<u32>,
}

impl NewApiKey {
    fn check(&self) -> ApiResult<Option<OffsetDateTime>> {
        let mut rules = Validation::new();
        rules.required("name", &self.name).length("name", &self.name, 1, 100);
        let scopes =
            self.scopes.len() <= 100 && self.scopes.iter().all(|s| !s.trim().is_empty() && s.chars().count() <= 200);
        rules.check(scopes, "scopes", "length", "must be at most 100, each of 1 to 200 characters");
        let at = self.expires_at.as_deref().map(|text| OffsetDateTime::parse(text, &Rfc3339));
        let utc = self.expires_at.as_deref().is_none_or(|text| text.ends_with('Z'));
        rules.check(utc && at.is_none_or(|at| at.is_ok()), "expiresAt", "format", "must be ISO 8601 in UTC, with Z");
        let days = self.expires_in_days.is_none_or(|days| (1..=3650).contains(&days));
        rules.check(days, "expiresInDays", "range", "must be 1 to 3650").finish()?;
        let days = self.expires_in_days.map(|days| OffsetDateTime::now_utc() + Duration::days(i64::from(days)));
        Ok(at.and_then(Result::ok).or(days))
    }
}

/// What a key is made of.
struct Minting {
    name: String,
    org: Option<String>,
    scopes: Vec<String>,
    expires_at: Option<OffsetDateTime>,
    rotated_from: Option<String>,
}

impl Identity {
    /// Hash under which a key is found.
    pub(super) fn key_hash(&self, key: &str) -> String {
        self.directory.key_hash(key)
    }

    async fn mint(&self, minting: Minting, caller: &Caller, scope: &RequestScope) -> ApiResult<ApiKeyMinted> {
        // Not derived from an idempotency key: a key is given out once.
        let id = Uuid::new_v4().to_string();
        let digits: Zeroizing<String> =
            Zeroizing::new(rand::random::<[u8; 32]>().iter().map(|byte| format!("{byte:02x}")).collect());
        let key = Zeroizing::new(format!("{PREFIX}{}", *digits));
        let key_prefix = key[..11].to_owned();
        let command = ApiKeyCommand::from(CreateApiKey {
            key_id: id.clone(),
            name: minting.name.clone(),
            key_prefix: key_prefix.clone(),
            key_hash: self.key_hash(&key),
            org_id: minting.org.clone(),
            scopes: minting.scopes.clone(),
            expires_at: minting.expires_at.map(|at| at.format(&Rfc3339).unwrap_or_default()),
            rotated_from: minting.rotated_from.clone(),
        });
        let (address, actor) = (aggregate(minting.org.as_deref(), &id)?, Actor::from(&**caller));
        self.platform.submit_as(CommandId::random(), &address, &command, &actor, scope, Consistency::Visible).await?;
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let made = model::api_key(&mut tx, &id).await?.ok_or_else(|| ApiError::not_found("API key"))?;
        Ok(ApiKeyMinted {
            id,
            name: made.name,
            key: key.to_string(),
            key_prefix,
            org_id: minting.org,
            scopes: made.scopes,
            expires_at: made.expires_at.map(iso),
            created_at: iso(made.created_at),
            rotated_from: minting.rotated_from,
            warning: WARNING,
        })
    }

    /// A key that is the caller's, or an operator's to end. To those who share no organization with it, it does not exist.
    async fn own_key(&self, caller: &Caller, scope: &RequestScope, id: &str) -> ApiResult<model::ApiKey> {
        caller.require_user()?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let key = model::api_key(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("API key"))?;
        if key.created_by == caller.id {
            return Ok(key);
        }
        if caller.is_super_admin {
            caller.enters(key.organization().unwrap_or(OrgId::GLOBAL), scope)?;
            return Ok(key);
        }
        if key.organization().is_some_and(|org| caller.belongs_to(org)) {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "Only its creator may do this with an API key",
            ));
        }
        Err(ApiError::not_found("API key"))
    }

    async fn order_key(
        &self,
        key: &model::ApiKey,
        command: impl Into<ApiKeyCommand>,
        caller: &Caller,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let command = command.into();
        let id = CommandId::derived(scope.command_id(&caller.id), command.command_type());
        let (address, actor) = (aggregate(key.organization(), &key.id)?, Actor::from(&**caller));
        self.platform.submit_as(id, &address, &command, &actor, scope, Consistency::Visible).await?;
        Ok(())
    }
}

/// Mint an API key; it is shown once
///
/// It acts for its creator, and within its scopes where it has some.
#[utoipa::path(post, path = "/api-keys", tag = "API keys", request_body = NewApiKey,
    responses((status = 200, description = "The key", body = ApiKeyMinted),
        (status = 403, description = "Not an admin of the organization")))]
async fn create(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewApiKey>,
) -> ApiResult<Json<ApiKeyMinted>> {
    caller.require_user()?;
    let expires_at = new.check()?;
    if let Some(org) = &new.org_id {
        // To a stranger an organization that exists answers like one that does not.
        match caller.role_in(org) {
            Some("admin") => {}
            Some(_) => return Err(ApiError::insufficient_role("admin")),
            None => return Err(ApiError::org_access_denied()),
        }
    }
    let (name, org) = (new.name.trim().to_owned(), new.org_id);
    let minting = Minting { name, org, scopes: new.scopes, expires_at, rotated_from: None };
    Ok(Json(identity.mint(minting, &caller, &scope).await?))
}

/// List the caller's API keys, revoked ones included
#[utoipa::path(get, path = "/api-keys", tag = "API keys",
    responses((status = 200, description = "The oldest first", body = Vec<ApiKeyView>)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Vec<ApiKeyView>>> {
    caller.require_user()?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let keys = model::api_keys_of(&mut tx, &caller.id).await?;
    Ok(Json(keys.into_iter().map(ApiKeyView::from).collect()))
}

/// Read an API key (its creator, super admins)
#[utoipa::path(get, path = "/api-keys/{id}", tag = "API keys", params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, description = "Without the key itself", body = ApiKeyView)))]
async fn read(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<ApiKeyView>> {
    Ok(Json(identity.own_key(&caller, &scope, &id).await?.into()))
}

/// Revoke an API key, for ever and at once (its creator, super admins)
#[utoipa::path(post, path = "/api-keys/{id}/revoke", tag = "API keys",
    params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, description = "Revoked", body = Msg),
        (status = 400, description = "It was revoked before")))]
async fn revoke(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let key = identity.own_key(&caller, &scope, &id).await?;
    identity.order_key(&key, RevokeApiKey { key_id: id, reason: None }, &caller, &scope).await?;
    Ok(Json(Msg { message: "API key revoked" }))
}

/// How to rotate.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Rotation {
    /// For so many seconds the key before goes on working; 0 unless said, at most 7 days.
    #[serde(default)]
    grace_seconds: Option<u32>,
}

/// Mint a key in place of another one (its creator)
#[utoipa::path(post, path = "/api-keys/{id}/rotate", tag = "API keys", request_body = Rotation,
    params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, description = "The new key", body = ApiKeyMinted),
        (status = 400, description = "It was revoked before")))]
async fn rotate(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(rotation): Json<Rotation>,
) -> ApiResult<Json<ApiKeyMinted>> {
    let key = identity.own_key(&caller, &scope, &id).await?;
    let (grace, now) = (i64::from(rotation.grace_seconds.unwrap_or(0)), OffsetDateTime::now_utc());
    let most = Duration::days(7).whole_seconds();
    Validation::new().check(grace <= most, "graceSeconds", "range", "must be at most 604800").finish()?;
    if key.is_revoked(now) {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "ALREADY_REVOKED", "The API key was revoked before"));
    }
    let minting = Minting {
        name: key.name.clone(),
        org: key.organization().map(str::to_owned),
        scopes: key.scopes.clone(),
        expires_at: key.expires_at,
        rotated_from: Some(id.clone()),
    };
    let minted = identity.mint(minting, &caller, &scope).await?;
    let grace_until = (grace > 0).then(|| (now + Duration::seconds(grace)).format(&Rfc3339).unwrap_or_default());
    let command = RotateApiKey { key_id: id, new_key_id: minted.id.clone(), grace_until };
    if let Err(error) = identity.order_key(&key, command, &caller, &scope).await {
        // Revoked meanwhile: what came to replace it goes as well.
        let address = aggregate(minted.org_id.as_deref(), &minted.id)?;
        let undo = ApiKeyCommand::from(DeleteApiKey { key_id: minted.id });
        let actor = Actor::from(&*caller);
        let id = CommandId::random();
        identity.platform.submit_as(id, &address, &undo, &actor, &scope, Consistency::Eventual).await?;
        return Err(error);
    }
    Ok(Json(minted))
}

/// Delete an API key (its creator, super admins)
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "API keys",
    params(("id" = String, Path, description = "Id of the key")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let key = identity.own_key(&caller, &scope, &id).await?;
    identity.order_key(&key, DeleteApiKey { key_id: id }, &caller, &scope).await?;
    Ok(Json(Msg { message: "API key deleted" }))
}

/// A key to look at.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Verification {
    /// The key; the `X-API-Key` header does as well.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    api_key: Option<Zeroizing<String>>,
}

/// What a key stands for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", untagged)]
enum Verified {
    /// It is not accepted.
    #[serde(rename_all = "camelCase")]
    No {
        valid: bool,
        /// Why.
        error: &'static str,
    },
    /// It is accepted.
    #[serde(rename_all = "camelCase")]
    Yes {
        valid: bool,
        key_id: String,
        name: String,
        org_id: Option<String>,
        scopes: Vec<String>,
        created_by: String,
        /// The creator, with the rights that the key has.
        creator: Box<EnrichedUser>,
    },
}

/// Ask what an API key stands for
///
/// The creator's rights are already cut down to the scopes. In the header form an unknown key is answered with 401.
#[utoipa::path(post, path = "/auth/verify-api-key", tag = "API keys", security(()), request_body = Verification,
    params(("X-API-Key" = Option<String>, Header, description = "The key, unless it is in the body")),
    responses((status = 200, description = "`valid` tells whether it is accepted", body = Verified),
        (status = 401, description = "The key in the header is not accepted")))]
async fn verify(
    State(identity): State<Identity>,
    headers: HeaderMap,
    body: Result<Json<Verification>, ApiError>,
) -> ApiResult<Json<Verified>> {
    let given = body.ok().and_then(|Json(body)| body.api_key).filter(|key| !key.is_empty());
    let by_header = given.is_none() && headers.contains_key("x-api-key");
    let header = || headers.get("x-api-key").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let key = given.unwrap_or_else(|| Zeroizing::new(header().to_owned()));
    let no = |error| Ok(Json(Verified::No { valid: false, error }));
    if key.trim().is_empty() {
        return if by_header { Err(ApiError::api_key_invalid()) } else { no("The API key is missing") };
    }
    let refused = match identity.directory.identify_key(key.trim()).await {
        Ok((principal, key)) => {
            return Ok(Json(Verified::Yes {
                valid: true,
                org_id: key.organization().map(str::to_owned),
                key_id: key.id,
                name: key.name,
                scopes: key.scopes,
                created_by: key.created_by,
                creator: Box::new(EnrichedUser::from(&principal)),
            }));
        }
        Err(AuthError::Unavailable) => return Err(ApiError::unavailable("The directory", 2)),
        Err(AuthError::Revoked) => "The API key was revoked",
        Err(AuthError::Expired) => "The API key has expired",
        Err(_) => "The API key is not valid",
    };
    if by_header { Err(ApiError::api_key_invalid()) } else { no(refused) }
}
