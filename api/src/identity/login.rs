//! Signing in: password, then the second factor where there is one (identity.md §4.5, 6.3).
//!
//! Whether an address has an account changes neither the answers nor the steps taken: unknown ones cost the same reads,
//! the same hash and the same record of the failure.

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{BLOCK, LockUser, RecordFailedSignIn, SignInCommand, UserCommand},
};
use symbia_events::{AggregateRef, CommandId, OrgId, Service};
use symbia_projections::{Scope, identity as model};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use zeroize::Zeroizing;

use super::{
    Identity, email, factors,
    links::Purpose,
    sessions::{Proof, SignedIn},
    shapes::{UserRef, epoch_ms},
    tokens::Subject,
};
use crate::{
    http::{
        ApiError, ApiResult, Json, RequestScope, Validation, principal::Membership as OrgRef, rate::RateLimits, routes,
    },
    platform::Consistency,
};

/// For so long after the password, the second factor may follow.
const SECOND_STEP: Duration = Duration::minutes(5);

pub(super) fn routes() -> OpenApiRouter<Identity> {
    OpenApiRouter::new()
        .routes(routes!(login))
        .route("/auth/user/login", axum::routing::post(login))
        .routes(routes!(second_step))
}

/// Who signs in.
#[derive(Deserialize, ToSchema)]
struct Login {
    email: String,
    #[schema(value_type = String, format = Password)]
    password: Zeroizing<String>,
    /// A code of the second factor or a recovery code, when the account has one; it may also follow in a step of its own.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    otp: Option<Zeroizing<String>>,
}

/// A user, signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct LoggedIn {
    user: UserRef,
    /// The access token.
    token: String,
    /// The refresh token; it works once.
    refresh_token: String,
    /// When the access token expires, in milliseconds since 1970.
    expires_at: i64,
}

/// Log in with e-mail address and password
///
/// An account with a second factor answers 401 `MFA_REQUIRED` with an `mfaToken` unless `otp` came along.
#[utoipa::path(post, path = "/auth/login", tag = "Authentication", security(()), request_body = Login,
    responses((status = 200, description = "Signed in", body = LoggedIn),
        (status = 401, description = "Address or password is wrong, which one is not told; or a second factor is needed"),
        (status = 429, description = "Too many attempts, at this account or from this address")))]
async fn login(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(body): Json<Login>,
) -> ApiResult<impl IntoResponse> {
    match identity.proved(&limits, &body.email, body.password, body.otp, &scope).await? {
        Proved::Wholly(user, proof) => identity.welcome(user, proof, &scope, &headers).await,
        Proved::ByPassword(token) => Err(second_factor_needed(&token)),
    }
}

/// The second step.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecondStep {
    /// What the first step answered.
    #[schema(value_type = String)]
    mfa_token: Zeroizing<String>,
    /// A code of the second factor, or a recovery code.
    #[schema(value_type = String)]
    code: Zeroizing<String>,
}

/// Finish a log-in with the second factor
#[utoipa::path(post, path = "/auth/login/mfa", tag = "Authentication", security(()), request_body = SecondStep,
    responses((status = 200, description = "Signed in", body = LoggedIn),
        (status = 401, description = "The code is wrong or was used, or the first step lies too far back")))]
async fn second_step(
    State(identity): State<Identity>,
    Extension(limits): Extension<RateLimits>,
    scope: RequestScope,
    headers: HeaderMap,
    Json(body): Json<SecondStep>,
) -> ApiResult<impl IntoResponse> {
    let (user, proof) = identity.by_second_factor(&limits, &body.mfa_token, &body.code, &scope).await?;
    identity.welcome(user, proof, &scope, &headers).await
}

/// How far somebody has proved who they are.
pub(super) enum Proved {
    /// By all that the account asks for.
    Wholly(Box<model::User>, Proof<'static>),
    /// A second factor is needed; with this token it may follow.
    ByPassword(Zeroizing<String>),
}

fn second_factor_needed(token: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, "MFA_REQUIRED", "A code of the second factor is needed")
        .with_hint("Send it with the mfaToken to POST /api/auth/login/mfa, or as otp with the password.")
        .with_extra("mfaToken", token)
        .with_extra("methods", vec!["totp", "recovery"])
}

