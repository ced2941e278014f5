//! Sessions: beginning, refreshing, listing and ending them (identity.md §4.3, 4.4, 6.14).
//!
//! A refresh token is `<session>.<random>.<mac>`. The mac lets garbage be told from a token that was ours: only the second
//! presentation of a real one ends the family, so that knowing a session's id is not enough to end it.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{AppendHeaders, IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_commands::{
    Actor,
    identity::{LIFETIME, RefreshSession, RevokeAllSessions, RevokeSession, SessionCommand, StartSession, UserCommand},
};
use symbia_events::{AggregateRef, CommandId, KeyRing, OrgId, Service, SubjectKey};
use symbia_projections::{Scope, identity as model};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{
    Identity,
    shapes::{self, Msg, Session, UserRef, epoch_ms},
    tokens::{Issued, Subject},
};
use crate::{
    http::{ApiError, ApiResult, Caller, Json, OptionalCaller, Path, RequestScope, routes},
    platform::Consistency,
};

/// Longest text of a client that is kept.
const USER_AGENT_MAX: usize = 256;

pub(super) fn routes() -> OpenApiRouter<Identity> {
    ending()
        .routes(routes!(logout_all))
        .routes(routes!(refresh))
        .route("/auth/user/refresh", axum::routing::post(refresh))
        .routes(routes!(list))
        .routes(routes!(revoke))
}

/// Logging out.
pub(super) fn ending() -> OpenApiRouter<Identity> {
    OpenApiRouter::new().routes(routes!(logout))
}

pub(super) fn aggregate(session: &str) -> ApiResult<AggregateRef> {
    AggregateRef::new(Service::Identity, OrgId::global(), "session", session)
        .map_err(|_| ApiError::not_found("Session"))
}

/// What a client gets to keep.
pub(super) struct SignedIn {
    pub issued: Issued,
    pub refresh_token: Zeroizing<String>,
}

/// A proof of who somebody is.
pub(super) struct Proof<'a> {
    /// `password`, `register`, `credential`, …
    pub method: &'a str,
    /// When the secret was looked at: a revocation since then ends the session that it opens.
    pub at: OffsetDateTime,
}

impl Identity {
    /// Begins a session of somebody who proved who they are. It answers from the aggregate: when the read models lag, the
    /// token is issued all the same and accepted once they have caught up.
    pub(super) async fn sign_in(
        &self,
        subject: &Subject,
        proof: Proof<'_>,
        key: Option<&SubjectKey>,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<SignedIn> {
        // Not derived from an idempotency key: the tokens of a session are given out once, to whom it was begun for.
        let session_id = Uuid::new_v4().to_string();
        let at = OffsetDateTime::now_utc();
        let refresh_token = self.begin_session(&session_id, subject, proof, key, scope, headers).await?;
        Ok(SignedIn { issued: self.issue(subject, &session_id, at, at + LIFETIME)?, refresh_token })
    }

    /// Begins a session under an id, and gives its first refresh token.
    pub(super) async fn begin_session(
        &self,
        session_id: &str,
        subject: &Subject,
        proof: Proof<'_>,
        key: Option<&SubjectKey>,
        scope: &RequestScope,
        headers: &HeaderMap,
    ) -> ApiResult<Zeroizing<String>> {
        let refresh_token = refresh_token(&self.platform.keys, session_id);
        let user_agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
        let user_agent: Option<String> = user_agent.map(|text| text.chars().take(USER_AGENT_MAX).collect());
        let command = SessionCommand::from(StartSession {
            session_id: session_id.to_owned(),
            principal_id: subject.id.clone(),
            principal_type: subject.kind().to_owned(),
            method: proof.method.to_owned(),
            refresh_hash: self.platform.keys.lookup_hash("refresh", &refresh_token),
            client_ip: key.map(|key| key.seal(&scope.client_ip.to_string())),
            user_agent: key.zip(user_agent).map(|(key, text)| key.seal(&text)),
            authenticated_at: proof.at.format(&Rfc3339).ok(),
        });
        let edge = Actor::service("identity");
        let (id, address) = (CommandId::random(), aggregate(session_id)?);
        let done = self.platform.submit_as(id, &address, &command, &edge, scope, Consistency::Eventual).await?;
        self.platform.visible(&done).await;
        Ok(refresh_token)
    }

    fn issue(&self, subject: &Subject, session: &str, at: OffsetDateTime, end: OffsetDateTime) -> ApiResult<Issued> {
        Ok(self.platform.tokens.issue(subject, session, at, end)?)
    }

    /// The cookie that holds a token, `Set-Cookie`. Lax: pages of other sites cannot make it go with what they send.
    pub(super) fn cookie(&self, issued: &Issued) -> AppendHeaders<[(header::HeaderName, HeaderValue); 1]> {
        let age = (issued.expires_at - OffsetDateTime::now_utc()).whole_seconds().max(0);
        let secure = if self.platform.settings.cookie_secure { "; Secure" } else { "" };
        let text = format!("token={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}", issued.token);
        set_cookie(&text)
    }

    async fn end(&self, session: &str, reason: &str, caller: &Caller, scope: &RequestScope) -> ApiResult<()> {
        let command = RevokeSession { session_id: session.to_owned(), reason: reason.to_owned() };
        // One request may end several sessions: each has its own command.
        let first = scope.command_id(&caller.id);
        let id = CommandId::derived(first, &format!("revoke:{session}"));
        let (address, actor) = (aggregate(session)?, Actor::from(&**caller));
        let command = SessionCommand::from(command);
        self.platform.submit_as(id, &address, &command, &actor, scope, Consistency::Visible).await?;
        Ok(())
    }
}

fn set_cookie(text: &str) -> AppendHeaders<[(header::HeaderName, HeaderValue); 1]> {
    let value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("token="));
    AppendHeaders([(header::SET_COOKIE, value)])
}

