//! The session aggregate: a refresh-token family with reuse detection (identity.md §15).

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    identity::{
        PrincipalSignedIn, SessionEvent, SessionRefreshed, SessionReuseDetected, SessionRevoked, SessionStarted,
    },
};
use time::{Duration, OffsetDateTime};

use super::instants::{instant, text};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// How long a session lasts without a refresh (identity.md §4.2).
pub const LIFETIME: Duration = Duration::days(7);

domain_commands! {
    /// What a session can be asked to do.
    SessionCommand: Identity / "session" {
        /// Begins, after the edge has checked the principal's secret.
        StartSession = "symbia.cmd.identity.start-session.v1" {
            session_id: String,
            principal_id: String,
            principal_type: String,
            method: String,
            refresh_hash: String,
            #[serde(default)]
            client_ip: Option<Personal>,
            #[serde(default)]
            user_agent: Option<Personal>,
            /// When the secret was looked at (RFC 3339).
            #[serde(default)]
            authenticated_at: Option<String>,
        }
        /// Exchanges the refresh token.
        RefreshSession = "symbia.cmd.identity.refresh-session.v1" {
            session_id: String,
            presented_hash: String,
            next_hash: String,
        }
        /// Ends it.
        RevokeSession = "symbia.cmd.identity.revoke-session.v1" { session_id: String, reason: String }
    }
}

/// A session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    session_id: String,
    principal_id: String,
    refresh_hash: String,
    generation: u32,
    expires_at: Option<OffsetDateTime>,
    revoked: bool,
}

impl Session {
    fn live(&self, at: OffsetDateTime) -> Result<(), Rejection> {
        if self.session_id.is_empty() {
            return Err(Rejection::not_found("session"));
        }
        if self.revoked {
            return Err(Rejection::new("SESSION_REVOKED", "the session has ended: sign in again"));
        }
        if self.expires_at.is_some_and(|end| end <= at) {
            return Err(Rejection::new("TOKEN_EXPIRED", "the session has expired: sign in again"));
        }
        Ok(())
    }

    fn start(&self, c: StartSession, by: &Actor, at: OffsetDateTime) -> Result<Decision<SessionEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("sessions are started by the identity service"));
        }
        if !self.session_id.is_empty() {
            return Err(Rejection::new("CONFLICT", "this session id is in use"));
        }
        let signed_in = PrincipalSignedIn {
            principal_id: c.principal_id.clone(),
            principal_type: c.principal_type,
            method: c.method,
            client_ip: c.client_ip,
            user_agent: c.user_agent,
            authenticated_at: c.authenticated_at,
        };
        Ok(Decision::one(signed_in).and(SessionStarted {
            session_id: c.session_id,
            principal_id: c.principal_id,
            refresh_hash: c.refresh_hash,
            expires_at: text(at + LIFETIME),
        }))
    }

    fn refresh(&self, c: RefreshSession, by: &Actor, at: OffsetDateTime) -> Result<Decision<SessionEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("sessions are refreshed by the identity service"));
        }
        self.live(at)?;
        if c.presented_hash == self.refresh_hash {
            return Ok(Decision::one(SessionRefreshed {
                session_id: c.session_id,
                refresh_hash: c.next_hash,
                generation: self.generation + 1,
                expires_at: text(at + LIFETIME),
            }));
        }
        // Somebody holds an old token of the family: end the family (RFC 9700 §4.14).
        let reuse = SessionReuseDetected { session_id: c.session_id.clone(), generation: self.generation };
        Ok(Decision::one(reuse).and(SessionRevoked {
            session_id: c.session_id,
            principal_id: self.principal_id.clone(),
            by: by.id.clone(),
            reason: "refresh-token-reuse".to_owned(),
        }))
    }

    fn revoke(&self, c: RevokeSession, by: &Actor) -> Result<Decision<SessionEvent>, Rejection> {
        let theirs = by.is_platform() || by.super_admin || by.id == self.principal_id;
        if self.session_id.is_empty() || !theirs {
            return Err(Rejection::not_found("session"));
        }
        if self.revoked {
            return Ok(Decision::nothing());
        }
        Ok(Decision::one(SessionRevoked {
            session_id: c.session_id,
            principal_id: self.principal_id.clone(),
            by: by.id.clone(),
            reason: c.reason,
        }))
    }
}

impl Aggregate for Session {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("sessionId");
    type Command = SessionCommand;
    type Event = SessionEvent;

    fn begins(command: &SessionCommand) -> bool {
        matches!(command, SessionCommand::StartSession(_))
    }

    fn apply(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::PrincipalSignedIn(_) | SessionEvent::SessionReuseDetected(_) => {}
            SessionEvent::SessionStarted(e) => {
                self.session_id.clone_from(&e.session_id);
                self.principal_id.clone_from(&e.principal_id);
                self.refresh_hash.clone_from(&e.refresh_hash);
                self.expires_at = instant(&e.expires_at);
            }
            SessionEvent::SessionRefreshed(e) => {
                self.refresh_hash.clone_from(&e.refresh_hash);
                self.generation = e.generation;
                self.expires_at = instant(&e.expires_at);
            }
            SessionEvent::SessionRevoked(_) => self.revoked = true,
        }
    }

    fn decide(
        &self,
        command: SessionCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<SessionEvent>, Rejection> {
        match command {
            SessionCommand::StartSession(c) => self.start(c, by, at),
            SessionCommand::RefreshSession(c) => self.refresh(c, by, at),
            SessionCommand::RevokeSession(c) => self.revoke(c, by),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AT, given};

    fn started() -> SessionEvent {
        SessionStarted {
            session_id: "s1".into(),
            principal_id: "ada".into(),
            refresh_hash: "first".into(),
            expires_at: text(AT + LIFETIME),
        }
        .into()
    }

    fn refresh(presented: &str) -> RefreshSession {
        RefreshSession { session_id: "s1".into(), presented_hash: presented.into(), next_hash: "next".into() }
    }

    #[test]
    fn a_refresh_token_works_once_and_its_reuse_ends_the_family() {
        let edge = Actor::service("identity");
        let refreshed = SessionRefreshed {
            session_id: "s1".into(),
            refresh_hash: "next".into(),
            generation: 1,
            expires_at: text(AT + LIFETIME),
        };
        given::<Session>([started()]).when(refresh("first"), &edge).then([refreshed.clone().into()]);
        let revoked = SessionRevoked {
            session_id: "s1".into(),
            principal_id: "ada".into(),
            by: "service:identity".into(),
            reason: "refresh-token-reuse".into(),
        };
        given::<Session>([started(), refreshed.into()])
            .when(refresh("first"), &edge)
            .then([SessionReuseDetected { session_id: "s1".into(), generation: 1 }.into(), revoked.clone().into()]);
        given::<Session>([started(), revoked.into()]).when(refresh("first"), &edge).rejected("SESSION_REVOKED");
    }

    #[test]
    fn a_stranger_cannot_end_or_even_see_a_session() {
        let stranger = Actor { id: "eve".into(), kind: symbia_events::ActorType::User, ..Actor::service("x") };
        let revoke = RevokeSession { session_id: "s1".into(), reason: "logout".into() };
        given::<Session>([started()]).when(revoke, &stranger).rejected("NOT_FOUND");
    }
}
