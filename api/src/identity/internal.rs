//! The vault for the platform's services: giving out secrets, keeping OAuth tokens (identity.md §8.3, 6.10). What is given
//! out, or refused to a service, is on record before it is.

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::identity::{CredentialCommand, DeleteCredential, ReleaseCredential, StoreCredential};
use symbia_events::{CommandId, SubjectKey};
use symbia_projections::{Scope, identity as model, vault::ItemContext};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    credentials::{SECRET_MAX, aggregate, masked},
    service_auth::Acting,
    shapes::iso,
};
use crate::{
    http::{ApiError, ApiResult, Json, OptionalCaller, Path, RequestScope, Validation, routes},
    platform::Consistency,
};

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(for_provider))
        .routes(routes!(by_id))
        .routes(routes!(store_oauth))
        .routes(routes!(delete))
}

/// A credential with its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DecryptedCredential {
    /// The secret.
    #[schema(value_type = String)]
    api_key: Zeroizing<String>,
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
    credential_id: String,
    /// It is another one's, shared with the organization.
    is_proxy: bool,
    owner_id: String,
    is_org_wide: bool,
    credential_type: String,
    expires_at: Option<String>,
}

fn unknown() -> ApiError {
    ApiError::not_found("Credential")
}

impl Identity {
    async fn release(
        &self,
        found: model::Credential,
        acting: &Acting,
        scope: &RequestScope,
    ) -> ApiResult<Json<DecryptedCredential>> {
        let address = aggregate(found.organization(), &found.id)?;
        let command = CredentialCommand::from(ReleaseCredential {
            credential_id: found.id.clone(),
            purpose: acting.purpose.clone(),
        });
        let id = CommandId::random();
        let done = self.platform.submit_as(id, &address, &command, &acting.actor, scope, Consistency::Eventual).await?;
        if !done.has("credential-released") {
            // It says no more than that there is none.
            return Err(unknown());
        }
        let secret = self.platform.secrets.item(&found.secret_ref, &found.context()).await?.ok_or_else(unknown)?;
        Ok(Json(DecryptedCredential {
            api_key: secret,
            is_proxy: found.owner_id != acting.principal,
            metadata: found.metadata,
            credential_id: found.id,
            owner_id: found.owner_id,
            is_org_wide: found.is_org_wide,
            credential_type: found.credential_type,
            expires_at: found.expires_at.map(iso),
        }))
    }
}

/// Get a principal's secret for a provider: its own, else one shared with the organization (services)
#[utoipa::path(get, path = "/internal/credentials/{id}/{provider}", tag = "Internal",
    params(("id" = String, Path, description = "The principal that the service acts for"),
        ("provider" = String, Path, description = "Whom the credential is for"),
        ("X-Service-Auth" = String, Header, description = "The service's signed token"),
        ("X-Org-Id" = Option<String>, Header, description = "Whose shared credentials count as well")),
    responses((status = 200, description = "The secret; its release is on record", body = DecryptedCredential),
        (status = 403, description = "Not a service, or not acting for this principal")))]
async fn for_provider(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path((principal, provider)): Path<(String, String)>,
) -> ApiResult<Json<DecryptedCredential>> {
    let acting = identity.acting(&headers, caller).await?;
    if principal != acting.principal {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The service acts for another principal"));
    }
    // Not to be a member is decided by the credential, and on record.
    let org = scope.org_id.as_deref();
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::credential_for(&mut tx, &principal, org, &provider).await?.ok_or_else(unknown)?;
    drop(tx);
    identity.release(found, &acting, &scope).await
}

/// Get the secret of a credential (services)
#[utoipa::path(get, path = "/internal/credentials/by-id/{credentialId}", tag = "Internal",
    params(("credentialId" = String, Path, description = "Id of the credential"),
        ("X-Service-Auth" = String, Header, description = "The service's signed token")),
    responses((status = 200, description = "The secret; its release is on record", body = DecryptedCredential),
        (status = 403, description = "Not a service")))]
async fn by_id(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path(id): Path<String>,
) -> ApiResult<Json<DecryptedCredential>> {
    let acting = identity.acting(&headers, caller).await?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::credential(&mut tx, &id).await?.ok_or_else(unknown)?;
    drop(tx);
    identity.release(found, &acting, &scope).await
}

/// Tokens of an account at another provider.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OauthTokens {
    /// The user that the service acts for.
    #[serde(default)]
    user_id: String,
    #[serde(default)]
    org_id: Option<String>,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    #[schema(value_type = String, format = Password)]
    access_token: Zeroizing<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    refresh_token: Option<Zeroizing<String>>,
    #[serde(default)]
    expires_at: Option<String>,
    #[serde(default)]
    oauth_user_id: Option<String>,
    #[serde(default)]
    oauth_user_email: Option<String>,
    #[serde(default)]
    oauth_user_name: Option<String>,
}

impl OauthTokens {
    fn check(&self) -> ApiResult<()> {
        let mut rules = Validation::new();
        rules.required("userId", &self.user_id).required("provider", &self.provider);
        rules.length("provider", &self.provider, 0, 90);
        rules.required("accessToken", &self.access_token);
        let short = |secret: &Zeroizing<String>| secret.len() <= SECRET_MAX;
        rules.check(short(&self.access_token), "accessToken", "length", "must have at most 16 KiB");
        rules.check(
            self.refresh_token.as_ref().is_none_or(short),
            "refreshToken",
            "length",
            "must have at most 16 KiB",
        );
        rules.finish()
    }
}

