//! Another password: with the present one, or with a link that was sent (identity.md §4.5, 6.3, 6.4).
//!
//! Whether an address has an account is not told: everything that depends on it happens after the answer.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{
        ChangePassword, CompletePasswordReset, ForgiveFailedSignIns, RecordResetMail, RequestPasswordReset,
        SignInCommand, UserCommand,
    },
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity, email,
    links::Purpose,
    passwords::{ALGORITHM, Passwords},
    sessions::{Proof, SignedIn},
    shapes::{Msg, epoch_ms},
    tokens::Subject,
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, Validation, rate::RateLimits, routes},
    mail::Mail,
    platform::Consistency,
};

/// How long a link works.
const LINK: Duration = Duration::hours(1);

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(change)).routes(routes!(forgot)).routes(routes!(reset))
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Change {
    #[schema(value_type = String, format = Password)]
    current_password: Zeroizing<String>,
    /// 8 characters to 72 bytes.
    #[schema(value_type = String, format = Password)]
    new_password: Zeroizing<String>,
}

/// The password is changed, and all sessions are ended; here is a new one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Changed {
    message: &'static str,
    /// The access token.
    token: String,
    /// The refresh token; it works once.
    refresh_token: String,
    /// When the access token expires, in milliseconds since 1970.
    expires_at: i64,
}

/// Change the caller's password; all sessions end, and a new one begins
#[utoipa::path(post, path = "/users/me/password", tag = "Users", request_body = Change,
    responses((status = 200, description = "Changed", body = Changed),
        (status = 400, description = "The present password is wrong, or the new one is not good enough")))]
async fn change(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    headers: HeaderMap,
    caller: Caller,
    Json(body): Json<Change>,
) -> ApiResult<impl IntoResponse> {
    caller.require_person()?;
    let mut rules = Validation::new();
    Passwords::check(&mut rules, "newPassword", &body.new_password);
    rules.finish()?;
    limits.attempt(&format!("password:{}", caller.id)).await?;
    let old = identity.own_password(&caller, body.current_password).await?;
    let reference = identity.keep_new_password(&caller.id, body.new_password).await?;
    let command = UserCommand::from(ChangePassword {
        user_id: caller.id.clone(),
        password_ref: reference.clone(),
        password_algo: ALGORITHM.to_owned(),
    });
    identity.replace_password(&caller.id, command, &reference, Some(old), &scope).await?;
    let subject = Subject::user(&caller.id, caller.email.as_deref(), caller.name.as_deref());
    let key = identity.platform.secrets.subject_key(&caller.id).await?;
    let proof = Proof { method: "password-changed", at: OffsetDateTime::now_utc() };
    let SignedIn { issued, refresh_token } = identity.sign_in(&subject, proof, key.as_ref(), &scope, &headers).await?;
    let cookie = identity.cookie(&issued);
    let (expires_at, refresh_token) = (epoch_ms(issued.expires_at), refresh_token.to_string());
    Ok((cookie, Json(Changed { message: "Password changed", token: issued.token, refresh_token, expires_at })))
}

/// Whose password was forgotten.
#[derive(Deserialize, ToSchema)]
struct Forgotten {
    email: String,
}

/// A text, and whether mail is sent at all.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Sent {
    message: &'static str,
    /// False when this platform sends no mail.
    #[serde(skip_serializing_if = "Option::is_none")]
    email_enabled: Option<bool>,
}

/// Ask for a link to choose a new password; the answer is the same whether or not there is such an account
#[utoipa::path(post, path = "/auth/forgot-password", tag = "Authentication", security(()), request_body = Forgotten,
    responses((status = 200, description = "If there is such an account, a link is on its way", body = Sent)))]
async fn forgot(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    Json(body): Json<Forgotten>,
) -> ApiResult<Json<Sent>> {
    let mut rules = Validation::new();
    email::check_form(&mut rules, "email", &body.email);
    rules.finish()?;
    limits.attempt(&format!("reset:{}", body.email)).await?;
    let email_enabled = identity.platform.settings.mailer.is_none().then_some(false);
    // After the answer: how long it takes tells nothing.
    tokio::spawn(async move {
        if let Err(error) = identity.send_reset_link(&body.email, &scope).await {
            tracing::warn!(error = error.message(), "a link to reset a password is not sent");
        }
    });
    Ok(Json(Sent { message: "If there is an account with this address, a link was sent to it", email_enabled }))
}

/// A new password.
#[derive(Deserialize, ToSchema)]
struct Reset {
    /// From the link.
    #[schema(value_type = String)]
    token: Zeroizing<String>,
    /// 8 characters to 72 bytes.
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

/// Choose a new password with a link; all sessions end
#[utoipa::path(post, path = "/auth/reset-password", tag = "Authentication", security(()), request_body = Reset,
    responses((status = 200, description = "Changed: sign in", body = Msg),
        (status = 400, description = "The link was used, has expired, or is none; or the password is not good enough")))]
