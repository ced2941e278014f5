//! The second factor: codes of an authenticator app (TOTP, RFC 6238), recovery codes in their stead.

use axum::{Extension, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use symbia_commands::identity::{ConfirmMfa, EnrolMfa, RemoveMfa, TOTP, UseMfaCode, UseRecoveryCode, UserCommand};
use symbia_events::{CommandId, KeyRing};
use symbia_projections::{Scope, identity as model};
use time::OffsetDateTime;
use totp_rs::{Builder, Secret, Totp};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Identity, shapes::Msg};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, RequestScope, rate::RateLimits, routes},
    platform::Consistency,
};

/// Recovery codes given out.
const CODES: usize = 10;
/// Letters of recovery codes: none that is taken for another.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(enrol, remove)).routes(routes!(confirm))
}

fn totp(secret: &str, account: &str) -> ApiResult<Totp> {
    let secret = Secret::try_from_base32(secret).map_err(ApiError::internal)?;
    // A colon would end the issuer in the address that apps read.
    let account = account.replace(':', " ");
    let builder = Builder::new().with_secret(secret).with_account_name(account).with_issuer(Some("Symbia"));
    builder.build().map_err(ApiError::internal)
}

fn code_invalid() -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "MFA_CODE_INVALID", "The code is wrong, was used, or is too old")
}

fn recovery_hash(keys: &KeyRing, user: &str, code: &str) -> String {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect();
    keys.lookup_hash("recovery-code", &format!("{user}.{}", plain.to_lowercase()))
}

/// Uses up a code, of the app or for recovery.
///
/// # Errors
/// 401 when it is none, or was used.
pub(super) async fn use_code(
    identity: &Identity,
    user: &str,
    security: &model::Security,
    code: &str,
    scope: &RequestScope,
) -> ApiResult<()> {
    let code = code.trim();
    let command = if code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()) {
        let reference = security.mfa_secret_ref.as_deref().unwrap_or_default();
        let secret = identity.platform.secrets.secret(reference).await?.ok_or_else(code_invalid)?;
        let now = OffsetDateTime::now_utc().unix_timestamp().unsigned_abs();
        let step = totp(&secret, user)?.check(code, now).ok_or_else(code_invalid)?;
        UserCommand::from(UseMfaCode { user_id: user.to_owned(), step })
    } else {
        let code_hash = recovery_hash(&identity.platform.keys, user, code);
        UserCommand::from(UseRecoveryCode { user_id: user.to_owned(), code_hash })
    };
    let (id, address, edge) = (CommandId::random(), identity.user(user)?, identity.edge_for(user));
    let used = identity.platform.submit_as(id, &address, &command, &edge, scope, Consistency::Eventual).await;
    match used {
        Err(error) if error.code() == "MFA_CODE_INVALID" => Err(code_invalid()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

/// Proof that it is the owner.
#[derive(Deserialize, ToSchema)]
struct Owner {
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
}

/// What the app needs.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Enrolled {
    method: &'static str,
    /// The shared secret, base32.
    secret: String,
    /// The same as an address, to be shown as a QR code.
    otpauth_url: String,
}

/// Set a second factor up; it counts once its first code is confirmed
#[utoipa::path(post, path = "/users/me/mfa", tag = "Users", request_body = Owner,
    responses((status = 200, description = "What the app needs", body = Enrolled)))]
async fn enrol(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Json(body): Json<Owner>,
) -> ApiResult<Json<Enrolled>> {
    caller.require_person()?;
    limits.attempt(&format!("password:{}", caller.id)).await?;
    identity.own_password(&caller, body.password).await?;
    let secret = Zeroizing::new(Secret::new_stack(rand::random()).to_base32());
    let reference = format!("mfa:{}:{}", caller.id, Uuid::new_v4());
    let platform = &identity.platform;
    platform.secrets.put_secret(&reference, &secret).await?;
    let (user_id, method) = (caller.id.clone(), TOTP.to_owned());
    let command = UserCommand::from(EnrolMfa { user_id, method, secret_ref: reference.clone() });
    let done = identity.guard(&caller.id, &command, &scope).await;
    if done.as_ref().is_err_and(|error| error.status().is_client_error()) {
        platform.secrets.destroy_secret(&reference).await?;
    }
    done?;
    let account = caller.email.as_deref().unwrap_or(&caller.id);
    let otpauth_url = totp(&secret, account)?.to_url().map_err(ApiError::internal)?;
    Ok(Json(Enrolled { method: TOTP, secret: secret.to_string(), otpauth_url }))
}