impl Identity {
    /// Whom address and password, and the second factor if it came along, prove somebody to be.
    ///
    /// # Errors
    /// 400 for what is no address; 401 when something is wrong; 403 ACCOUNT_LOCKED; 429 after too many attempts.
    pub(super) async fn proved(
        &self,
        limits: &RateLimits,
        address: &str,
        password: Zeroizing<String>,
        otp: Option<Zeroizing<String>>,
        scope: &RequestScope,
    ) -> ApiResult<Proved> {
        let mut rules = Validation::new();
        email::check_form(&mut rules, "email", address);
        rules.check(!password.is_empty(), "password", "required", "is required").finish()?;
        limits.attempt(address).await?;
        let (user, at) = self.by_password(address, password, scope).await?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let security = model::security(&mut tx, &user.id).await?;
        drop(tx);
        if security.is_locked(OffsetDateTime::now_utc()) {
            return Err(ApiError::new(StatusCode::FORBIDDEN, "ACCOUNT_LOCKED", "This account is locked")
                .with_hint("Reset the password, or ask an operator."));
        }
        if !security.mfa_confirmed {
            return Ok(Proved::Wholly(user.into(), Proof { method: "password", at }));
        }
        let Some(code) = otp else {
            let at = at.unix_timestamp_nanos().to_string();
            return Ok(Proved::ByPassword(Purpose::SecondFactor.of(&self.platform.keys, &user.id, &at)));
        };
        self.second_factor(&user, &security, &code, scope).await?;
        Ok(Proved::Wholly(user.into(), Proof { method: "password+totp", at }))
    }

    /// Whom a token of the first step and a code prove somebody to be.
    ///
    /// # Errors
    /// 401 when one of them is wrong, was used or is too old; 429 after too many attempts.
    pub(super) async fn by_second_factor(
        &self,
        limits: &RateLimits,
        token: &str,
        code: &str,
        scope: &RequestScope,
    ) -> ApiResult<(Box<model::User>, Proof<'static>)> {
        let (keys, now) = (&self.platform.keys, OffsetDateTime::now_utc());
        let (user_id, at) = Purpose::SecondFactor
            .read(keys, token)
            .and_then(|(user, at)| Some((user, OffsetDateTime::from_unix_timestamp_nanos(at.parse().ok()?).ok()?)))
            .filter(|(_, at)| *at + SECOND_STEP > now)
            .ok_or_else(ApiError::token_invalid)?;
        limits.attempt(&format!("mfa:{user_id}")).await?;
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let user = model::user(&mut tx, user_id).await?.ok_or_else(ApiError::token_invalid)?;
        let security = model::security(&mut tx, user_id).await?;
        drop(tx);
        if security.is_locked(now) || !security.mfa_confirmed {
            return Err(ApiError::token_invalid());
        }
        self.second_factor(&user, &security, code, scope).await?;
        Ok((user.into(), Proof { method: "password+totp", at }))
    }

    /// The user of an address and a password, and when they were looked at. A failure is recorded.
    ///
    /// # Errors
    /// 401 CREDENTIALS_INVALID; 429 while the identifier is blocked.
    pub(super) async fn by_password(
        &self,
        address: &str,
        password: Zeroizing<String>,
        scope: &RequestScope,
    ) -> ApiResult<(model::User, OffsetDateTime)> {
        let (platform, at) = (&self.platform, OffsetDateTime::now_utc());
        let identifier = email::key(&platform.keys, address);
        let mut tx = platform.read(&Scope::platform()).await?;
        let blocked = model::sign_in_block(&mut tx, &identifier, at).await?;
        let user = model::user_by_email_key(&mut tx, &identifier).await?;
        // An unknown address takes the same steps: the same reads and the work of one hash.
        let user_id = user.as_ref().map_or("", |user| user.id.as_str());
        let credentials = model::credentials(&mut tx, user_id).await?;
        drop(tx);
        if let Some(until) = blocked {
            let seconds = u32::try_from((until - at).whole_seconds().max(1)).unwrap_or(u32::MAX);
            return Err(ApiError::rate_limited(seconds));
        }
        let reference = credentials.as_ref().map_or("password:nobody", |c| c.password_ref.as_str());
        let hash = platform.secrets.secret(reference).await?;
        if self.passwords.verify(password, hash).await?
            && let Some(user) = user
        {
            return Ok((user, at));
        }
        self.failed(&identifier, user.as_ref().map(|user| user.id.as_str()), "password", scope).await?;
        Err(ApiError::new(StatusCode::UNAUTHORIZED, "CREDENTIALS_INVALID", "Invalid email or password"))
    }