async fn reset(State(identity): State<Identity>, scope: RequestScope, Json(body): Json<Reset>) -> ApiResult<Json<Msg>> {
    let mut rules = Validation::new();
    rules.check(!body.token.is_empty(), "token", "required", "is required");
    Passwords::check(&mut rules, "password", &body.password);
    rules.finish()?;
    let platform = &identity.platform;
    let invalid = || {
        let text = "The link is not valid, was used or has expired: ask for a new one";
        ApiError::new(StatusCode::BAD_REQUEST, "RESET_TOKEN_INVALID", text)
    };
    let (user_id, _) = Purpose::PasswordReset.read(&platform.keys, &body.token).ok_or_else(invalid)?;
    let mut tx = platform.read(&Scope::platform()).await?;
    let user = model::user(&mut tx, user_id).await?.ok_or_else(invalid)?;
    let old = model::credentials(&mut tx, user_id).await?.map(|c| c.password_ref);
    drop(tx);
    let reference = identity.keep_new_password(user_id, body.password).await?;
    let command = UserCommand::from(CompletePasswordReset {
        user_id: user_id.to_owned(),
        token_hash: Purpose::PasswordReset.hash(&platform.keys, &body.token),
        password_ref: reference.clone(),
        password_algo: ALGORITHM.to_owned(),
    });
    identity.replace_password(user_id, command, &reference, old, &scope).await?;
    // Who holds the mailbox may come in again at once.
    let identifier = email::key(&platform.keys, user.email.as_deref().unwrap_or_default());
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "sign-in", &identifier);
    let command = SignInCommand::from(ForgiveFailedSignIns { identifier_key: identifier });
    let (id, edge) = (CommandId::random(), Actor::service("identity"));
    let address = address.map_err(ApiError::internal)?;
    platform.submit_as(id, &address, &command, &edge, &scope, Consistency::Visible).await?;
    Ok(Json(Msg { message: "Password changed" }))
}

impl Identity {
    /// The reference of the caller's present password, after it was checked.
    ///
    /// # Errors
    /// 400 when it is another one.
    pub(super) async fn own_password(&self, caller: &Caller, password: Zeroizing<String>) -> ApiResult<String> {
        let mut tx = self.platform.read(&Scope::user(&caller.id)).await?;
        let credentials = model::credentials(&mut tx, &caller.id).await?;
        drop(tx);
        let reference = credentials.ok_or_else(|| ApiError::not_found("User"))?.password_ref;
        let hash = self.platform.secrets.secret(&reference).await?;
        if self.passwords.verify(password, hash).await? {
            return Ok(reference);
        }
        Err(ApiError::new(StatusCode::BAD_REQUEST, "CREDENTIALS_INVALID", "The present password is wrong"))
    }

    async fn keep_new_password(&self, user: &str, password: Zeroizing<String>) -> ApiResult<String> {
        let reference = format!("password:{user}:{}", Uuid::new_v4());
        let hash = self.passwords.hash(password).await?;
        self.platform.secrets.put_secret(&reference, &hash).await?;
        Ok(reference)
    }

    async fn replace_password(
        &self,
        user: &str,
        command: UserCommand,
        new: &str,
        old: Option<String>,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let (platform, id) = (&self.platform, CommandId::random());
        let address = self.user(user)?;
        let done = platform.submit_as(id, &address, &command, &self.edge_for(user), scope, Consistency::Visible).await;
        match done {
            Ok(_) => {
                if let Some(old) = old {
                    platform.secrets.destroy_secret(&old).await?;
                }
                Ok(())
            }
            Err(error) => {
                // Only a refusal is final.
                if error.status().is_client_error() {
                    platform.secrets.destroy_secret(new).await?;
                }
                Err(error)
            }
        }
    }

    async fn send_reset_link(&self, address: &str, scope: &RequestScope) -> ApiResult<()> {
        let platform = &self.platform;
        let Some(mailer) = &platform.settings.mailer else { return Ok(()) };
        let mut tx = platform.read(&Scope::platform()).await?;
        let user = model::user_by_email_key(&mut tx, &email::key(&platform.keys, address)).await?;
        drop(tx);
        let Some((id, email)) = user.and_then(|user| Some((user.id, user.email?))) else { return Ok(()) };
        let token = Purpose::PasswordReset.random(&platform.keys, &id);
        let reset_id = Uuid::new_v4().to_string();
        let command = UserCommand::from(RequestPasswordReset {
            user_id: id.clone(),
            reset_id: reset_id.clone(),
            token_hash: Purpose::PasswordReset.hash(&platform.keys, &token),
            expires_at: (OffsetDateTime::now_utc() + LINK).format(&Rfc3339).unwrap_or_default(),
        });
        let (address, edge) = (self.user(&id)?, Actor::service("identity"));
        platform.submit_as(CommandId::random(), &address, &command, &edge, scope, Consistency::Eventual).await?;
        let link = self.link("reset-password", &token);
        let text = Zeroizing::new(format!(
            "Somebody, hopefully you, asked for a new password.\n\nChoose one within an hour:\n{}\n\n\
             If it was not you, do nothing: your password stays as it is.\n",
            *link
        ));
        let sent = mailer.0.send(Mail { to: email, subject: "Choose a new password", text }).await;
        let failed = sent.err().map(|error| {
            tracing::warn!(%error, "mail not sent");
            "the mail server did not take it".to_owned()
        });
        let command = UserCommand::from(RecordResetMail { user_id: id, reset_id, failed });
        platform.submit_as(CommandId::random(), &address, &command, &edge, scope, Consistency::Eventual).await?;
        Ok(())
    }
}