pub(super) fn refresh_token(keys: &KeyRing, session: &str) -> Zeroizing<String> {
    let random = Zeroizing::new(BASE64URL.encode(Zeroizing::new(rand::random::<[u8; 32]>()).as_ref()));
    let mac = mac(keys, session, &random);
    Zeroizing::new(format!("{session}.{}.{mac}", *random))
}

fn mac(keys: &KeyRing, session: &str, random: &str) -> String {
    keys.lookup_hash("refresh-mac", &format!("{session}.{random}"))
}

/// The session of a refresh token that was ours.
pub(super) fn session_of<'t>(keys: &KeyRing, token: &'t str) -> Option<&'t str> {
    let mut parts = token.split('.');
    let (session, random, given) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && mac(keys, session, random) == given).then_some(session)
}

/// Log out: end the session and clear the cookie
#[utoipa::path(post, path = "/auth/logout", tag = "Authentication", security(()),
    responses((status = 200, description = "Logged out", body = Msg)))]
async fn logout(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Result<OptionalCaller, ApiError>,
) -> ApiResult<impl IntoResponse> {
    let caller = match caller {
        Ok(OptionalCaller(caller)) => caller,
        Err(error) if error.status() == StatusCode::SERVICE_UNAVAILABLE => return Err(error),
        // Whoever holds no good token is logged out.
        Err(_) => None,
    };
    if let Some((caller, session)) = caller.as_ref().and_then(|c| c.session_id.as_ref().map(|s| (c, s))) {
        identity.end(session, "logout", caller, &scope).await?;
    }
    let cleared = set_cookie("token=; Path=/; HttpOnly; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    Ok((cleared, Json(Msg { message: "Logged out" })))
}

/// Log out everywhere: end all sessions
#[utoipa::path(post, path = "/auth/logout-all", tag = "Authentication",
    responses((status = 200, description = "All sessions are ended", body = Msg)))]
async fn logout_all(State(identity): State<Identity>, scope: RequestScope, caller: Caller) -> ApiResult<Json<Msg>> {
    if caller.require_user().is_err() {
        let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
        let sessions = model::sessions_of(&mut tx, &caller.id, OffsetDateTime::now_utc()).await?;
        drop(tx);
        for session in sessions {
            identity.end(&session.id, "logout-all", &caller, &scope).await?;
        }
        return Ok(Json(Msg { message: "Logged out everywhere" }));
    }
    let command = RevokeAllSessions { user_id: caller.id.clone(), reason: "logout-all".to_owned() };
    let address = AggregateRef::new(Service::Identity, OrgId::global(), "user", &caller.id);
    let address = address.map_err(ApiError::internal)?;
    identity.platform.submit(&address, &UserCommand::from(command), &Actor::from(&*caller), &scope).await?;
    Ok(Json(Msg { message: "Logged out everywhere" }))
}

/// What may be refreshed with.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Refresh {
    /// The refresh token; it is replaced. Without it, a still valid access token of the request is exchanged.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<Zeroizing<String>>,
}

/// New tokens of a session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Refreshed {
    /// Always `user`.
    #[serde(rename = "type")]
    kind: &'static str,
    user: UserRef,
    /// The access token.
    token: String,
    /// The next refresh token; absent when an access token was exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// When the access token expires, in milliseconds since 1970.
    expires_at: i64,
}

/// Exchange a refresh token, or a still valid access token, for a new access token
///
/// A refresh token works once; presenting it again ends the session. An access token that is exchanged for another one does
/// not prolong the session.
#[utoipa::path(post, path = "/auth/refresh", tag = "Authentication", security(()), request_body = Refresh,
    responses((status = 200, description = "New tokens", body = Refreshed)))]
