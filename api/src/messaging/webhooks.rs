//! Where software that takes part from outside is told of what it is asked (messaging.md §8.12). Its secret is shown once.

use axum::{extract::State, http::StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    messaging::{RegisterWebhook, RemoveWebhook, WebhookCommand, webhook_secret_prefix},
};
use symbia_events::{AggregateRef, OrgId, Service, messaging::WEBHOOK_SECRET};
use symbia_projections::{Scope, messaging as model};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Messaging;
use crate::{
    http::{ApiError, ApiResult, Caller, Json, Path, RequestScope, routes},
    iso,
};

/// Bytes of a secret.
const SECRET_BYTES: usize = 32;

pub(super) fn routes() -> OpenApiRouter<Messaging> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(read, register, remove))
}

/// Where somebody is told.
#[derive(Deserialize, ToSchema)]
struct NewWebhook {
    /// An http or https URL, without user and password.
    url: String,
}

/// Where somebody is told.
#[derive(Serialize, ToSchema)]
struct WebhookRow {
    /// Whose.
    user_id: String,
    org_id: String,
    url: String,
    registered_by: String,
    registered_at: String,
}

impl From<model::Webhook> for WebhookRow {
    fn from(row: model::Webhook) -> Self {
        WebhookRow {
            user_id: row.id,
            org_id: row.org_id,
            url: row.url,
            registered_by: row.registered_by,
            registered_at: iso(row.registered_at),
        }
    }
}

/// Where somebody is told from now on.
#[derive(Serialize, ToSchema)]
struct Registered {
    #[serde(flatten)]
    webhook: WebhookRow,
    /// Signs what is sent (Standard Webhooks). It is not shown again.
    secret: String,
}

/// All of an organization.
#[derive(Serialize, ToSchema)]
struct Webhooks {
    webhooks: Vec<WebhookRow>,
}

fn no_webhook() -> ApiError {
    ApiError::not_found("Webhook")
}

/// The organization that is asked about, and the webhook's address in it.
fn address(caller: &Caller, scope: &RequestScope, user: &str) -> ApiResult<(OrgId, AggregateRef)> {
    let org: OrgId = caller.org(scope)?.parse().map_err(|_| ApiError::org_access_denied())?;
    let to = AggregateRef::new(Service::Messaging, org.clone(), "webhook", user).map_err(|_| no_webhook())?;
    Ok((org, to))
}

fn leads(caller: &Caller, org: &OrgId) -> bool {
    caller.is_super_admin || caller.organizations.iter().any(|o| o.id == org.as_str() && o.role == "admin")
}

impl Messaging {
    // One's own, or anybody's for an admin; what others may not see is not there.
    async fn webhook(&self, caller: &Caller, org: &OrgId, user: &str) -> ApiResult<model::Webhook> {
        if user != caller.id && !leads(caller, org) {
            return Err(no_webhook());
        }
        let mut tx = self.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
        let found = model::webhooks_of(&mut tx, org.as_str(), &[user.to_owned()]).await?.pop();
        found.ok_or_else(no_webhook)
    }

    async fn register(
        &self,
        caller: &Caller,
        scope: &RequestScope,
        user: String,
        new: NewWebhook,
    ) -> ApiResult<Registered> {
        let (org, to) = address(caller, scope, &user)?;
        let former = self.webhook(caller, &org, &user).await.ok();
        let bytes = Zeroizing::new(rand::random::<[u8; SECRET_BYTES]>());
        let secret = Zeroizing::new(format!("{WEBHOOK_SECRET}{}", BASE64.encode(bytes.as_ref())));
        let secret_ref = format!("{}{}", webhook_secret_prefix(org.as_str(), &user), Uuid::now_v7());
        self.platform.secrets.put_secret(&secret_ref, &secret).await?;
        let command = RegisterWebhook {
            principal_id: user.clone(),
            org_id: org.to_string(),
            url: new.url,
            secret_ref: secret_ref.clone(),
        };
        let done = self.platform.submit(&to, &WebhookCommand::from(command), &Actor::from(&**caller), scope).await;
        if let Err(error) = done {
            self.platform.secrets.destroy_secret(&secret_ref).await?;
            return Err(error);
        }
        if let Some(former) = former {
            self.platform.secrets.destroy_secret(&former.secret_ref).await?;
        }
        let webhook = self.webhook(caller, &org, &user).await?.into();
        Ok(Registered { webhook, secret: secret.to_string() })
    }
}

/// Have an agent told of what it is asked in conversations (the agent itself, admins of the organization)
///
/// Each message of a person to it is posted there, unless a node of its own on the mesh has taken it: signed as in Standard
/// Webhooks, with the same `webhook-id` at every attempt. To register it again gives it a new secret.
#[utoipa::path(put, path = "/webhooks/{userId}", tag = "Webhooks", request_body = NewWebhook,
    params(("userId" = String, Path, description = "Id of the agent, as it takes part in conversations")),
    responses((status = 200, description = "Where it is told, with its secret", body = Registered),
        (status = 400, description = "The URL cannot be used"), (status = 403, description = "The caller may not")))]
async fn register(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(user): Path<String>,
    Json(new): Json<NewWebhook>,
) -> ApiResult<Json<Registered>> {
    Ok(Json(messaging.register(&caller, &scope, user, new).await?))
}

/// Read where an agent is told (the agent itself, admins of the organization)
#[utoipa::path(get, path = "/webhooks/{userId}", tag = "Webhooks",
    params(("userId" = String, Path, description = "Id of the agent")),
    responses((status = 200, description = "Where it is told", body = WebhookRow),
        (status = 404, description = "There is none, or not for the caller")))]
async fn read(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(user): Path<String>,
) -> ApiResult<Json<WebhookRow>> {
    let (org, _) = address(&caller, &scope, &user)?;
    Ok(Json(messaging.webhook(&caller, &org, &user).await?.into()))
}

/// Have an agent told no more (the agent itself, admins of the organization)
#[utoipa::path(delete, path = "/webhooks/{userId}", tag = "Webhooks",
    params(("userId" = String, Path, description = "Id of the agent")),
    responses((status = 204, description = "It is told no more"),
        (status = 404, description = "There is none, or not for the caller")))]
async fn remove(
    State(messaging): State<Messaging>,
    scope: RequestScope,
    caller: Caller,
    Path(user): Path<String>,
) -> ApiResult<StatusCode> {
    let (org, to) = address(&caller, &scope, &user)?;
    let former = messaging.webhook(&caller, &org, &user).await?;
    let command = WebhookCommand::from(RemoveWebhook { principal_id: user });
    messaging.platform.submit(&to, &command, &Actor::from(&*caller), &scope).await?;
    messaging.platform.secrets.destroy_secret(&former.secret_ref).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// List where the agents of an organization are told (its admins)
#[utoipa::path(get, path = "/webhooks", tag = "Webhooks",
    responses((status = 200, description = "By the agents' ids", body = Webhooks),
        (status = 403, description = "The caller does not administer the organization")))]
async fn list(State(messaging): State<Messaging>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Webhooks>> {
    let org: OrgId = caller.org(&scope)?.parse().map_err(|_| ApiError::org_access_denied())?;
    if !leads(&caller, &org) {
        let text = "Only an admin of the organization lists its webhooks";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "INSUFFICIENT_ROLE", text));
    }
    let mut tx = messaging.platform.read(&Scope::member(org.clone(), &caller.id)).await?;
    let found = model::webhooks(&mut tx, org.as_str()).await?;
    Ok(Json(Webhooks { webhooks: found.into_iter().map(WebhookRow::from).collect() }))
}
