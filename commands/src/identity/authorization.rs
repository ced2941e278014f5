//! The authorization aggregate: a code that works once, for the client, the address and the verifier it was made for.

use serde::{Deserialize, Serialize};
use symbia_events::identity::{
    AuthorizationEvent, AuthorizationGranted, AuthorizationRedeemed, AuthorizationReuseDetected,
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::is_scope;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// How long a code works (RFC 6749 §4.1.2 allows ten minutes).
pub const CODE_LIFETIME: Duration = Duration::seconds(60);

domain_commands! {
    /// What an authorization can be asked to do.
    AuthorizationCommand: Identity / "authorization" {
        /// The person agrees.
        GrantAuthorization = "symbia.cmd.identity.grant-authorization.v1" {
            authorization_id: String,
            user_id: String,
            client_id: String,
            redirect_uri: String,
            code_hash: String,
            code_challenge: String,
            scopes: Vec<String>,
            resource: String,
        }
        /// The client presents the code.
        RedeemCode = "symbia.cmd.identity.redeem-code.v1" {
            authorization_id: String,
            code_hash: String,
            client_id: String,
            redirect_uri: String,
            /// S256 of the verifier that it presents.
            code_challenge: String,
            session_id: String,
        }
    }
}

/// An authorization.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Authorization {
    granted: Option<Granted>,
    session_id: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Granted {
    code_hash: String,
    client_id: String,
    redirect_uri: String,
    code_challenge: String,
    expires_at: Option<OffsetDateTime>,
}

impl Authorization {
    fn redeem(&self, c: RedeemCode, at: OffsetDateTime) -> Result<Decision<AuthorizationEvent>, Rejection> {
        let invalid = || Rejection::new("CODE_INVALID", "the code is not valid, was used, or is too old");
        let granted = self.granted.as_ref().filter(|g| g.code_hash == c.code_hash).ok_or_else(invalid)?;
        if let Some(session_id) = self.session_id.clone() {
            let authorization_id = c.authorization_id;
            return Ok(Decision::one(AuthorizationReuseDetected { authorization_id, session_id }));
        }
        let fits = granted.client_id == c.client_id
            && granted.redirect_uri == c.redirect_uri
            && granted.code_challenge == c.code_challenge
            && granted.expires_at.is_some_and(|end| end > at);
        if !fits {
            return Err(invalid());
        }
        let (authorization_id, session_id) = (c.authorization_id, c.session_id);
        Ok(Decision::one(AuthorizationRedeemed { authorization_id, session_id }))
    }
}

impl Aggregate for Authorization {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("authorizationId");
    type Command = AuthorizationCommand;
    type Event = AuthorizationEvent;

    fn apply(&mut self, event: &AuthorizationEvent) {
        match event {
            AuthorizationEvent::AuthorizationGranted(e) => {
                self.granted = Some(Granted {
                    code_hash: e.code_hash.clone(),
                    client_id: e.client_id.clone(),
                    redirect_uri: e.redirect_uri.clone(),
                    code_challenge: e.code_challenge.clone(),
                    expires_at: OffsetDateTime::parse(&e.expires_at, &Rfc3339).ok(),
                });
            }
            AuthorizationEvent::AuthorizationRedeemed(e) => self.session_id = Some(e.session_id.clone()),
            AuthorizationEvent::AuthorizationReuseDetected(_) => {}
        }
    }

    fn decide(
        &self,
        command: AuthorizationCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<AuthorizationEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("codes are given out and taken by the identity service"));
        }
        match command {
            AuthorizationCommand::GrantAuthorization(c) => {
                if self.granted.is_some() {
                    return Err(Rejection::new("CONFLICT", "this authorization id is in use"));
                }
                if c.code_challenge.len() != 43 || c.scopes.is_empty() || !c.scopes.iter().all(|s| is_scope(s)) {
                    return Err(Rejection::invalid("an S256 challenge, and scopes that exist"));
                }
                Ok(Decision::one(AuthorizationGranted {
                    authorization_id: c.authorization_id,
                    user_id: c.user_id,
                    client_id: c.client_id,
                    redirect_uri: c.redirect_uri,
                    code_hash: c.code_hash,
                    code_challenge: c.code_challenge,
                    scopes: c.scopes,
                    resource: c.resource,
                    expires_at: (at + CODE_LIFETIME).format(&Rfc3339).unwrap_or_default(),
                }))
            }
            AuthorizationCommand::RedeemCode(c) => self.redeem(c, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AT, given};

    fn granted(lives: Duration) -> AuthorizationEvent {
        AuthorizationGranted {
            authorization_id: "z1".into(),
            user_id: "ada".into(),
            client_id: "https://app.example/client".into(),
            redirect_uri: "https://app.example/back".into(),
            code_hash: "code".into(),
            code_challenge: "c".repeat(43),
            scopes: vec!["cap:identity.read".into()],
            resource: "symbia".into(),
            expires_at: (AT + lives).format(&Rfc3339).unwrap(),
        }
        .into()
    }

    fn redeem() -> RedeemCode {
        RedeemCode {
            authorization_id: "z1".into(),
            code_hash: "code".into(),
            client_id: "https://app.example/client".into(),
            redirect_uri: "https://app.example/back".into(),
            code_challenge: "c".repeat(43),
            session_id: "s1".into(),
        }
    }

    #[test]
    fn a_code_works_once_for_whom_and_what_it_was_made_and_its_reuse_is_told() {
        let edge = Actor::service("identity");
        let redeemed = AuthorizationRedeemed { authorization_id: "z1".into(), session_id: "s1".into() };
        given::<Authorization>([granted(CODE_LIFETIME)]).when(redeem(), &edge).then([redeemed.clone().into()]);
        for wrong in [
            RedeemCode { code_hash: "other".into(), ..redeem() },
            RedeemCode { client_id: "https://evil.example/".into(), ..redeem() },
            RedeemCode { redirect_uri: "https://evil.example/".into(), ..redeem() },
            RedeemCode { code_challenge: "d".repeat(43), ..redeem() },
        ] {
            given::<Authorization>([granted(CODE_LIFETIME)]).when(wrong, &edge).rejected("CODE_INVALID");
        }
        given::<Authorization>([granted(Duration::ZERO)]).when(redeem(), &edge).rejected("CODE_INVALID");
        given::<Authorization>([]).when(redeem(), &edge).rejected("CODE_INVALID");
        let reuse = AuthorizationReuseDetected { authorization_id: "z1".into(), session_id: "s1".into() };
        given::<Authorization>([granted(CODE_LIFETIME), redeemed.into()])
            .when(RedeemCode { session_id: "s2".into(), ..redeem() }, &edge)
            .then([reuse.into()]);
        let person = Actor { kind: symbia_events::ActorType::User, ..edge };
        given::<Authorization>([granted(CODE_LIFETIME)]).when(redeem(), &person).rejected("FORBIDDEN");
    }
}
