//! Attempts to sign in, per identifier: after too many failures nobody gets in for a while (identity.md §16.3).
//!
//! Identifiers that belong to no account are treated alike, so that being blocked tells nothing about an account.

use serde::{Deserialize, Serialize};
use symbia_events::{
    Personal,
    identity::{SignInBlocked, SignInEvent, SignInFailed, SignInUnblocked},
};
use time::{Duration, OffsetDateTime};

use super::instants::{instant, text};
use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

/// So many failures within [`WINDOW`] block.
pub const FAILURES: usize = 10;
/// Failures that lie further back are forgotten.
pub const WINDOW: Duration = Duration::minutes(15);
/// How long a block lasts.
pub const BLOCK: Duration = Duration::minutes(15);

domain_commands! {
    /// What is told of attempts to sign in.
    SignInCommand: Identity / "sign-in" {
        /// One failed.
        RecordFailedSignIn = "symbia.cmd.identity.record-failed-sign-in.v1" {
            identifier_key: String,
            reason: String,
            #[serde(default)]
            client_ip: Option<Personal>,
        }
        /// The owner proved themselves in another way.
        ForgiveFailedSignIns = "symbia.cmd.identity.forgive-failed-sign-ins.v1" { identifier_key: String }
    }
}

/// The attempts under one identifier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SignInAttempts {
    failures: Vec<OffsetDateTime>,
    blocked_until: Option<OffsetDateTime>,
}

impl Aggregate for SignInAttempts {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("identifierKey");
    type Command = SignInCommand;
    type Event = SignInEvent;

    fn apply(&mut self, event: &SignInEvent) {
        match event {
            SignInEvent::SignInFailed(e) => {
                let Some(at) = instant(&e.failed_at) else { return };
                self.failures.retain(|failure| *failure > at - WINDOW);
                self.failures.push(at);
            }
            SignInEvent::SignInBlocked(e) => {
                self.failures.clear();
                self.blocked_until = instant(&e.until);
            }
            SignInEvent::SignInUnblocked(_) => *self = Self::default(),
        }
    }

    fn decide(
        &self,
        command: SignInCommand,
        by: &Actor,
        at: OffsetDateTime,
    ) -> Result<Decision<SignInEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("attempts to sign in are recorded by the identity service"));
        }
        match command {
            SignInCommand::RecordFailedSignIn(c) => {
                let failed = SignInFailed {
                    identifier_key: c.identifier_key.clone(),
                    reason: c.reason,
                    client_ip: c.client_ip,
                    failed_at: text(at),
                };
                let failures = 1 + self.failures.iter().filter(|failure| **failure > at - WINDOW).count();
                if failures < FAILURES || self.blocked_until.is_some_and(|until| until > at) {
                    return Ok(Decision::one(failed));
                }
                Ok(Decision::one(failed).and(SignInBlocked {
                    identifier_key: c.identifier_key,
                    failures: u32::try_from(failures).unwrap_or(u32::MAX),
                    until: text(at + BLOCK),
                }))
            }
            SignInCommand::ForgiveFailedSignIns(c) => {
                if self.failures.is_empty() && self.blocked_until.is_none_or(|until| until <= at) {
                    return Ok(Decision::nothing());
                }
                Ok(Decision::one(SignInUnblocked { identifier_key: c.identifier_key }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{AT, given};

    fn failed(at: OffsetDateTime) -> SignInEvent {
        SignInFailed { identifier_key: "k".into(), reason: "password".into(), client_ip: None, failed_at: text(at) }
            .into()
    }

    fn record() -> RecordFailedSignIn {
        RecordFailedSignIn { identifier_key: "k".into(), reason: "password".into(), client_ip: None }
    }

    #[test]
    fn the_tenth_failure_within_the_window_blocks_and_older_ones_are_forgotten() {
        let edge = Actor::service("identity");
        let blocked = SignInBlocked { identifier_key: "k".into(), failures: 10, until: text(AT + BLOCK) };
        let nine = |first: OffsetDateTime| (0..9).map(move |n| failed(first + Duration::seconds(n)));
        given::<SignInAttempts>(nine(AT - Duration::minutes(1)))
            .when(record(), &edge)
            .then([failed(AT), blocked.clone().into()]);
        given::<SignInAttempts>(nine(AT - WINDOW)).when(record(), &edge).then([failed(AT)]);
        let during =
            nine(AT - Duration::minutes(1)).chain([blocked.clone().into()]).chain(nine(AT - Duration::seconds(9)));
        given::<SignInAttempts>(during).when(record(), &edge).then([failed(AT)]);
        let forgive = ForgiveFailedSignIns { identifier_key: "k".into() };
        given::<SignInAttempts>([blocked.into()])
            .when(forgive.clone(), &edge)
            .then([SignInUnblocked { identifier_key: "k".into() }.into()]);
        given::<SignInAttempts>([]).when(forgive, &edge).then([]);
    }

    #[test]
    fn nobody_else_blocks_an_identifier() {
        let person = Actor { kind: symbia_events::ActorType::User, ..Actor::service("x") };
        given::<SignInAttempts>([]).when(record(), &person).rejected("FORBIDDEN");
    }
}