async fn refresh(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Result<OptionalCaller, ApiError>,
    Json(body): Json<Refresh>,
) -> ApiResult<Response> {
    let principal = caller.as_ref().ok().and_then(|caller| caller.0.as_ref());
    if let Some(answer) = identity.refreshed_agent(body.refresh_token.as_ref(), principal, &scope).await? {
        return Ok(answer);
    }
    let at = OffsetDateTime::now_utc();
    let (session_id, next) = match body.refresh_token {
        Some(token) => {
            let keys = &identity.platform.keys;
            let session_id = session_of(keys, &token).ok_or_else(ApiError::token_invalid)?.to_owned();
            let mut tx = identity.platform.read(&Scope::platform()).await?;
            // A client's gives tokens with its limits, elsewhere.
            if model::authorization_of(&mut tx, &session_id).await?.is_some() {
                return Err(ApiError::token_invalid());
            }
            drop(tx);
            let next = refresh_token(keys, &session_id);
            identity.exchange(&session_id, &token, &next, &scope).await?;
            (session_id, Some(next))
        }
        None => {
            let caller = caller?.0.ok_or_else(ApiError::auth_required)?;
            caller.require_user()?;
            (caller.session_id.clone().ok_or_else(ApiError::token_invalid)?, None)
        }
    };
    let mut tx = identity.platform.read(&Scope::platform()).await?;
    let session = model::session(&mut tx, &session_id).await?.filter(|session| !session.is_revoked());
    let session = session.ok_or_else(ApiError::session_revoked)?;
    let user = model::user(&mut tx, &session.principal_id).await?.ok_or_else(ApiError::session_revoked)?;
    drop(tx);
    let end = if next.is_some() { at + LIFETIME } else { session.expires_at.unwrap_or(at) };
    let subject = Subject::user(&user.id, user.email.as_deref(), user.name.as_deref());
    let issued = identity.issue(&subject, &session_id, at, end)?;
    let cookie = identity.cookie(&issued);
    let body = Refreshed {
        kind: "user",
        user: UserRef { id: user.id, email: user.email, name: user.name, is_super_admin: None, organizations: None },
        token: issued.token,
        refresh_token: next.map(|token| token.to_string()),
        expires_at: epoch_ms(issued.expires_at),
    };
    Ok((cookie, Json(body)).into_response())
}

impl Identity {
    pub(super) async fn exchange(
        &self,
        session: &str,
        presented: &str,
        next: &str,
        scope: &RequestScope,
    ) -> ApiResult<()> {
        let keys = &self.platform.keys;
        let command = SessionCommand::from(RefreshSession {
            session_id: session.to_owned(),
            presented_hash: keys.lookup_hash("refresh", presented),
            next_hash: keys.lookup_hash("refresh", next),
        });
        let edge = Actor::service("identity");
        let (id, address) = (CommandId::random(), aggregate(session)?);
        let done = self.platform.submit_as(id, &address, &command, &edge, scope, Consistency::Eventual).await;
        let done = done.map_err(|error| match error.code() {
            "NOT_FOUND" => ApiError::token_invalid(),
            "TOKEN_EXPIRED" => ApiError::token_expired(),
            _ => error,
        })?;
        self.platform.visible(&done).await;
        if done.has("session-reuse-detected") {
            tracing::warn!(session, "a refresh token was presented again: the session is ended");
            return Err(ApiError::session_revoked());
        }
        Ok(())
    }
}

/// The caller's sessions.
#[derive(Serialize, ToSchema)]
struct Sessions {
    sessions: Vec<Session>,
}

/// List the caller's live sessions
#[utoipa::path(get, path = "/auth/sessions", tag = "Authentication",
    responses((status = 200, description = "The newest first", body = Sessions)))]
async fn list(State(identity): State<Identity>, caller: Caller) -> ApiResult<Json<Sessions>> {
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let sessions = model::sessions_of(&mut tx, &caller.id, OffsetDateTime::now_utc()).await?;
    let current = caller.session_id.as_deref();
    Ok(Json(Sessions { sessions: sessions.into_iter().map(|s| shapes::Session::of(s, current)).collect() }))
}

/// End one of the caller's sessions
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "Authentication",
    params(("id" = String, Path, description = "Id of the session")),
    responses((status = 200, description = "Ended", body = Msg)))]
async fn revoke(
    State(identity): State<Identity>,
    scope: RequestScope,
    caller: Caller,
    Path(id): Path<String>,
) -> ApiResult<Json<Msg>> {
    let mut tx = identity.platform.read(&Scope::user(&caller.id)).await?;
    let session = model::session(&mut tx, &id).await?.filter(|s| s.principal_id == caller.id);
    let session = session.ok_or_else(|| ApiError::not_found("Session"))?;
    drop(tx);
    identity.end(&session.id, "revoked", &caller, &scope).await?;
    Ok(Json(Msg { message: "Session ended" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_is_told_from_garbage_that_names_a_session() {
        let keys = KeyRing::generate(OffsetDateTime::UNIX_EPOCH);
        let token = refresh_token(&keys, "s1");
        assert_eq!(session_of(&keys, &token), Some("s1"));
        assert_eq!(session_of(&keys, &token.replace("s1", "s2")), None);
        for garbage in ["", "s1", "s1.x.y", "s1..", &format!("{}.", *token)] {
            assert_eq!(session_of(&keys, garbage), None, "{garbage}");
        }
        assert_ne!(*token, *refresh_token(&keys, "s1"));
    }
}