/// The first code.
#[derive(Deserialize, ToSchema)]
struct First {
    #[schema(value_type = String)]
    code: Zeroizing<String>,
}

/// Codes that stand in for the app, once each. They are shown this one time.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Recovery {
    recovery_codes: Vec<String>,
}

/// Turn the second factor on with its first code
#[utoipa::path(post, path = "/users/me/mfa/confirm", tag = "Users", request_body = First,
    responses((status = 200, description = "On; keep the recovery codes", body = Recovery),
        (status = 401, description = "The code is wrong")))]
async fn confirm(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Json(body): Json<First>,
) -> ApiResult<Json<Recovery>> {
    caller.require_person()?;
    limits.attempt(&format!("mfa:{}", caller.id)).await?;
    let platform = &identity.platform;
    let mut tx = platform.read(&Scope::user(&caller.id)).await?;
    let security = model::security(&mut tx, &caller.id).await?;
    drop(tx);
    let reference = security.mfa_secret_ref.unwrap_or_default();
    let secret = platform.secrets.secret(&reference).await?.unwrap_or_default();
    let now = OffsetDateTime::now_utc().unix_timestamp().unsigned_abs();
    let step = if secret.is_empty() { None } else { totp(&secret, &caller.id)?.check(body.code.trim(), now) };
    // Without an enrolment the aggregate says what is missing.
    let step = if secret.is_empty() { 0 } else { step.ok_or_else(code_invalid)? };
    let codes: Vec<String> = (0..CODES).map(|_| recovery_code()).collect();
    let command = UserCommand::from(ConfirmMfa {
        user_id: caller.id.clone(),
        secret_ref: reference,
        step,
        recovery_hashes: codes.iter().map(|code| recovery_hash(&platform.keys, &caller.id, code)).collect(),
    });
    identity.guard(&caller.id, &command, &scope).await?;
    Ok(Json(Recovery { recovery_codes: codes }))
}

/// 80 bits, in groups of four letters.
fn recovery_code() -> String {
    let letters: [u8; 16] = rand::random();
    let letters = letters.map(|byte| char::from(LETTERS[usize::from(byte % 32)]));
    letters.chunks(4).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

/// Proof that it is the owner: password and a code.
#[derive(Deserialize, ToSchema)]
struct Removal {
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
    /// A code of the app, or a recovery code.
    #[serde(default)]
    #[schema(value_type = String)]
    code: Zeroizing<String>,
}

/// Turn the second factor off
#[utoipa::path(delete, path = "/users/me/mfa", tag = "Users", request_body = Removal,
    responses((status = 200, description = "Off", body = Msg), (status = 401, description = "The code is wrong")))]
async fn remove(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    caller: Caller,
    Json(body): Json<Removal>,
) -> ApiResult<Json<Msg>> {
    caller.require_person()?;
    limits.attempt(&format!("mfa:{}", caller.id)).await?;
    identity.own_password(&caller, body.password).await?;
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let security = model::security(&mut tx, &caller.id).await?;
    drop(tx);
    if security.mfa_confirmed {
        use_code(&identity, &caller.id, &security, &body.code, &scope).await?;
    }
    let command = UserCommand::from(RemoveMfa { user_id: caller.id.clone() });
    identity.guard(&caller.id, &command, &scope).await?;
    if let Some(reference) = security.mfa_secret_ref {
        identity.platform.secrets.destroy_secret(&reference).await?;
    }
    Ok(Json(Msg { message: "The second factor is off" }))
}

impl Identity {
    /// Sends a command about a user's own account, whose secrets were checked here.
    async fn guard(&self, user: &str, command: &UserCommand, scope: &RequestScope) -> ApiResult<()> {
        let (id, address, edge) = (CommandId::random(), self.user(user)?, self.edge_for(user));
        self.platform.submit_as(id, &address, command, &edge, scope, Consistency::Visible).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_codes_are_found_however_they_are_typed_and_differ() {
        let keys = KeyRing::generate(OffsetDateTime::UNIX_EPOCH);
        let code = recovery_code();
        assert_eq!(code.len(), 19);
        let typed = code.to_uppercase().replace('-', " ");
        assert_eq!(recovery_hash(&keys, "u1", &code), recovery_hash(&keys, "u1", &typed));
        assert_ne!(recovery_hash(&keys, "u1", &code), recovery_hash(&keys, "u2", &code));
        assert_ne!(code, recovery_code());
    }
}