    /// Records a failed attempt; the one that blocks the identifier also locks its account, so that its owner can be told.
    async fn failed(&self, identifier: &str, user: Option<&str>, reason: &str, scope: &RequestScope) -> ApiResult<()> {
        tracing::info!(ip = %scope.client_ip, reason, "sign-in refused");
        let platform = &self.platform;
        let key = platform.secrets.subject_key(user.unwrap_or("nobody")).await?;
        let command = SignInCommand::from(RecordFailedSignIn {
            identifier_key: identifier.to_owned(),
            reason: reason.to_owned(),
            client_ip: key.map(|key| key.seal(&scope.client_ip.to_string())),
        });
        let address = AggregateRef::new(Service::Identity, OrgId::global(), "sign-in", identifier);
        let (address, edge) = (address.map_err(ApiError::internal)?, Actor::service("identity"));
        let id = CommandId::random();
        let done = platform.submit_as(id, &address, &command, &edge, scope, Consistency::Eventual).await?;
        if let (true, Some(user)) = (done.has("sign-in-blocked"), user) {
            let until = (OffsetDateTime::now_utc() + BLOCK).format(&Rfc3339).ok();
            let (user_id, reason) = (user.to_owned(), "failed-sign-ins".to_owned());
            platform.submit_later(self.user(user)?, UserCommand::from(LockUser { user_id, reason, until }));
        }
        Ok(())
    }

    async fn second_factor(
        &self,
        user: &model::User,
        security: &model::Security,
        code: &str,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let checked = factors::use_code(self, &user.id, security, code, scope).await;
        if checked.as_ref().is_err_and(|error| error.status() == StatusCode::UNAUTHORIZED) {
            let identifier = email::key(&self.platform.keys, user.email.as_deref().unwrap_or_default());
            self.failed(&identifier, Some(&user.id), "mfa", scope).await?;
        }
        checked
    }

    /// Begins a session of a user.
    pub(super) async fn begin(
        &self,
        user: &model::User,
        proof: Proof<'_>,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<SignedIn> {
        let key = self.platform.secrets.subject_key(&user.id).await?;
        let subject = Subject::user(&user.id, user.email.as_deref(), user.name.as_deref());
        self.sign_in(&subject, proof, key.as_ref(), scope, headers).await
    }

    async fn welcome(
        &self,
        user: Box<model::User>,
        proof: Proof<'_>,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<impl IntoResponse + use<>> {
        let mut tx = self.platform.read(&Scope::platform()).await?;
        let organizations = model::organizations_of(&mut tx, &user.id).await?;
        drop(tx);
        let SignedIn { issued, refresh_token } = self.begin(&user, proof, scope, headers).await?;
        let organizations =
            organizations.into_iter().map(|o| OrgRef { id: o.id, name: o.name, slug: o.slug, role: o.role }).collect();
        let cookie = self.cookie(&issued);
        let user = UserRef {
            id: user.id,
            email: user.email,
            name: user.name,
            is_super_admin: None,
            organizations: Some(organizations),
        };
        let (expires_at, refresh_token) = (epoch_ms(issued.expires_at), refresh_token.to_string());
        Ok((cookie, Json(LoggedIn { user, token: issued.token, refresh_token, expires_at })))
    }

    /// The address of a user's aggregate.
    #[allow(clippy::unused_self, reason = "reads as what it gives")]
    pub(super) fn user(&self, id: &str) -> ApiResult<AggregateRef> {
        AggregateRef::new(Service::Identity, OrgId::global(), "user", id).map_err(|_| ApiError::not_found("User"))
    }

    /// The edge, which has checked a secret of a user.
    #[allow(clippy::unused_self, reason = "reads as what it gives")]
    pub(super) fn edge_for(&self, user: &str) -> Actor {
        Actor { on_behalf_of: Some(user.to_owned()), ..Actor::service("identity") }
    }
}