/// Kept tokens.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct KeptTokens {
    credential_id: String,
    provider: String,
    expires_at: Option<String>,
}

/// Keep the tokens of an account at another provider, or replace them (services)
#[utoipa::path(post, path = "/internal/credentials/oauth", tag = "Internal", request_body = OauthTokens,
    params(("X-Service-Auth" = String, Header, description = "The service's signed token")),
    responses((status = 200, description = "Kept", body = KeptTokens),
        (status = 403, description = "Not a service, or not acting for this user")))]
async fn store_oauth(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Json(tokens): Json<OauthTokens>,
) -> ApiResult<Json<KeptTokens>> {
    let acting = identity.acting(&headers, caller).await?;
    tokens.check()?;
    if tokens.user_id != acting.principal {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The service acts for another principal"));
    }
    let provider = tokens.provider.trim();
    let account_key = tokens.oauth_user_id.as_ref().map(|account| {
        identity.platform.keys.lookup_hash("oauth-account", &format!("{}\0{provider}\0{account}", tokens.user_id))
    });
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let kept = model::credentials_of(&mut tx, &tokens.user_id).await?;
    drop(tx);
    // Of this user, this provider and this account only: never what others share with them.
    let same = |c: &&model::Credential| {
        c.provider == provider && c.credential_type == "oauth_token" && c.account_key == account_key
    };
    let credential_id = match kept.iter().find(same) {
        Some(found) => {
            let (access, refresh) = (&tokens.access_token, tokens.refresh_token.as_ref());
            let end = tokens.expires_at.clone();
            identity.replace_secret(found, access, refresh, end, &acting.actor, &scope).await?;
            found.id.clone()
        }
        None => identity.keep_tokens(&tokens, account_key, &kept, &acting, &scope).await?,
    };
    Ok(Json(KeptTokens { credential_id, provider: provider.to_owned(), expires_at: tokens.expires_at }))
}

impl Identity {
    async fn keep_tokens(
        &self,
        tokens: &OauthTokens,
        account_key: Option<String>,
        kept: &[model::Credential],
        acting: &Acting,
        scope: &RequestScope,
    ) -> ApiResult<String> {
        let (id, owner, provider) = (Uuid::new_v4().to_string(), &tokens.user_id, tokens.provider.trim());
        let (org, version) = (tokens.org_id.as_deref(), 1);
        let context = ItemContext { credential_id: &id, owner_id: owner, org_id: org, provider, version };
        let secret_ref = self.seal(&context, &tokens.access_token).await?;
        let refresh_ref = match &tokens.refresh_token {
            Some(refresh) => Some(self.seal(&context, refresh).await?),
            None => None,
        };
        let key = self.platform.secrets.subject_key(owner).await?;
        let sealed = |text: &Option<String>| key.as_ref().zip(text.as_ref()).map(|(k, t)| SubjectKey::seal(k, t));
        // A second account of the same provider has a name of its own.
        let plain = format!("{provider} OAuth");
        let taken = kept.iter().any(|c| c.provider == provider && c.name == plain);
        let name = if taken { format!("{plain} {}", &id[..8]) } else { plain };
        let command = StoreCredential {
            credential_id: id.clone(),
            owner_id: owner.clone(),
            org_id: tokens.org_id.clone(),
            name_key: self.name_key(owner, provider, &name),
            provider: provider.to_owned(),
            name,
            credential_type: "oauth_token".to_owned(),
            is_org_wide: false,
            secret_ref: secret_ref.clone(),
            refresh_ref: refresh_ref.clone(),
            masked_hint: masked(&tokens.access_token),
            metadata: Map::new(),
            expires_at: tokens.expires_at.clone(),
            account_key,
            oauth_user_id: sealed(&tokens.oauth_user_id),
            oauth_user_email: sealed(&tokens.oauth_user_email),
            oauth_user_name: sealed(&tokens.oauth_user_name),
        };
        let refs: Vec<&String> = [&secret_ref].into_iter().chain(&refresh_ref).collect();
        self.order_credential(&aggregate(org, &id)?, command, &acting.actor, scope, &refs).await?;
        Ok(id)
    }
}

/// A credential is gone.
#[derive(Serialize, ToSchema)]
struct Gone {
    success: bool,
    message: &'static str,
}

/// Delete a credential of the user that the service acts for (services)
#[utoipa::path(delete, path = "/internal/credentials/{id}", tag = "Internal",
    params(("id" = String, Path, description = "Id of the credential"),
        ("X-Service-Auth" = String, Header, description = "The service's signed token"),
        ("X-User-Id" = Option<String>, Header, description = "If it is there, the owner")),
    responses((status = 200, description = "Deleted", body = Gone), (status = 403, description = "Not a service")))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Result<OptionalCaller, ApiError>,
    Path(id): Path<String>,
) -> ApiResult<Json<Gone>> {
    let acting = identity.acting(&headers, caller).await?;
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let found = model::credential(&mut tx, &id).await?.filter(|c| c.owner_id == acting.principal);
    drop(tx);
    let found = found.ok_or_else(unknown)?;
    if headers.get("x-user-id").is_some_and(|user| user.as_bytes() != found.owner_id.as_bytes()) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "FORBIDDEN", "The credential belongs to another user"));
    }
    let delete = DeleteCredential { credential_id: id };
    let address = aggregate(found.organization(), &found.id)?;
    identity.order_credential(&address, delete, &acting.actor, &scope, &[]).await?;
    identity.forget(&found).await?;
    Ok(Json(Gone { success: true, message: "Credential deleted" }))
}
