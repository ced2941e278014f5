//! The vault for its users: keeping, listing, changing, sharing and deleting credentials (identity.md §8, 6.10).

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbia_commands::{
    Actor, DomainCommand,
    identity::{
        CredentialCommand, DeleteCredential, ReplaceCredentialSecret, ShareCredential, StoreCredential,
        UnshareCredential, UpdateCredential,
    },
};
use symbia_events::{AggregateRef, CommandId};
use symbia_projections::{
    Scope, identity as model,
    vault::{ItemContext, open_original},
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    access::owned_address,
    accounts::Ids,
    agent_auth::check_metadata,
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, Query, RequestScope, Validation, routes},
    platform::Consistency,
};

/// A secret shorter than this shows nothing of itself (identity.md §8.3).
const HINT_FROM: usize = 20;
const HINT: usize = 4;
/// Longest secret, in bytes.
pub(super) const SECRET_MAX: usize = 16 * 1024;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(list, store)).routes(routes!(change, delete))
}

/// The address of a credential: in its organization, or in none.
pub(super) fn aggregate(org: Option<&str>, id: &str) -> ApiResult<AggregateRef> {
    owned_address(org, "credential", id, "Credential")
}

/// The last characters of a long secret, so that its owner can tell it from others.
pub(super) fn masked(secret: &str) -> Option<String> {
    let length = secret.chars().count();
    (length >= HINT_FROM).then(|| format!("…{}", secret.chars().skip(length - HINT).collect::<String>()))
}

/// A credential, without its secret.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CredentialView {
    id: String,
    provider: String,
    name: String,
    /// The last characters of a long secret; of a short one, nothing.
    credential_prefix: Option<String>,
    is_org_wide: bool,
    org_id: Option<String>,
    /// `api_key` or `oauth_token`.
    credential_type: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
    created_at: String,
}

impl From<model::Credential> for CredentialView {
    fn from(c: model::Credential) -> Self {
        CredentialView {
            org_id: c.organization().map(str::to_owned),
            id: c.id,
            provider: c.provider,
            name: c.name,
            credential_prefix: c.masked_hint,
            is_org_wide: c.is_org_wide,
            credential_type: c.credential_type,
            expires_at: c.expires_at.map(iso),
            last_used_at: c.last_used_at.map(iso),
            created_at: iso(c.created_at),
        }
    }
}

/// A secret to keep.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewCredential {
    /// Whom it is for, e.g. `openai`.
    provider: String,
    name: String,
    /// The secret.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    api_key: Option<Zeroizing<String>>,
    /// Instead of `apiKey`: what the original platform kept, `<iv>:<tag>:<ciphertext>`.
    #[serde(default)]
    encrypted: Option<String>,
    /// The key that the original platform was configured with.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    encryption_key: Option<Zeroizing<String>>,
    /// Shared with the organization; its admins do this.
    #[serde(default)]
    is_org_wide: bool,
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

impl NewCredential {
    fn secret(&self) -> ApiResult<Zeroizing<String>> {
        let mut rules = Validation::new();
        rules.required("provider", &self.provider).length("provider", &self.provider, 1, 100);
        rules.required("name", &self.name).length("name", &self.name, 1, 100);
        check_metadata(&mut rules, &self.metadata);
        let secret = match (&self.api_key, &self.encrypted, &self.encryption_key) {
            (Some(secret), _, _) => Some(secret.clone()),
            (None, Some(stored), Some(key)) => {
                let opened = open_original(stored, key);
                rules.check(opened.is_some(), "encrypted", "format", "cannot be opened with this encryptionKey");
                Some(opened.unwrap_or_else(|| Zeroizing::new("-".to_owned())))
            }
            _ => None,
        };
        check_secret(&mut rules, secret.as_ref());
        rules.finish()?;
        Ok(secret.unwrap_or_default())
    }
}

fn check_secret(rules: &mut Validation, secret: Option<&Zeroizing<String>>) {
    rules.check(secret.is_some_and(|s| !s.is_empty()), "apiKey", "required", "is required");
    rules.check(secret.is_none_or(|s| s.len() <= SECRET_MAX), "apiKey", "length", "must have at most 16 KiB");
}

impl Identity {
    /// Keyed hash under which a user's names are unique.
    pub(super) fn name_key(&self, owner: &str, provider: &str, name: &str) -> String {
        self.platform.keys.lookup_hash("credential", &format!("{owner}\0{provider}\0{name}"))
    }

    /// Seals a secret under a new reference of a credential.
    pub(super) async fn seal(&self, context: &ItemContext<'_>, secret: &Zeroizing<String>) -> ApiResult<String> {
        let reference = format!("credential:{}:{}", context.credential_id, Uuid::new_v4());
        self.platform.secrets.put_item(&reference, context, secret).await?;
        Ok(reference)
    }

