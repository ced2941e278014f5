//! Confirming an e-mail address, the present one or another (identity.md §6.14).

use axum::{Extension, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::identity::{ConfirmEmailChange, RequestEmailChange, UserCommand};
use symbia_events::CommandId;
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{
    Identity, email,
    links::Purpose,
    shapes::{Msg, iso},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, Validation, rate::RateLimits, routes},
    mail::Mail,
    platform::Consistency,
};

/// How long a link works.
const LINK: Duration = Duration::days(1);

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(request)).routes(routes!(confirm)).routes(routes!(security))
}

/// The address to confirm.
#[derive(Deserialize, ToSchema)]
struct Address {
    /// Another address, or the present one.
    email: String,
    /// The present password.
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

/// Ask for the e-mail address to be confirmed or changed: a link is sent to it
#[utoipa::path(post, path = "/users/me/email", tag = "Users", request_body = Address,
    responses((status = 200, description = "A link is on its way", body = Msg),
        (status = 503, description = "This platform sends no mail")))]
async fn request(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Json(body): Json<Address>,
) -> ApiResult<Json<Msg>> {
    caller.require_person()?;
    let mut rules = Validation::new();
    email::check(&mut rules, "email", &body.email);
    rules.finish()?;
    if identity.platform.settings.mailer.is_none() {
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "EMAIL_DISABLED", "This platform sends no mail"));
    }
    limits.attempt(&format!("password:{}", caller.id)).await?;
    identity.own_password(&caller, body.password).await?;
    identity.send_confirmation(&caller.id, body.email.trim(), &scope).await?;
    Ok(Json(Msg { message: "A link was sent to this address" }))
}

/// What the link carries.
#[derive(Deserialize, ToSchema)]
struct Confirmation {
    #[schema(value_type = String)]
    token: Zeroizing<String>,
}

/// Confirm an e-mail address with the link that was sent to it
#[utoipa::path(post, path = "/auth/verify-email", tag = "Authentication", security(()), request_body = Confirmation,
    responses((status = 200, description = "Confirmed", body = Msg),
        (status = 400, description = "The link was used, has expired, or is none; or the address is taken")))]
async fn confirm(
    State(identity): State<Identity>,
    scope: RequestScope,
    Json(body): Json<Confirmation>,
) -> ApiResult<Json<Msg>> {
    let platform = &identity.platform;
    let user = Purpose::Email.read(&platform.keys, &body.token).map(|(user, _)| user.to_owned());
    let user = user.ok_or_else(|| {
        let text = "The link is not valid, was used or has expired: ask for a new one";
        ApiError::new(StatusCode::BAD_REQUEST, "EMAIL_TOKEN_INVALID", text)
    })?;
    let mut tx = platform.read(&Scope::platform()).await?;
    let before = model::user(&mut tx, &user).await?.and_then(|user| user.email);
    drop(tx);
    let token_hash = Purpose::Email.hash(&platform.keys, &body.token);
    let command = UserCommand::from(ConfirmEmailChange { user_id: user.clone(), token_hash });
    let (id, address, edge) = (CommandId::random(), identity.user(&user)?, identity.edge_for(&user));
    let done = platform.submit_as(id, &address, &command, &edge, &scope, Consistency::Visible).await;
    let done = done.map_err(|error| if error.code() == "EMAIL_TAKEN" { ApiError::email_taken() } else { error })?;
    if let (true, Some(mailer), Some(to)) = (done.has("user-email-changed"), &platform.settings.mailer, before) {
        let text = "The address of your account was changed. If it was not you, ask an operator for help.\n";
        let mail = Mail { to, subject: "Your address was changed", text: Zeroizing::new(text.to_owned()) };
        if let Err(error) = mailer.0.send(mail).await {
            tracing::warn!(%error, "the old address is not told of the new one");
        }
    }
    Ok(Json(Msg { message: "Address confirmed" }))
}

/// How the caller's account is guarded.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Guarded {
    email_verified: bool,
    /// The address that waits for its confirmation.
    pending_email: Option<String>,
    pending_until: Option<String>,
    /// Whether signing in takes a second factor.
    mfa_enabled: bool,
    recovery_codes_left: i32,
}

/// Read how the caller's account is guarded
#[utoipa::path(get, path = "/users/me/security", tag = "Users",
    responses((status = 200, description = "Address and second factor", body = Guarded)))]
async fn security(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Guarded>> {
    caller.require_person()?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let security = model::security(&mut tx, &caller.id).await?;
    let now = OffsetDateTime::now_utc();
    let pending = security.pending_until.is_some_and(|until| until > now);
    Ok(Json(Guarded {
        email_verified: security.email_verified,
        pending_email: security.pending_email.filter(|_| pending),
        pending_until: security.pending_until.filter(|_| pending).map(iso),
        mfa_enabled: security.mfa_confirmed,
        recovery_codes_left: security.recovery_left,
    }))
}

impl Identity {
    /// Sends a link that confirms an address. Whether another account has it shows only to who reads its mail.
    pub(super) async fn send_confirmation(&self, user: &str, to: &str, scope: &RequestScope) -> ApiResult<()> {
        let platform = &self.platform;
        let Some(mailer) = &platform.settings.mailer else { return Ok(()) };
        let key = platform.secrets.subject_key(user).await?.ok_or_else(|| ApiError::not_found("User"))?;
        let token = Purpose::Email.random(&platform.keys, user);
        let command = UserCommand::from(RequestEmailChange {
            user_id: user.to_owned(),
            new_email: key.seal(to),
            new_email_key: email::key(&platform.keys, to),
            token_hash: Purpose::Email.hash(&platform.keys, &token),
            expires_at: (OffsetDateTime::now_utc() + LINK).format(&Rfc3339).unwrap_or_default(),
        });
        let (id, address) = (CommandId::random(), self.user(user)?);
        platform.submit_as(id, &address, &command, &self.edge_for(user), scope, Consistency::Visible).await?;
        let link = self.link("verify-email", &token);
        let text = Zeroizing::new(format!("Confirm within a day that this is your address:\n{}\n", *link));
        mailer.0.send(Mail { to: to.to_owned(), subject: "Confirm your address", text }).await.map_err(|error| {
            tracing::warn!(%error, "mail not sent");
            ApiError::unavailable("The mail server", 60)
        })
    }
}
