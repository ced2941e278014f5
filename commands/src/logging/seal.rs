//! The seals of one service's event stream: contiguous stretches, each closed with a Merkle root.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use serde::{Deserialize, Serialize};
use symbia_events::{
    Service,
    logging::{LogSealed, SealEvent},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{Actor, Aggregate, Decision, Rejection, domain_commands};

domain_commands! {
    /// What the seals of a stream can be asked to do. The aggregate's id is the service's name, its tenant `global`.
    SealCommand: Logging / "seal" {
        /// Closes the stretch that follows the last seal.
        SealLog = "symbia.cmd.logging.seal-log.v1" {
            service: String,
            from_sequence: u64,
            to_sequence: u64,
            /// Number of events in the stretch.
            events: u64,
            /// RFC 6962 root over the hashes of its events in stream order, base64url.
            root: String,
            /// RFC 3339: the end of the time that is sealed.
            sealed_through: String,
        }
    }
}

/// The seals of a service's stream: what the last one closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSeal {
    service: String,
    sealed_to: u64,
    root: String,
    sealed_through: String,
}

impl LogSeal {
    fn seal(&self, c: SealLog, by: &Actor) -> Result<Decision<SealEvent>, Rejection> {
        if !by.is_platform() {
            return Err(Rejection::forbidden("the log is sealed by the platform itself"));
        }
        if c.service.parse::<Service>().is_err() {
            return Err(Rejection::invalid(format!("there is no service '{}'", c.service)));
        }
        if !self.service.is_empty() && self.service != c.service {
            return Err(Rejection::invalid(format!("this seal is of {}, not of {}", self.service, c.service)));
        }
        let next = self.sealed_to + 1;
        if c.from_sequence != next {
            return Err(Rejection::new("NOT_CONTIGUOUS", format!("the next seal starts at sequence {next}")));
        }
        if c.to_sequence < c.from_sequence || c.events == 0 {
            return Err(Rejection::invalid("a seal closes at least one event"));
        }
        if BASE64URL.decode(&c.root).map(|root| root.len()) != Ok(32) {
            return Err(Rejection::invalid("the root is no base64url SHA-256 digest"));
        }
        let through =
            instant(&c.sealed_through).ok_or_else(|| Rejection::invalid("sealedThrough is no RFC 3339 time"))?;
        if instant(&self.sealed_through).is_some_and(|before| through < before) {
            return Err(Rejection::invalid(format!("time is sealed through {} already", self.sealed_through)));
        }
        Ok(Decision::one(LogSealed {
            service: c.service,
            from_sequence: c.from_sequence,
            to_sequence: c.to_sequence,
            events: c.events,
            root: c.root,
            previous_root: self.root.clone(),
            sealed_through: c.sealed_through,
        }))
    }
}

fn instant(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

impl Aggregate for LogSeal {
    const STATE_VERSION: u32 = 1;
    const ID_FIELD: Option<&'static str> = Some("service");
    type Command = SealCommand;
    type Event = SealEvent;

    fn apply(&mut self, event: &SealEvent) {
        let SealEvent::LogSealed(e) = event;
        self.service.clone_from(&e.service);
        self.sealed_to = e.to_sequence;
        self.root.clone_from(&e.root);
        self.sealed_through.clone_from(&e.sealed_through);
    }

    fn decide(&self, command: SealCommand, by: &Actor, _at: OffsetDateTime) -> Result<Decision<SealEvent>, Rejection> {
        let SealCommand::SealLog(c) = command;
        self.seal(c, by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::given;

    const ROOT: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

    fn seal(from_sequence: u64, to_sequence: u64) -> SealLog {
        SealLog {
            service: "identity".into(),
            from_sequence,
            to_sequence,
            events: 3,
            root: ROOT.into(),
            sealed_through: "2026-01-01T01:00:00Z".into(),
        }
    }

    fn sealed(from_sequence: u64, to_sequence: u64, previous_root: &str) -> SealEvent {
        LogSealed {
            service: "identity".into(),
            from_sequence,
            to_sequence,
            events: 3,
            root: ROOT.into(),
            previous_root: previous_root.into(),
            sealed_through: "2026-01-01T01:00:00Z".into(),
        }
        .into()
    }

    fn platform() -> Actor {
        Actor::system("sealer")
    }

    #[test]
    fn each_seal_follows_the_one_before() {
        given::<LogSeal>([]).when(seal(1, 9), &platform()).then([sealed(1, 9, "")]);
        given::<LogSeal>([sealed(1, 9, "")]).when(seal(10, 10), &platform()).then([sealed(10, 10, ROOT)]);
        given::<LogSeal>([sealed(1, 9, "")]).when(seal(11, 12), &platform()).rejected("NOT_CONTIGUOUS");
        given::<LogSeal>([sealed(1, 9, "")]).when(seal(1, 9), &platform()).rejected("NOT_CONTIGUOUS");
        given::<LogSeal>([]).when(seal(1, 0), &platform()).rejected("VALIDATION_FAILED");
    }

    #[test]
    fn only_the_platform_seals_and_only_what_makes_sense() {
        let person = Actor { kind: symbia_events::ActorType::User, super_admin: true, ..platform() };
        given::<LogSeal>([]).when(seal(1, 9), &person).rejected("FORBIDDEN");
        for broken in [
            SealLog { service: "billing".into(), ..seal(1, 9) },
            SealLog { root: "AAEC".into(), ..seal(1, 9) },
            SealLog { events: 0, ..seal(1, 9) },
            SealLog { sealed_through: "yesterday".into(), ..seal(1, 9) },
        ] {
            given::<LogSeal>([]).when(broken, &platform()).rejected("VALIDATION_FAILED");
        }
        let other = SealLog { service: "catalog".into(), ..seal(10, 12) };
        given::<LogSeal>([sealed(1, 9, "")]).when(other, &platform()).rejected("VALIDATION_FAILED");
        let earlier = SealLog { sealed_through: "2026-01-01T00:00:00Z".into(), ..seal(10, 12) };
        given::<LogSeal>([sealed(1, 9, "")]).when(earlier, &platform()).rejected("VALIDATION_FAILED");
    }
}