    /// Sends a command; what was sealed for it is destroyed when it is refused.
    pub(super) async fn order_credential(
        &self,
        address: &AggregateRef,
        command: impl Into<CredentialCommand>,
        actor: &Actor,
        scope: &RequestScope,
        sealed: &[&String],
    ) -> ApiResult<()> {
        let command = command.into();
        let id = CommandId::derived(scope.command_id(&actor.id), command.command_type());
        let done = self.platform.submit_as(id, address, &command, actor, scope, Consistency::Visible).await;
        let Err(error) = done else { return Ok(()) };
        if error.status().is_client_error() {
            for reference in sealed {
                self.platform.secrets.destroy_item(reference).await?;
            }
        }
        Err(error)
    }

    /// A credential of the caller. To those who cannot use it either, it does not exist.
    async fn own_credential(&self, caller: &Caller, id: &str) -> ApiResult<model::Credential> {
        caller.require_user()?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let found = model::credential(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Credential"))?;
        if found.owner_id == caller.id {
            return Ok(found);
        }
        let visible = found.is_org_wide && found.organization().is_some_and(|org| caller.belongs_to(org));
        Err(if visible {
            ApiError::new(
                axum::http::StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "Only its owner may do this with a credential",
            )
        } else {
            ApiError::not_found("Credential")
        })
    }

    async fn credential_view(&self, caller: &Caller, id: &str) -> ApiResult<Json<CredentialView>> {
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let found = model::credential(&mut tx, id).await?.ok_or_else(|| ApiError::not_found("Credential"))?;
        Ok(Json(found.into()))
    }
}

/// Keep a credential of another provider
///
/// Its secret is given to services of the platform that act for its owner, and to nobody else.
#[utoipa::path(post, path = "/credentials", tag = "Credentials", request_body = NewCredential,
    params(("X-Org-Id" = Option<String>, Header, description = "The organization it is kept for")),
    responses((status = 200, description = "The credential", body = CredentialView),
        (status = 409, description = "The caller keeps one of this name for this provider")))]
async fn store(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Json(new): Json<NewCredential>,
) -> ApiResult<Json<CredentialView>> {
    caller.require_user()?;
    let secret = new.secret()?;
    let org = if scope.org_id.is_some() || new.is_org_wide { Some(caller.org(&scope)?) } else { None };
    let role = org.as_deref().and_then(|org| caller.role_in(org));
    if org.is_some() && role.is_none() {
        return Err(ApiError::org_access_denied());
    }
    if new.is_org_wide && role != Some("admin") {
        return Err(ApiError::insufficient_role("admin"));
    }
    let id = Ids(scope.command_id(&caller.id)).of("credential");
    let (provider, name) = (new.provider.trim().to_owned(), new.name.trim().to_owned());
    let context = ItemContext {
        credential_id: &id,
        owner_id: &caller.id,
        org_id: org.as_deref(),
        provider: &provider,
        version: 1,
    };
    let secret_ref = identity.seal(&context, &secret).await?;
    let address = aggregate(org.as_deref(), &id)?;
    let command = StoreCredential {
        credential_id: id.clone(),
        owner_id: caller.id.clone(),
        org_id: org.clone(),
        name_key: identity.name_key(&caller.id, &provider, &name),
        provider: provider.clone(),
        name,
        credential_type: "api_key".to_owned(),
        is_org_wide: new.is_org_wide,
        secret_ref: secret_ref.clone(),
        refresh_ref: None,
        masked_hint: masked(&secret),
        metadata: new.metadata,
        expires_at: None,
        account_key: None,
        oauth_user_id: None,
        oauth_user_email: None,
        oauth_user_name: None,
    };
    identity.order_credential(&address, command, &Actor::from(&*caller), &scope, &[&secret_ref]).await?;
    identity.credential_view(&caller, &id).await
}

/// Which credentials to list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Which {
    /// `org`: those that are shared with the organization of the request. Else the caller's own.
    #[serde(default)]
    scope: Option<String>,
}

/// List the caller's credentials, or those shared with the organization
#[utoipa::path(get, path = "/credentials", tag = "Credentials", params(Which),
    responses((status = 200, description = "Without their secrets, the oldest first", body = Vec<CredentialView>)))]
async fn list(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Query(which): Query<Which>,
) -> ApiResult<Json<Vec<CredentialView>>> {
    caller.require_user()?;
    let found = match which.scope.as_deref() {
        None | Some("own") => {
            let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
            model::credentials_of(&mut tx, &caller.id).await?
        }
        Some("org") => {
            let org = caller.org(&scope)?;
            if caller.role_in(&org).is_none() {
                return Err(ApiError::org_access_denied());
            }
            let tenant = org.parse().map_err(|_| ApiError::org_access_denied())?;
            let mut tx = identity.platform.read(&Scope::member(tenant, &caller.id)).await?;
            model::credentials_of_org(&mut tx, &org).await?
        }
        Some(_) => return Err(ApiError::invalid("scope", "enum", "must be own or org")),
    };
    Ok(Json(found.into_iter().map(CredentialView::from).collect()))
}

