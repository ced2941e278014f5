//! The signing keys of access tokens: at most one signs, the others verify what they signed (identity.md §15, 16.1).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use symbia_events::identity::{PublicJwk, SigningKeyActivated, SigningKeyEvent, SigningKeyRetired};
use time::OffsetDateTime;

use super::LIFETIME;
use super::instants::text;
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// Id of the one aggregate.
pub const SIGNING_KEYS: &str = "tokens";

domain_commands! {
    /// What can be asked of the signing keys.
    SigningKeyCommand: Identity / "signing-key" {
        /// Another key signs from now on.
        RotateSigningKey = "symbia.cmd.identity.rotate-signing-key.v1" {
            kid: String,
            alg: String,
            public_jwk: PublicJwk,
            private_key_ref: String,
            /// The key that the sender believes active; none for the first.
            #[serde(default)]
            replaces: Option<String>,
            /// The replaced key has leaked: what it signed is refused at once.
            #[serde(default)]
            compromised: bool,
        }
    }
}

/// The signing keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SigningKeys {
    active: Option<String>,
    kids: BTreeSet<String>,
}

impl Aggregate for SigningKeys {
    const STATE_VERSION: u32 = 1;
    type Command = SigningKeyCommand;
    type Event = SigningKeyEvent;

    fn apply(&mut self, event: &SigningKeyEvent) {
        match event {
            SigningKeyEvent::SigningKeyActivated(e) => {
                self.kids.insert(e.kid.clone());
                self.active = Some(e.kid.clone());
            }
            SigningKeyEvent::SigningKeyRetired(e) => {
                self.active.take_if(|kid| *kid == e.kid);
            }
        }
    }

    fn decide(
        &self,
        command: SigningKeyCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<SigningKeyEvent>, Rejection> {
        let SigningKeyCommand::RotateSigningKey(c) = command;
        if !by.is_platform() && !by.super_admin {
            return Err(Rejection::forbidden("signing keys are changed by the identity service or a super admin"));
        }
        if c.alg != "EdDSA" || c.public_jwk.kty != "OKP" || c.public_jwk.crv != "Ed25519" || c.kid.is_empty() {
            return Err(Rejection::invalid("only Ed25519 keys with an id sign tokens"));
        }
        if self.active != c.replaces {
            return Err(Rejection::new("CONFLICT", "another key has become active meanwhile"));
        }
        if self.kids.contains(&c.kid) {
            return Err(Rejection::new("CONFLICT", "this key was active before: make a new one"));
        }
        let activated = SigningKeyActivated {
            kid: c.kid,
            alg: c.alg,
            public_jwk: c.public_jwk,
            private_key_ref: c.private_key_ref,
            not_before: text(at),
        };
        let Some(kid) = self.active.clone() else { return Ok(Decision::one(activated)) };
        let verify_until = if c.compromised { at } else { at + LIFETIME };
        let retired = SigningKeyRetired { kid, retired_at: text(at), verify_until: text(verify_until) };
        Ok(Decision::one(retired).and(activated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AT, given};

    fn rotate(kid: &str, replaces: Option<&str>) -> RotateSigningKey {
        RotateSigningKey {
            kid: kid.into(),
            alg: "EdDSA".into(),
            public_jwk: PublicJwk { kty: "OKP".into(), crv: "Ed25519".into(), x: "AAAA".into() },
            private_key_ref: format!("signing-key:{kid}"),
            replaces: replaces.map(str::to_owned),
            compromised: false,
        }
    }

    fn activated(kid: &str) -> SigningKeyActivated {
        let command = rotate(kid, None);
        SigningKeyActivated {
            kid: command.kid,
            alg: command.alg,
            public_jwk: command.public_jwk,
            private_key_ref: command.private_key_ref,
            not_before: text(AT),
        }
    }

    fn retired(kid: &str, verify_until: OffsetDateTime) -> SigningKeyRetired {
        SigningKeyRetired { kid: kid.into(), retired_at: text(AT), verify_until: text(verify_until) }
    }

    #[test]
    fn one_key_signs_and_the_one_before_verifies_for_as_long_as_its_tokens_last() {
        let edge = Actor::service("identity");
        given::<SigningKeys>([]).when(rotate("a", None), &edge).then([activated("a").into()]);
        given::<SigningKeys>([activated("a").into()])
            .when(rotate("b", Some("a")), &edge)
            .then([retired("a", AT + LIFETIME).into(), activated("b").into()]);
        let leaked = RotateSigningKey { compromised: true, ..rotate("b", Some("a")) };
        given::<SigningKeys>([activated("a").into()])
            .when(leaked, &edge)
            .then([retired("a", AT).into(), activated("b").into()]);
    }

    #[test]
    fn of_two_that_make_a_key_at_once_one_wins_and_no_key_comes_back() {
        let edge = Actor::service("identity");
        let history = || [activated("a").into()];
        given::<SigningKeys>(history()).when(rotate("b", None), &edge).rejected("CONFLICT");
        given::<SigningKeys>(history()).when(rotate("a", Some("a")), &edge).rejected("CONFLICT");
        let person = Actor { kind: symbia_events::ActorType::User, ..edge.clone() };
        given::<SigningKeys>(history()).when(rotate("b", Some("a")), &person).rejected("FORBIDDEN");
        let other = RotateSigningKey { alg: "HS256".into(), ..rotate("b", Some("a")) };
        given::<SigningKeys>(history()).when(other, &edge).rejected("VALIDATION_FAILED");
    }
}