/// Changes of a credential; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Changes {
    #[serde(default)]
    name: Option<String>,
    /// Another secret.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = Password)]
    api_key: Option<Zeroizing<String>>,
    /// Shares it with the organization it is kept for, or no longer.
    #[serde(default)]
    is_org_wide: Option<bool>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// Rename a credential, replace its secret, share it or stop sharing it (its owner)
#[utoipa::path(patch, path = "/credentials/{id}", tag = "Credentials", request_body = Changes,
    params(("id" = String, Path, description = "Id of the credential")),
    responses((status = 200, description = "The credential", body = CredentialView)))]
async fn change(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
    Json(changes): Json<Changes>,
) -> ApiResult<Json<CredentialView>> {
    let found = identity.own_credential(&caller, &id).await?;
    let mut rules = Validation::new();
    if let Some(name) = &changes.name {
        rules.required("name", name).length("name", name, 1, 100);
    }
    if changes.api_key.is_some() {
        check_secret(&mut rules, changes.api_key.as_ref());
    }
    if let Some(metadata) = &changes.metadata {
        check_metadata(&mut rules, metadata);
    }
    let kept_for_none = changes.is_org_wide == Some(true) && found.organization().is_none();
    rules.check(!kept_for_none, "isOrgWide", "org", "needs an organization: keep the credential anew with X-Org-Id");
    rules.finish()?;
    let (address, actor) = (aggregate(found.organization(), &id)?, Actor::from(&*caller));
    match (changes.is_org_wide, found.organization()) {
        (Some(true), Some(org)) => {
            let share = ShareCredential { credential_id: id.clone(), org_id: org.to_owned() };
            identity.order_credential(&address, share, &actor, &scope, &[]).await?;
        }
        (Some(false), _) => {
            let unshare = UnshareCredential { credential_id: id.clone() };
            identity.order_credential(&address, unshare, &actor, &scope, &[]).await?;
        }
        _ => {}
    }
    if changes.name.is_some() || changes.metadata.is_some() {
        let name = changes.name.map(|name| name.trim().to_owned());
        let name_key = name.as_ref().map(|name| identity.name_key(&caller.id, &found.provider, name));
        let update = UpdateCredential { credential_id: id.clone(), name, name_key, metadata: changes.metadata };
        identity.order_credential(&address, update, &actor, &scope, &[]).await?;
    }
    if let Some(secret) = &changes.api_key {
        identity.replace_secret(&found, secret, None, None, &actor, &scope).await?;
    }
    identity.credential_view(&caller, &id).await
}

impl Identity {
    /// Keeps another secret in place of a credential's, and destroys the one before.
    pub(super) async fn replace_secret(
        &self,
        found: &model::Credential,
        secret: &Zeroizing<String>,
        refresh: Option<&Zeroizing<String>>,
        expires_at: Option<String>,
        actor: &Actor,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let version = found.version.unsigned_abs() + 1;
        let context = ItemContext { version, ..found.context() };
        let secret_ref = self.seal(&context, secret).await?;
        let refresh_ref = match refresh {
            Some(refresh) => Some(self.seal(&context, refresh).await?),
            None => None,
        };
        let replace = ReplaceCredentialSecret {
            credential_id: found.id.clone(),
            secret_ref: secret_ref.clone(),
            refresh_ref: refresh_ref.clone(),
            masked_hint: masked(secret),
            expires_at,
            version,
        };
        let address = aggregate(found.organization(), &found.id)?;
        let sealed: Vec<&String> = [&secret_ref].into_iter().chain(&refresh_ref).collect();
        self.order_credential(&address, replace, actor, scope, &sealed).await?;
        self.forget(found).await
    }

    /// Destroys the secrets of a credential as it was read.
    pub(super) async fn forget(&self, found: &model::Credential) -> ApiResult<()> {
        for reference in [&found.secret_ref].into_iter().chain(&found.refresh_ref) {
            self.platform.secrets.destroy_item(reference).await?;
        }
        Ok(())
    }
}

/// Delete a credential and destroy its secret (its owner)
#[utoipa::path(delete, path = "/credentials/{id}", tag = "Credentials",
    params(("id" = String, Path, description = "Id of the credential")),
    responses((status = 200, description = "Deleted", body = Msg)))]
async fn delete(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let found = identity.own_credential(&caller, &id).await?;
    let (address, actor) = (aggregate(found.organization(), &id)?, Actor::from(&*caller));
    let delete = DeleteCredential { credential_id: id };
    identity.order_credential(&address, delete, &actor, &scope, &[]).await?;
    identity.forget(&found).await?;
    Ok(Json(Msg { message: "Credential deleted" }))
}

#[cfg(test)]
mod tests {
    use super::masked;

    #[test]
    fn only_a_long_secret_shows_its_last_characters() {
        assert_eq!(masked(&"x".repeat(19)), None);
        assert_eq!(masked("sk-0123456789abcdefghi").as_deref(), Some("…fghi"));
    }
}
